//! Certificates, keys and authorities from where they usually lie.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{ArgMatches, Args, Command};
use dominator_pki::files::{IdentityPath, RevocationPaths, TrustPaths};
use dominator_pki::keystore::{self, AUTHORITIES, CredentialPaths, IDENTITY_AUTHORITIES, IdentityFile};
use dominator_pki::{Credentials, PkiError, StalePolicy, Trust};

use crate::failure::chain;
use crate::logging::Proof;

/// Where lists of revoked certificates usually are.
const REVOCATION_LIST: &str = "/etc/ssl/CRL.pem";
/// Where the list of those who are denied usually is.
const DENY_LIST: &str = "/etc/ssl/deny-list";

/// Which certificate to show and whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Certificates")]
pub struct TlsOptions {
    /// The certificate to show, PEM
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// The authorities whose certificates are believed in full, PEM
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The authorities believed in who somebody is, but not in what they may do, PEM [default:
    /// /etc/ssl/IdentityCA.pem, if it is there]
    #[arg(long, value_name = "FILE")]
    pub identity_ca_file: Option<PathBuf>,
    /// A file of lists of revoked certificates, PEM or DER; may be given several times [default: /etc/ssl/CRL.pem, if it
    /// is there]
    #[arg(long, value_name = "FILE")]
    pub crl: Vec<PathBuf>,
    /// A file of serial numbers, users, and nodes that are not believed, whatever authorities say [default:
    /// /etc/ssl/deny-list, if it is there]
    #[arg(long, value_name = "FILE")]
    pub deny_list: Option<PathBuf>,
    /// What is still allowed while a list of revoked certificates is not current: open (everything), closed-for-changes
    /// (what changes nothing), or closed
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub crl_stale: StalePolicy,
    /// Believe agents only whose certificates name the host that is dialled; without this, one that names no host is good
    /// for every machine
    #[arg(long)]
    pub require_machine_identity: bool,
    /// Act as an ordinary user, whatever the certificate lists: what is public, and what is one's own
    #[arg(long)]
    pub do_not_use_my_powers: bool,
    /// DANGER: plain TCP, where nobody proves who he is and everybody may do everything; to and from this machine's own
    /// addresses only
    #[arg(long)]
    pub danger_permit_insecure: bool,
}

/// Who we are and whom we believe.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    /// Our certificate and key.
    pub credentials: Credentials,
    /// The authorities, without those they or we take back.
    pub trust: Trust,
}

impl TlsOptions {
    /// Where daemon `name` finds everything.
    pub fn daemon_paths(&self, name: &str) -> TrustPaths {
        TrustPaths {
            credentials: self.paths().unwrap_or_else(|| CredentialPaths::daemon(name)),
            authorities: self.ca_file.clone().unwrap_or_else(|| AUTHORITIES.into()),
            identity: match &self.identity_ca_file {
                Some(path) => IdentityPath::At(path.clone()),
                None => IdentityPath::IfPresent(IDENTITY_AUTHORITIES.into()),
            },
            revocation: self.revocation(),
        }
    }

    /// The files of [`Self::daemon_paths`], which need not all be there.
    pub fn daemon_files(&self, name: &str) -> Vec<PathBuf> {
        let TrustPaths { credentials, authorities, identity, revocation } = self.daemon_paths(name);
        let identity = match identity {
            IdentityPath::None => None,
            IdentityPath::IfPresent(path) | IdentityPath::At(path) => Some(path),
        };
        let all = [credentials.certificate, credentials.key, authorities].into_iter().chain(identity);
        all.chain(revocation.lists).chain(revocation.denied).collect()
    }

    fn revocation(&self) -> RevocationPaths {
        let usual = || vec![PathBuf::from(REVOCATION_LIST)];
        let lists = if self.crl.is_empty() { usual() } else { self.crl.clone() };
        let denied = self.deny_list.clone().unwrap_or_else(|| DENY_LIST.into());
        let mut optional = Vec::new();
        if self.crl.is_empty() {
            optional.extend(usual());
        }
        if self.deny_list.is_none() {
            optional.push(denied.clone());
        }
        RevocationPaths { lists, denied: Some(denied), optional }
    }

    /// Whether anybody has to prove who he is.
    pub const fn proof(&self) -> Proof {
        if self.danger_permit_insecure { Proof::Waived } else { Proof::Demanded }
    }

    /// The same, by the words on a tool's command line.
    pub(crate) fn proof_of_tool(matches: &ArgMatches) -> Proof {
        // There are tools that connect to nobody, and have no such flag.
        match matches.try_get_one("danger_permit_insecure") {
            Ok(Some(true)) => Proof::Waived,
            Ok(_) | Err(_) => Proof::Demanded,
        }
    }

    /// Loads what a tool needs: the files named, else the best certificate in `~/.ssl`.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn load_tool(&self) -> Result<TlsIdentity, PkiError> {
        let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        let credentials = match self.paths() {
            Some(paths) => keystore::load(&paths, SystemTime::now())?,
            None => best_of(&home)?,
        };
        let own = home.join(".ssl/CA.pem");
        let usual = if own.exists() { own } else { AUTHORITIES.into() };
        let trust = self.trust(self.ca_file.as_deref().unwrap_or(&usual))?;
        let (trust, problems) = self.revocation().load(trust)?;
        for problem in &problems {
            tracing::warn!("passed over: {}", chain(problem));
        }
        Ok(TlsIdentity { credentials, trust })
    }

    /// Says in the help of daemon `name` where it looks.
    pub(crate) fn help_of_daemon(name: &str, command: Command) -> Command {
        // A daemon that uses none of its powers does nothing.
        let command = command.mut_arg("do_not_use_my_powers", |argument| argument.hide(true));
        let CredentialPaths { certificate, key } = CredentialPaths::daemon(name);
        let usual = [
            ("cert_file", certificate.display().to_string()),
            ("key_file", key.display().to_string()),
            ("ca_file", AUTHORITIES.into()),
        ];
        told(command, usual)
    }

    /// Says in the help of a tool where it looks.
    pub(crate) fn help_of_tool(command: Command) -> Command {
        let usual = [
            ("cert_file", "the best X.cert or X.pem in ~/.ssl".into()),
            ("key_file", "X.key or X.key.pem beside it".into()),
            ("ca_file", format!("~/.ssl/CA.pem if it is there, else {AUTHORITIES}")),
        ];
        told(command, usual)
    }

    fn paths(&self) -> Option<CredentialPaths> {
        let (certificate, key) = self.cert_file.clone().zip(self.key_file.clone())?;
        Some(CredentialPaths { certificate, key })
    }

    fn trust(&self, authorities: &Path) -> Result<Trust, PkiError> {
        let identity = match &self.identity_ca_file {
            Some(path) => IdentityFile::At(path),
            None => IdentityFile::IfPresent(Path::new(IDENTITY_AUTHORITIES)),
        };
        keystore::load_trust(authorities, identity)
    }
}

fn told<const N: usize>(command: Command, usual: [(&str, String); N]) -> Command {
    usual.into_iter().fold(command, |command, (flag, place)| {
        command.mut_arg(flag, |argument| {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            argument.help(format!("{help} [default: {place}]"))
        })
    })
}

fn best_of(home: &Path) -> Result<Credentials, PkiError> {
    let directory = home.join(".ssl");
    if !directory.is_dir() {
        return Err(PkiError::NoUserCertificate { directory });
    }
    let mut store = keystore::load_user(home, SystemTime::now())?;
    for refused in &store.refused {
        tracing::warn!("passed over: {}", chain(refused));
    }
    Ok(store.credentials.swap_remove(0))
}

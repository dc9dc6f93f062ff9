//! Certificates, keys and authorities from where they usually lie.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Command};
use dominator_pki::keystore::{self, AUTHORITIES, CredentialPaths, IDENTITY_AUTHORITIES, IdentityFile};
use dominator_pki::{Credentials, PkiError, Trust};

use crate::failure::chain;

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
}

/// Who we are and whom we believe.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    /// Our certificate and key.
    pub credentials: Credentials,
    /// The authorities.
    pub trust: Trust,
}

impl TlsOptions {
    /// Loads what daemon `name` needs.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn load_daemon(&self, name: &str) -> Result<TlsIdentity, PkiError> {
        let credentials = keystore::load(&self.daemon_paths(name), SystemTime::now())?;
        if let Some(exposed) = credentials.exposed() {
            tracing::warn!("{exposed}");
        }
        let [authorities, _] = self.daemon_authorities();
        Ok(TlsIdentity { credentials, trust: self.trust(&authorities)? })
    }

    /// Where daemon `name` finds its certificate and key.
    pub fn daemon_paths(&self, name: &str) -> CredentialPaths {
        self.paths().unwrap_or_else(|| CredentialPaths::daemon(name))
    }

    /// Where a daemon finds whom to believe: files that need not be there yet.
    pub fn daemon_authorities(&self) -> [PathBuf; 2] {
        let identity = self.identity_ca_file.clone().unwrap_or_else(|| IDENTITY_AUTHORITIES.into());
        [self.ca_file.clone().unwrap_or_else(|| AUTHORITIES.into()), identity]
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
        Ok(TlsIdentity { credentials, trust: self.trust(self.ca_file.as_deref().unwrap_or(&usual))? })
    }

    /// Says in the help of daemon `name` where it looks.
    pub(crate) fn help_of_daemon(name: &str, command: Command) -> Command {
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

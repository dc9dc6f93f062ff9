//! What may be asked for, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args as Options, CommandFactory, Parser, Subcommand, value_parser};
use dominator_core::auth::{NodeId, Role, Scope};
use dominator_pki::ca::{DEFAULT_CRL_DAYS, DEFAULT_DAYS, KeyKind, MAX_DAYS, Reason};
use dominator_pki::keystore::Existing;
use dominator_pki::{AlternativeName, Granted, Serial};
use make_cert::{AuthorityOrder, Order, RevocationOrder, SerialChoice, Signer};

/// Makes a certificate that says who its holder is and which methods it may call.
///
/// Writes NEWKEY.pem, for everybody to read, and NEWKEY.key.pem, for you alone. A NEWKEY.key.pem that exists is used
/// again, so that a certificate can be renewed for the same key (with --force, as NEWKEY.pem exists then, too). What an
/// intermediate authority signs has the intermediate's certificate behind it in the same file.
#[derive(Debug, Parser)]
#[command(
    version,
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The authority that signs: X for X.pem and X.key.pem, or X.cert and X.key
    #[arg(value_name = "SIGNING-KEY", required_unless_present = "new_ca")]
    signer: Option<PathBuf>,
    /// Where the certificate goes: Y for Y.pem and Y.key.pem
    #[arg(value_name = "NEWKEY", required_unless_present = "new_ca")]
    stem: Option<PathBuf>,
    /// The serial number, decimal; AUTO counts in SIGNING-KEY.serial
    #[arg(value_name = "SERIAL|AUTO", required_unless_present = "new_ca")]
    serial: Option<SerialChoice>,
    /// The user name. A daemon's name (subd, dominator, imageserver, imaginator, filegen-server, mdbd,
    /// disruption-manager) gives the certificate that role as a server
    #[arg(value_name = "USER", required_unless_present = "new_ca")]
    user: Option<String>,
    /// What it may call: a file with a method a line, or a comma-separated list, with shell patterns on both sides of
    /// the dot (Subd.Poll, ImageServer.*, *.*); '' or nothing grants nothing
    #[arg(default_value = "", hide_default_value = true)]
    methods: String,

    /// How many days it is valid
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DAYS, value_parser = value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    days: u32,
    /// A group the user belongs to; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A host name or address; may be repeated. A server with such a certificate is believed under these names only
    #[arg(long = "san", value_name = "DNS-OR-IP", value_parser = name)]
    names: Vec<AlternativeName>,
    /// The role to play as a server, when the user name is not already a daemon's
    #[arg(long, value_parser = role)]
    role: Option<Role>,
    /// The id of the one machine, or the one instance of a daemon, that the certificate is made for
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// Grant the methods for machines with this tag only; may be repeated: of values of one key the machine must have one,
    /// of several keys all
    #[arg(long = "scope-tag", value_name = "KEY=VALUE", value_parser = tag)]
    scope_tags: Vec<(String, String)>,
    /// Grant the methods for images in this directory and below only; may be repeated
    #[arg(long = "scope-images", value_name = "DIR")]
    scope_images: Vec<String>,
    /// Certify the public key of this signing request (PEM); nothing else is taken from it, and no key is written
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Replace NEWKEY.pem if it exists; the certificate that was there stays good until it ends or is revoked. Keys are
    /// never replaced
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    key: KeyOptions,

    /// Make a new authority, NAME.pem and NAME.key.pem, and no certificate
    #[arg(long, value_name = "NAME", conflicts_with_all = ["signer", "groups", "names", "role", "node", "scope_tags", "scope_images", "force"])]
    new_ca: Option<PathBuf>,
    /// The new authority's name; NAME's file name otherwise
    #[arg(long, value_name = "CN", requires = "new_ca", conflicts_with = "signer")]
    common_name: Option<String>,
    /// The authority that the new one stands below; otherwise it is a root. With --csr it is made for a key on another
    /// machine (make-cert request)
    #[arg(long, value_name = "SIGNING-KEY", requires = "new_ca", conflicts_with = "signer")]
    signed_by: Option<PathBuf>,
    /// How many authorities may stand between the new one and a certificate [default: none below one that has a signer,
    /// any number below a root]
    #[arg(long, value_name = "N", requires = "new_ca", conflicts_with = "signer")]
    path_length: Option<u8>,
    /// Mark the new one as an identity authority, for IdentityCA.pem: it is believed in who somebody is and in his groups,
    /// and never in methods or roles, whoever has signed it
    #[arg(long, requires = "new_ca", conflicts_with = "signer")]
    identity: bool,
}

#[derive(Debug, Options)]
struct KeyOptions {
    /// The type of a key that has to be made: p256 or ed25519
    #[arg(long, value_name = "TYPE", default_value_t)]
    key_type: KeyKind,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make NAME.csr, a signing request, and NAME.key.pem if it is not there
    Request {
        /// Y for Y.csr and Y.key.pem
        name: PathBuf,
        /// The name to wish for; NAME's file name otherwise. Whoever signs decides
        #[arg(long, value_name = "CN")]
        common_name: Option<String>,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Take certificates back: put them on SIGNING-KEY.crl.pem, which is made when it is not there
    Revoke {
        /// The authority that had issued them
        #[arg(value_name = "SIGNING-KEY")]
        signer: PathBuf,
        /// The certificates' files; of a file with several certificates, the first
        #[arg(value_name = "CERT-FILE", required_unless_present = "serials")]
        certificates: Vec<PathBuf>,
        /// The serial number of a certificate whose file is lost, decimal or 0x and hexadecimal; may be repeated
        #[arg(long = "serial", value_name = "N")]
        serials: Vec<Serial>,
        /// Why: unspecified, key-compromise, ca-compromise, affiliation-changed, superseded, cessation-of-operation,
        /// privilege-withdrawn, …
        #[arg(long, default_value_t)]
        reason: Reason,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Make SIGNING-KEY.crl.pem current anew, with what is on it
    RefreshCrl {
        /// The authority whose list it is
        #[arg(value_name = "SIGNING-KEY")]
        signer: PathBuf,
        #[command(flatten)]
        list: ListOptions,
    },
}

#[derive(Debug, Options)]
struct ListOptions {
    /// For how many days the list is current; servers refuse changes once it is not
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CRL_DAYS, value_parser = value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    crl_days: u32,
}

const EXAMPLES: &str = "Examples:
  make-cert --new-ca root --common-name Dominator     # copy root.pem to /etc/ssl/CA.pem everywhere
  make-cert root subd AUTO subd ObjectServer.GetObjects
  make-cert root alice AUTO alice 'ImageServer.*,Subd.Poll' --group operators
  make-cert root filegen-server AUTO filegen-server ''
  make-cert revoke root alice.pem --reason key-compromise

An authority for every day, below a root that is kept away from networks:
  make-cert request site                              # here; carry site.csr to the root
  make-cert --new-ca site --signed-by root --csr site.csr   # there; carry site.pem back
  make-cert site subd AUTO subd ObjectServer.GetObjects

An authority that is called like a command is written as a path: ./revoke, ./request, ./refresh-crl.

Exit status:
  0  it was made
  2  it could not be made, or the command line is wrong";

/// What was asked for.
pub(crate) enum Asked {
    Certificate(Order),
    Authority(AuthorityOrder),
    Request { stem: PathBuf, common_name: String, kind: KeyKind },
    Revocation(RevocationOrder),
}

impl Args {
    pub(crate) fn asked(self) -> Asked {
        if self.new_ca.is_some() && self.csr.is_some() && self.signed_by.is_none() {
            let words = "a root certifies itself; say with --signed-by who certifies the key of this request";
            Self::command().error(ErrorKind::MissingRequiredArgument, words).exit();
        }
        match self.command {
            Some(command) => command.asked(),
            None => match self.new_ca.clone() {
                Some(stem) => Asked::Authority(self.authority(stem)),
                None => Asked::Certificate(self.certificate()),
            },
        }
    }

    fn authority(self, stem: PathBuf) -> AuthorityOrder {
        let signer = match self.signed_by {
            Some(stem) => Signer::Authority { stem, request: self.csr },
            None => Signer::Itself,
        };
        AuthorityOrder {
            common_name: self.common_name.unwrap_or_else(|| file_name(&stem)),
            stem,
            kind: self.key.key_type,
            days: self.days,
            below: self.path_length,
            believed: if self.identity { Granted::IdentityOnly } else { Granted::Everything },
            signer,
        }
    }

    fn certificate(self) -> Order {
        let (Some(signer), Some(stem), Some(serial), Some(user)) =
            (self.signer, self.stem, self.serial, self.user)
        else {
            unreachable!("invariant: clap demands these unless --new-ca or a command is given")
        };
        let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, value) in self.scope_tags {
            tags.entry(key).or_default().insert(value);
        }
        Order {
            signer,
            stem,
            serial,
            user,
            methods: self.methods,
            groups: self.groups,
            names: self.names,
            role: self.role,
            node: self.node,
            scope: Scope { tags, directories: self.scope_images.into_iter().collect() },
            kind: self.key.key_type,
            days: self.days,
            request: self.csr,
            existing: if self.force { Existing::Replace } else { Existing::Keep },
        }
    }
}

impl Command {
    fn asked(self) -> Asked {
        match self {
            Self::Request { name, common_name, key } => Asked::Request {
                common_name: common_name.unwrap_or_else(|| file_name(&name)),
                stem: name,
                kind: key.key_type,
            },
            Self::Revoke { signer, certificates, serials, reason, list } => {
                Asked::Revocation(RevocationOrder {
                    signer,
                    certificates,
                    serials,
                    reason,
                    days: list.crl_days,
                })
            }
            Self::RefreshCrl { signer, list } => Asked::Revocation(RevocationOrder {
                signer,
                certificates: Vec::new(),
                serials: Vec::new(),
                reason: Reason::default(),
                days: list.crl_days,
            }),
        }
    }
}

fn file_name(stem: &Path) -> String {
    stem.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn name(text: &str) -> Result<AlternativeName, std::convert::Infallible> {
    Ok(text.parse::<IpAddr>().map_or_else(|_| AlternativeName::Dns(text.into()), AlternativeName::Ip))
}

fn role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| format!("the roles are {}", Role::ALL.map(Role::name).join(", ")))
}

fn tag(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a tag is written KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

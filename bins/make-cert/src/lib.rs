//! Makes the fleet's authority and signs certificates with it.
//!
//! [`make`] is the whole of `make-cert SIGNING-KEY NEWKEY SERIAL USER [METHODS]`, [`make_authority`] of
//! `make-cert --new-ca NAME`, [`request`] of `make-cert request NAME`, and [`revoke`] of `make-cert revoke SIGNING-KEY`.
//! They read and write files; what time it is, the caller says.
#![forbid(unsafe_code)]

mod before;
mod known;
mod revoke;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use dominator_core::auth::{BadPattern, MethodPattern, NodeId, Role, Scope};
use dominator_pki::ca::{Authority, KeyKind, Leaf, LeafKey, NewAuthority, PublicKey};
use dominator_pki::keystore::{self, CredentialPaths, Existing, with_suffix};
use dominator_pki::{AlternativeName, Certificate, Granted, PkiError, Serial};
use thiserror::Error;

use before::Before;
pub use before::Replaced;
pub use revoke::{RevocationOrder, Taken, revoke};

/// The longest method list or signing request read, in bytes.
pub const MAX_INPUT: u64 = 1 << 20;

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// The authority: `X` for `X.pem` and `X.key.pem`, or `X.cert` and `X.key`.
    pub signer: PathBuf,
    /// Where it goes: `Y` for `Y.pem` and `Y.key.pem`.
    pub stem: PathBuf,
    /// Its serial number.
    pub serial: SerialChoice,
    /// Whom it names.
    pub user: String,
    /// What it grants: a file's name or a list.
    pub methods: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// Host names and addresses to bind it to.
    pub names: Vec<AlternativeName>,
    /// A role other than the one the user name implies.
    pub role: Option<Role>,
    /// The machine it is made for.
    pub node: Option<NodeId>,
    /// Where it grants what it grants.
    pub scope: Scope,
    /// The kind of a key that has to be made.
    pub kind: KeyKind,
    /// How long it lives.
    pub days: u32,
    /// A signing request to take the public key from; otherwise `Y.key.pem` is used, and made when it is not there.
    pub request: Option<PathBuf>,
    /// What to do about a `Y.pem` that exists.
    pub existing: Existing,
}

/// An authority to be made.
#[derive(Clone, Debug)]
pub struct AuthorityOrder {
    /// Where it goes: `Y` for `Y.pem` and `Y.key.pem`.
    pub stem: PathBuf,
    /// What it is called.
    pub common_name: String,
    /// The kind of its key.
    pub kind: KeyKind,
    /// How long it lives.
    pub days: u32,
    /// How many authorities may stand between it and a leaf, if not as usual.
    pub below: Option<u8>,
    /// In what it shall be believed.
    pub believed: Granted,
    /// Who certifies it.
    pub signer: Signer,
}

/// Who certifies an authority.
#[derive(Clone, Debug)]
pub enum Signer {
    /// It itself: it is a root.
    Itself,
    /// The authority `X`, in `X.pem` and `X.key.pem`, or `X.cert` and `X.key`.
    Authority {
        /// `X`.
        stem: PathBuf,
        /// A signing request to take the public key from; otherwise `Y.key.pem` is used, and made when it is not there.
        request: Option<PathBuf>,
    },
}

/// Which serial number a certificate gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialChoice {
    /// The authority's counter decides.
    Auto,
    /// This.
    Given(Serial),
}

impl FromStr for SerialChoice {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        if text == "AUTO" { Ok(Self::Auto) } else { text.parse().map(Self::Given) }
    }
}

/// A certificate that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The certificate.
    pub certificate: Certificate,
    /// Its file.
    pub path: PathBuf,
    /// Where its key is.
    pub key: KeyOrigin,
    /// What it grants although no service has such a method.
    pub unknown: Vec<MethodPattern>,
    /// What it grants everywhere although it has a scope: scopes of machines and of images are apart.
    pub unlimited: Vec<MethodPattern>,
    /// What was in the file before, if it may be good still.
    pub replaced: Option<Replaced>,
}

/// Where a certificate's key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// Made now, in this file.
    New(PathBuf),
    /// It was in this file before.
    Reused(PathBuf),
    /// Only its public half is known here.
    Request(PathBuf),
}

/// Why no certificate was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MakeCertError {
    /// Keys, certificates or the counter.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The last argument is neither a file nor a list.
    #[error("{argument:?} is neither a file that exists nor a comma-separated list of methods")]
    NoMethods {
        /// What was given.
        argument: String,
        /// Why it is no list.
        source: BadPattern,
    },
    /// A file that lists something else than methods.
    #[error("{} does not list methods, one a line", path.display())]
    BadMethodFile {
        /// The file.
        path: PathBuf,
        /// The first item that is wrong.
        source: BadPattern,
    },
    /// A certificate to be revoked that is another authority's.
    #[error("{} was not issued by {}; its own authority can revoke it", path.display(), signer.display())]
    NotIssued {
        /// The certificate's file.
        path: PathBuf,
        /// The authority.
        signer: PathBuf,
    },
    /// A serial number that is revoked.
    #[error(
        "serial number {serial} is on the list of revoked certificates, {}: nobody would believe a certificate that has it; give another number, or AUTO", list.display()
    )]
    RevokedSerial {
        /// The number that was asked for.
        serial: Serial,
        /// The authority's list.
        list: PathBuf,
    },
    /// The serial number of the certificate that was to be replaced.
    #[error(
        "serial number {serial} is that of the certificate that is in {} now, and of two with one number neither can be revoked without the other; give another number, or AUTO", path.display()
    )]
    ReplacedSerial {
        /// The number that was asked for.
        serial: Serial,
        /// The certificate that has it.
        path: PathBuf,
    },
    /// A file that can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes and writes a certificate, and its key when there is none yet.
///
/// Everything that can be refused is refused before anything is written, and the key is on disk before the certificate.
///
/// # Errors
/// [`MakeCertError`].
pub fn make(order: &Order, now: SystemTime) -> Result<Made, MakeCertError> {
    let path = with_suffix(&order.stem, ".pem");
    if order.existing == Existing::Keep && path.exists() {
        return Err(PkiError::AlreadyExists { path }.into());
    }
    let signer = CredentialPaths::named(&order.signer);
    let authority = keystore::load_authority(&signer)?;
    let granted = methods(&order.methods)?;
    let unknown = known::unknown(&granted);
    let unlimited = known::unlimited(&granted, &order.scope);
    let leaf = leaf(order, granted)?;
    let before = Before::look(order, &authority, &path)?;
    before.check(order, &path)?;
    let key = key(&order.stem, order.request.as_deref(), order.kind)?;
    // A rehearsal: what can't be issued must not cost a serial or leave a key behind.
    authority.issue(&leaf, &key.public, now)?;
    key.save()?;
    let serial = before.serial(order, &signer)?;
    let issued = authority.issue(&leaf.serial(serial), &key.public, now)?;
    keystore::save_certificate(&path, &issued.pem, order.existing)?;
    let replaced = before.still_good(now);
    Ok(Made { certificate: issued.certificate, path, key: key.origin, unknown, unlimited, replaced })
}

/// Makes a new authority, `<stem>.pem` and `<stem>.key.pem`, and never over an old one.
///
/// One below another is certified by that one, for a key that may have been made before, on another machine, too; its file
/// then has the authorities above it, up to the root, behind it.
///
/// # Errors
/// [`MakeCertError::Pki`] when a file exists or can't be written, the name is no name, or the other may have none below it.
pub fn make_authority(order: &AuthorityOrder, now: SystemTime) -> Result<Made, MakeCertError> {
    let path = with_suffix(&order.stem, ".pem");
    if path.exists() {
        return Err(PkiError::AlreadyExists { path }.into());
    }
    let wanted = NewAuthority::new(&order.common_name)?.days(order.days);
    let wanted = match order.below {
        Some(authorities) => wanted.below(authorities),
        None => wanted,
    };
    let wanted = match order.believed {
        Granted::Everything => wanted,
        Granted::IdentityOnly => wanted.identity_only(),
    };
    let (pem, key) = match &order.signer {
        Signer::Itself => root(&order.stem, &wanted, order.kind, now)?,
        Signer::Authority { stem, request } => {
            let authority = keystore::load_authority(&CredentialPaths::named(stem))?;
            let key = key(&order.stem, request.as_deref(), order.kind)?;
            let issued = authority.issue_authority(&wanted, &key.public, now)?;
            key.save()?;
            (issued.pem, key.origin)
        }
    };
    keystore::save_certificate(&path, &pem, Existing::Keep)?;
    let certificate = keystore::load_certificates(&path)?.swap_remove(0);
    Ok(Made { certificate, path, key, unknown: Vec::new(), unlimited: Vec::new(), replaced: None })
}

/// Makes a signing request, `<stem>.csr`, for the key in `<stem>.key.pem`, which is made when it is not there.
///
/// # Errors
/// [`MakeCertError::Pki`] when the request exists or can't be written, or the name is no name.
pub fn request(stem: &Path, common_name: &str, kind: KeyKind) -> Result<(PathBuf, KeyOrigin), MakeCertError> {
    let path = with_suffix(stem, ".csr");
    if path.exists() {
        return Err(PkiError::AlreadyExists { path }.into());
    }
    let (own, origin) = own_key(stem, kind)?;
    let request = own.signing_request(common_name)?;
    if let KeyOrigin::New(path) = &origin {
        keystore::save_key(path, &own.to_pem(), Existing::Keep)?;
    }
    keystore::save_certificate(&path, &request, Existing::Keep)?;
    Ok((path, origin))
}

fn root(
    stem: &Path,
    wanted: &NewAuthority,
    kind: KeyKind,
    now: SystemTime,
) -> Result<(String, KeyOrigin), MakeCertError> {
    let path = with_suffix(stem, ".key.pem");
    let authority = Authority::create_with(wanted, LeafKey::generate_kind(kind)?, now)?;
    keystore::save_key(&path, &authority.private_key_pem(), Existing::Keep)?;
    Ok((authority.certificate_pem().to_owned(), KeyOrigin::New(path)))
}

fn leaf(order: &Order, granted: Vec<MethodPattern>) -> Result<Leaf, MakeCertError> {
    let mut leaf = Leaf::new(&order.user)?
        .methods(granted)
        .groups(order.groups.iter().cloned())
        .alternative_names(order.names.iter().cloned())
        .scope(order.scope.clone())
        .days(order.days);
    if let Some(role) = order.role {
        leaf = leaf.role(role);
    }
    if let Some(node) = &order.node {
        leaf = leaf.node(node.clone());
    }
    Ok(leaf)
}

/// A file's contents when there is such a file; otherwise the argument is the list itself.
fn methods(argument: &str) -> Result<Vec<MethodPattern>, MakeCertError> {
    let path = Path::new(argument);
    if !argument.is_empty() && path.exists() {
        let text = read(path)?;
        return MethodPattern::parse_list(&text)
            .map_err(|source| MakeCertError::BadMethodFile { path: path.into(), source });
    }
    MethodPattern::parse_list(argument)
        .map_err(|source| MakeCertError::NoMethods { argument: argument.into(), source })
}

/// The key to be certified.
struct Key {
    public: PublicKey,
    origin: KeyOrigin,
    /// A new private key in PEM.
    unsaved: Option<String>,
}

impl Key {
    /// Writes a new one.
    fn save(&self) -> Result<(), MakeCertError> {
        if let (KeyOrigin::New(path), Some(pem)) = (&self.origin, &self.unsaved) {
            keystore::save_key(path, pem, Existing::Keep)?;
        }
        Ok(())
    }
}

fn key(stem: &Path, request: Option<&Path>, kind: KeyKind) -> Result<Key, MakeCertError> {
    if let Some(request) = request {
        let public = PublicKey::from_signing_request(&read(request)?)?;
        return Ok(Key { public, origin: KeyOrigin::Request(request.into()), unsaved: None });
    }
    let (own, origin) = own_key(stem, kind)?;
    let unsaved = matches!(origin, KeyOrigin::New(_)).then(|| own.to_pem());
    Ok(Key { public: own.public_key()?, origin, unsaved })
}

/// The key that is there, or else a new one, not yet written.
fn own_key(stem: &Path, kind: KeyKind) -> Result<(LeafKey, KeyOrigin), MakeCertError> {
    let path = with_suffix(stem, ".key.pem");
    if path.exists() {
        return Ok((keystore::load_key(&path)?, KeyOrigin::Reused(path)));
    }
    Ok((LeafKey::generate_kind(kind)?, KeyOrigin::New(path)))
}

fn read(path: &Path) -> Result<String, MakeCertError> {
    let failed = |source| MakeCertError::Read { path: path.into(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_INPUT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_INPUT {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB")));
    }
    Ok(text)
}

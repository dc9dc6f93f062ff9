//! Makes the fleet's authority and signs certificates with it.
//!
//! [`make`] is the whole of `make-cert SIGNING-KEY NEWKEY SERIAL USER [METHODS]`, and [`make_authority`] of
//! `make-cert --new-ca NAME`. They read and write files; what time it is, the caller says.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use dominator_core::authorise::{BadPattern, MethodPattern, Role};
use dominator_pki::ca::{Authority, Leaf, LeafKey, PublicKey};
use dominator_pki::keystore::{self, CredentialPaths, Existing, with_suffix};
use dominator_pki::{AlternativeName, Certificate, PkiError, Serial};
use thiserror::Error;

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
    /// How long it lives.
    pub days: u32,
    /// A signing request to take the public key from; otherwise `Y.key.pem` is used, and made when it is not there.
    pub request: Option<PathBuf>,
    /// What to do about a `Y.pem` that exists.
    pub existing: Existing,
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
    let leaf = leaf(order)?;
    let key = key(order)?;
    // A rehearsal: what can't be issued must not cost a serial or leave a key behind.
    authority.issue(&leaf, &key.public, now)?;
    if let (KeyOrigin::New(path), Some(pem)) = (&key.origin, &key.unsaved) {
        keystore::save_key(path, pem, Existing::Keep)?;
    }
    let serial = match &order.serial {
        SerialChoice::Auto => keystore::next_serial(&order.signer, &signer.key)?,
        SerialChoice::Given(serial) => serial.clone(),
    };
    let issued = authority.issue(&leaf.serial(serial), &key.public, now)?;
    keystore::save_certificate(&path, &issued.pem, order.existing)?;
    Ok(Made { certificate: issued.certificate, path, key: key.origin })
}

/// Makes a new authority, `<stem>.pem` and `<stem>.key.pem`, and never over an old one.
///
/// # Errors
/// [`MakeCertError::Pki`] when either file exists or can't be written, or the name is no name.
pub fn make_authority(stem: &Path, common_name: &str, now: SystemTime) -> Result<Made, MakeCertError> {
    let (path, key) = (with_suffix(stem, ".pem"), with_suffix(stem, ".key.pem"));
    if path.exists() {
        return Err(PkiError::AlreadyExists { path }.into());
    }
    let authority = Authority::create(common_name, now)?;
    keystore::save_key(&key, &authority.private_key_pem(), Existing::Keep)?;
    keystore::save_certificate(&path, authority.certificate_pem(), Existing::Keep)?;
    let certificate = Certificate::parse(authority.certificate_der())
        .map_err(|source| PkiError::BadCertificate { origin: path.as_path().into(), source })?;
    Ok(Made { certificate, path, key: KeyOrigin::New(key) })
}

fn leaf(order: &Order) -> Result<Leaf, MakeCertError> {
    let leaf = Leaf::new(&order.user)?
        .methods(methods(&order.methods)?)
        .groups(order.groups.iter().cloned())
        .alternative_names(order.names.iter().cloned())
        .days(order.days);
    Ok(match order.role {
        Some(role) => leaf.role(role),
        None => leaf,
    })
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

fn key(order: &Order) -> Result<Key, MakeCertError> {
    if let Some(request) = &order.request {
        let public = PublicKey::from_signing_request(&read(request)?)?;
        return Ok(Key { public, origin: KeyOrigin::Request(request.clone()), unsaved: None });
    }
    let path = with_suffix(&order.stem, ".key.pem");
    if path.exists() {
        let public = keystore::load_key(&path)?.public_key()?;
        return Ok(Key { public, origin: KeyOrigin::Reused(path), unsaved: None });
    }
    let new = LeafKey::generate()?;
    Ok(Key { public: new.public_key()?, origin: KeyOrigin::New(path), unsaved: Some(new.to_pem()) })
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

//! Where keys and certificates lie on disk, and how they get there.

mod write;

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use write::{Existing, next_serial, save_certificate, save_key};

use crate::ca::{Authority, LeafKey};
use crate::certificate::Certificate;
use crate::credentials::{Credentials, ExposedKey, MAX_CHAIN, certificates};
use crate::error::{Origin, PkiError};
use crate::trust::Trust;

/// The authorities of every daemon.
pub const AUTHORITIES: &str = "/etc/ssl/CA.pem";
/// The authorities believed in identity only; the file need not exist.
pub const IDENTITY_AUTHORITIES: &str = "/etc/ssl/IdentityCA.pem";
/// The longest file read, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// The most entries looked at in a user's directory.
pub const MAX_ENTRIES: usize = 4096;

/// A certificate's file and its key's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialPaths {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl CredentialPaths {
    /// A daemon's own: `/etc/ssl/<name>/cert.pem` and `/etc/ssl/<name>/key.pem`.
    pub fn daemon(name: &str) -> Self {
        let directory = Path::new("/etc/ssl").join(name);
        Self { certificate: directory.join("cert.pem"), key: directory.join("key.pem") }
    }

    /// An authority's, as operators name it: `X.pem` with `X.key.pem`, or else `X.cert` with `X.key`.
    ///
    /// The second is taken only when neither file of the first exists, so that a half-copied pair is noticed.
    pub fn named(stem: &Path) -> Self {
        let pem = Self { certificate: with_suffix(stem, ".pem"), key: with_suffix(stem, ".key.pem") };
        let plain = Self { certificate: with_suffix(stem, ".cert"), key: with_suffix(stem, ".key") };
        if pem.certificate.exists() || pem.key.exists() || !plain.certificate.exists() { pem } else { plain }
    }
}

/// Which file of identity authorities to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityFile<'a> {
    /// None: only the authorities proper identify anybody.
    None,
    /// This, unless it does not exist.
    IfPresent(&'a Path),
    /// This; its absence is an error.
    At(&'a Path),
}

/// Loads a certificate and its key, and refuses them outside their time.
///
/// # Errors
/// [`PkiError`], naming the file. Whether a file is missing is in the source of [`PkiError::Read`].
pub fn load(paths: &CredentialPaths, now: SystemTime) -> Result<Credentials, PkiError> {
    let (certificate, key) = (&paths.certificate, &paths.key);
    let chain = read(certificate)?;
    let (key_pem, exposed) = read_key(key)?;
    let credentials =
        Credentials::from_pem_of(&chain, &key_pem, &certificate.as_path().into(), &key.as_path().into())?;
    credentials.certificate().validity().check(now, certificate.as_path().into())?;
    Ok(credentials.with_exposure(exposed))
}

/// A user's certificates.
#[derive(Debug)]
pub struct UserStore {
    /// The usable ones, never none: the longest remaining life first, then the most powerful.
    pub credentials: Vec<Credentials>,
    /// Why others are not among them, in the order of their file names.
    pub refused: Vec<PkiError>,
}

/// Loads every pair in `<home>/.ssl`: `X.key` with `X.cert`, `X.key.pem` with `X.pem`, and `key.pem` with `cert.pem`.
///
/// A key without its certificate is passed over. An expired or broken pair is refused, but does not keep the others from
/// being used.
///
/// # Errors
/// The first refusal when all pairs are refused, [`PkiError::NoUserCertificate`] when there are none, [`PkiError::Read`].
pub fn load_user(home: &Path, now: SystemTime) -> Result<UserStore, PkiError> {
    let directory = home.join(".ssl");
    let mut store = UserStore { credentials: Vec::new(), refused: Vec::new() };
    for paths in pairs(&directory)? {
        match load(&paths, now) {
            Ok(found) => store.credentials.push(found),
            Err(error) => store.refused.push(error),
        }
    }
    store.credentials.sort_by_key(|found| Reverse(rank(found.certificate())));
    match (store.credentials.is_empty(), store.refused.is_empty()) {
        (false, _) => Ok(store),
        (true, false) => Err(store.refused.swap_remove(0)),
        (true, true) => Err(PkiError::NoUserCertificate { directory }),
    }
}

/// Loads the authorities.
///
/// # Errors
/// [`PkiError`], naming the file. An identity file that is there but can't be read is always an error: it would change
/// who is let in.
pub fn load_trust(authorities: &Path, identity: IdentityFile<'_>) -> Result<Trust, PkiError> {
    let full = read(authorities)?;
    let identity = match identity {
        IdentityFile::None => None,
        IdentityFile::At(path) => Some((read(path)?, Origin::from(path))),
        IdentityFile::IfPresent(path) => match read(path) {
            Ok(pem) => Some((pem, Origin::from(path))),
            Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(other) => return Err(other),
        },
    };
    let identity = identity.as_ref().map(|(pem, origin)| (pem.as_slice(), origin));
    Trust::from_pem_of((&full, &authorities.into()), identity)
}

/// Loads an authority with its private key.
///
/// # Errors
/// [`PkiError`], naming the file.
pub fn load_authority(paths: &CredentialPaths) -> Result<Authority, PkiError> {
    let certificate = read(&paths.certificate)?;
    let (key, _) = read_key(&paths.key)?;
    let origins = [Origin::from(paths.certificate.as_path()), Origin::from(paths.key.as_path())];
    let [certificate_origin, key_origin] = &origins;
    Authority::from_pem_of(&certificate, &key, certificate_origin, key_origin)
}

/// Loads a private key that is to be certified.
///
/// # Errors
/// [`PkiError`], naming the file.
pub fn load_key(path: &Path) -> Result<LeafKey, PkiError> {
    let (pem, _) = read_key(path)?;
    LeafKey::from_pem(&pem, &path.into())
}

/// Loads every certificate in a PEM file, in order, at most [`MAX_CHAIN`] of them.
///
/// # Errors
/// [`PkiError`], naming the file.
pub fn load_certificates(path: &Path) -> Result<Vec<Certificate>, PkiError> {
    let origin = Origin::from(path);
    let found = certificates(&read(path)?, MAX_CHAIN, &origin)?;
    let parse = |der: &rustls_pki_types::CertificateDer<'_>| {
        Certificate::parse(der).map_err(|source| PkiError::BadCertificate { origin: origin.clone(), source })
    };
    found.iter().map(parse).collect()
}

/// `path` with `suffix` after its name; unlike an extension it replaces nothing.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn rank(certificate: &Certificate) -> (SystemTime, bool, usize) {
    let methods = &certificate.unverified_claims().methods;
    let all = methods.iter().any(|pattern| pattern.to_string() == "*.*");
    (certificate.validity().not_after, all, methods.len())
}

fn pairs(directory: &Path) -> Result<Vec<CredentialPaths>, PkiError> {
    let failed = |source| PkiError::Read { path: directory.into(), source };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)?.take(MAX_ENTRIES) {
        let name = entry.map_err(failed)?.file_name();
        if let Some(certificate) = name.to_str().and_then(certificate_name) {
            let paths =
                CredentialPaths { certificate: directory.join(certificate), key: directory.join(&name) };
            pairs.push(paths);
        }
    }
    pairs.retain(|paths| paths.certificate.exists());
    pairs.sort();
    Ok(pairs)
}

/// The certificate that belongs to a file, if the file's name is a key's.
fn certificate_name(key: &str) -> Option<String> {
    match key.strip_suffix(".key.pem") {
        _ if key == "key.pem" => Some("cert.pem".into()),
        Some(stem) => Some(format!("{stem}.pem")),
        None => Path::new(key).extension().filter(|suffix| *suffix == OsStr::new("key")).and_then(|_| {
            let stem = key.strip_suffix(".key")?;
            Some(format!("{stem}.cert"))
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    open(path).and_then(|file| read_from(&file, path))
}

/// Reads a key and looks at its permissions through the same handle.
fn read_key(path: &Path) -> Result<(Vec<u8>, Option<ExposedKey>), PkiError> {
    let file = open(path)?;
    let mode =
        file.metadata().map_err(|source| PkiError::Read { path: path.into(), source })?.mode() & 0o7777;
    let exposed = (mode & 0o077 != 0).then(|| ExposedKey { path: path.into(), mode });
    Ok((read_from(&file, path)?, exposed))
}

fn open(path: &Path) -> Result<File, PkiError> {
    File::open(path).map_err(|source| PkiError::Read { path: path.into(), source })
}

fn read_from(file: &File, path: &Path) -> Result<Vec<u8>, PkiError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| PkiError::Read { path: path.into(), source })?;
    if bytes.len() > MAX_FILE {
        Err(PkiError::TooLong { origin: path.into(), limit: MAX_FILE })
    } else {
        Ok(bytes)
    }
}

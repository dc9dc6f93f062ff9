//! Where keys and certificates lie on disk, and how they get there.
//!
//! A private key is read only from a file that nobody but its owner has any permission on: [`PkiError::ExposedKey`].

mod write;

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use write::{
    Existing, Extended, load_revocations, next_serial, revocations, revoke, save_certificate, save_key,
};

use crate::ca::{Authority, LeafKey};
use crate::certificate::Certificate;
use crate::credentials::{Credentials, certificates};
use crate::error::{Origin, PkiError};
use crate::files::MAX_LIST_FILE;
use crate::inspect::{ShownList, lists};
use crate::trust::{MAX_AUTHORITIES, Trust};

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
    let key_pem = read_key(key)?;
    let credentials =
        Credentials::from_pem_of(&chain, &key_pem, &certificate.as_path().into(), &key.as_path().into())?;
    credentials.certificate().validity().check(now, certificate.as_path().into())?;
    Ok(credentials)
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
    let full = read_guarded(authorities)?;
    let identity = match identity {
        IdentityFile::None => None,
        IdentityFile::At(path) => Some((read_guarded(path)?, Origin::from(path))),
        IdentityFile::IfPresent(path) => match read_guarded(path) {
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
    let key = read_key(&paths.key)?;
    let origins = [Origin::from(paths.certificate.as_path()), Origin::from(paths.key.as_path())];
    let [certificate_origin, key_origin] = &origins;
    Authority::from_pem_of(&certificate, &key, certificate_origin, key_origin)
}

/// Loads a private key that is to be certified.
///
/// # Errors
/// [`PkiError`], naming the file.
pub fn load_key(path: &Path) -> Result<LeafKey, PkiError> {
    let pem = read_key(path)?;
    LeafKey::from_pem(&pem, &path.into())
}

/// Loads every certificate in a PEM file, in order, at most [`MAX_AUTHORITIES`] of them.
///
/// # Errors
/// [`PkiError`], naming the file.
pub fn load_certificates(path: &Path) -> Result<Vec<Certificate>, PkiError> {
    parsed(&read(path)?, &path.into())
}

/// What a file has to show, nothing verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its certificates, in order.
    pub certificates: Vec<Certificate>,
    /// What its lists of revoked certificates say of themselves, in order.
    pub lists: Vec<ShownList>,
}

/// Loads every certificate in a PEM file, at most [`MAX_AUTHORITIES`] of them, and every list of revoked certificates, which
/// may be DER, too.
///
/// # Errors
/// [`PkiError`], naming the file; [`PkiError::NoCertificate`] when there is nothing of either kind.
pub fn load_contents(path: &Path) -> Result<Contents, PkiError> {
    let bytes = open(path).and_then(|file| read_from(&file, path, MAX_LIST_FILE))?;
    contents(&bytes, &path.into())
}

/// The same for bytes that were read from `origin`.
///
/// # Errors
/// As [`load_contents`].
pub fn contents(bytes: &[u8], origin: &Origin) -> Result<Contents, PkiError> {
    let lists = lists(bytes, origin)?;
    let certificates = match parsed(bytes, origin) {
        // Beside a list there need be none.
        Err(PkiError::NoCertificate { .. }) if !lists.is_empty() => Vec::new(),
        found => found?,
    };
    Ok(Contents { certificates, lists })
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

fn parsed(pem: &[u8], origin: &Origin) -> Result<Vec<Certificate>, PkiError> {
    let found = certificates(pem, MAX_AUTHORITIES, origin)?;
    let parse = |der: &rustls_pki_types::CertificateDer<'_>| {
        Certificate::parse(der).map_err(|source| PkiError::BadCertificate { origin: origin.clone(), source })
    };
    found.iter().map(parse).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    open(path).and_then(|file| read_from(&file, path, MAX_FILE))
}

/// Reads what says who is believed, unless everybody can change it.
fn read_guarded(path: &Path) -> Result<Vec<u8>, PkiError> {
    let file = open(path)?;
    let found = file.metadata().map_err(|source| PkiError::Read { path: path.into(), source })?;
    check_guarded(&found, path)?;
    read_from(&file, path, MAX_FILE)
}

/// Whoever can write there could be believed, or have others forgotten who are not.
pub(crate) fn check_guarded(found: &fs::Metadata, path: &Path) -> Result<(), PkiError> {
    match found.mode() & 0o7777 {
        mode if mode & 0o002 != 0 => Err(PkiError::OpenToChange { path: path.into(), mode }),
        _ => Ok(()),
    }
}

/// Reads a private key, unless others than its owner can.
fn read_key(path: &Path) -> Result<Vec<u8>, PkiError> {
    open_key(path).and_then(|file| read_from(&file, path, MAX_FILE))
}

/// Opens a private key and looks at what was opened, not at the name: behind a link it is the target that counts, and a
/// name can be given to another file between two looks.
pub(crate) fn open_key(path: &Path) -> Result<File, PkiError> {
    let (file, found) = open_at_once(path)?;
    if !found.is_file() {
        return Err(PkiError::NoKeyFile { path: path.into() });
    }
    match found.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(PkiError::ExposedKey { path: path.into(), mode }),
        _ => Ok(file),
    }
}

/// Opens whatever is there without waiting for anything: a pipe would otherwise wait for its other end.
pub(crate) fn open_at_once(path: &Path) -> Result<(File, fs::Metadata), PkiError> {
    let failed = |source| PkiError::Read { path: path.into(), source };
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("invariant: flags of open(2) are an int");
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    Ok((file, found))
}

fn open(path: &Path) -> Result<File, PkiError> {
    File::open(path).map_err(|source| PkiError::Read { path: path.into(), source })
}

pub(crate) fn read_from(file: &File, path: &Path, limit: usize) -> Result<Vec<u8>, PkiError> {
    let mut bytes = Vec::new();
    file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| PkiError::Read { path: path.into(), source })?;
    match bytes.len() > limit {
        true => Err(PkiError::TooLong { origin: path.into(), limit }),
        false => Ok(bytes),
    }
}

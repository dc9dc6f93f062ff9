//! Reading files that may be replaced at any moment, or be none.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::{IdentityPath, MAX_LIST_FILE, RevocationPaths, TrustPaths};
use crate::credentials::Credentials;
use crate::error::{Origin, PkiError};
use crate::keystore::{CredentialPaths, MAX_FILE, check_guarded, open_at_once, open_key, read_from};
use crate::trust::Trust;

type Bytes = Result<Vec<u8>, PkiError>;

/// A file as it was found.
pub(super) struct Named {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
}

/// Everything, as it was found.
pub(super) struct Contents {
    pub(super) credentials: Result<Pair, PkiError>,
    pub(super) trust: Result<AuthorityFiles, PkiError>,
    pub(super) lists: Vec<Named>,
    pub(super) denied: Option<Named>,
    /// Of all of it, errors included.
    pub(super) digest: [u8; 32],
}

/// A chain and its key.
pub(super) struct Pair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// The two files of authorities.
pub(super) struct AuthorityFiles {
    full: Vec<u8>,
    identity: Option<(Vec<u8>, Origin)>,
}

impl Contents {
    pub(super) fn read(paths: &TrustPaths) -> Self {
        let CredentialPaths { certificate, key } = &paths.credentials;
        let (chain, key) = (plain(certificate, MAX_FILE), secret(key));
        let (full, identity) = (plain(&paths.authorities, MAX_FILE), identity(&paths.identity));
        let (lists, denied) = revocation(&paths.revocation);
        let mut hash = Sha256::new();
        let mut add = |found: Result<&[u8], &PkiError>| match found {
            Ok(bytes) => {
                hash.update(Sha256::digest(bytes));
            }
            Err(error) => hash.update(error.to_string()),
        };
        [&chain, &key, &full].into_iter().for_each(|found| add(found.as_deref()));
        add(identity.as_ref().map(|found| found.as_ref().map_or(&[][..], |(bytes, _)| bytes)));
        lists.iter().chain(&denied).for_each(|named| add(named.bytes.as_deref()));
        Self {
            credentials: chain.and_then(|chain| Ok(Pair { chain, key: key? })),
            trust: full.and_then(|full| Ok(AuthorityFiles { full, identity: identity? })),
            lists,
            denied,
            digest: hash.finalize().into(),
        }
    }
}

impl Pair {
    pub(super) fn parse(self, paths: &CredentialPaths, now: SystemTime) -> Result<Credentials, PkiError> {
        let (certificate, key) = (Origin::from(&*paths.certificate), Origin::from(&*paths.key));
        let credentials = Credentials::from_pem_of(&self.chain, &self.key, &certificate, &key)?;
        credentials.certificate().validity().check(now, certificate)?;
        Ok(credentials)
    }
}

impl AuthorityFiles {
    pub(super) fn parse(self, authorities: &Path) -> Result<Trust, PkiError> {
        let identity = self.identity.as_ref().map(|(pem, origin)| (pem.as_slice(), origin));
        Trust::from_pem_of((&self.full, &authorities.into()), identity)
    }
}

/// The lists, each as it was found, and the deny list, if there shall be one.
pub(super) fn revocation(paths: &RevocationPaths) -> (Vec<Named>, Option<Named>) {
    let named = |path: &PathBuf, limit| match plain(path, limit) {
        Err(PkiError::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound && paths.optional.contains(path) =>
        {
            None
        }
        bytes => Some(Named { path: path.clone(), bytes }),
    };
    let lists = paths.lists.iter().filter_map(|path| named(path, MAX_LIST_FILE)).collect();
    (lists, paths.denied.as_ref().and_then(|path| named(path, MAX_FILE)))
}

/// Whether what has this name was changed so shortly before `now` that somebody may still be writing it. To be asked after
/// it was read.
pub(super) fn may_be_unfinished(path: &Path, now: SystemTime, step: Duration) -> bool {
    Stamp::of(path).is_some_and(|stamp| stamp.is_recent(now, step))
}

fn identity(path: &IdentityPath) -> Result<Option<(Vec<u8>, Origin)>, PkiError> {
    let (path, optional) = match path {
        IdentityPath::None => return Ok(None),
        IdentityPath::IfPresent(path) => (path, true),
        IdentityPath::At(path) => (path, false),
    };
    match plain(path, MAX_FILE) {
        Ok(pem) => Ok(Some((pem, path.as_path().into()))),
        Err(PkiError::Read { source, .. }) if optional && source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opening some devices does something, so that what the name leads to is looked at first, and what was opened again.
fn plain(path: &Path, limit: usize) -> Bytes {
    let failed = |source| PkiError::Read { path: path.into(), source };
    let no_file = || PkiError::NoFile { path: path.into() };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(no_file());
    }
    match open_at_once(path)? {
        (file, found) if found.is_file() => {
            check_guarded(&found, path)?;
            read_from(&file, path, limit)
        }
        _ => Err(no_file()),
    }
}

fn secret(path: &Path) -> Bytes {
    open_key(path).and_then(|file| read_from(&file, path, MAX_FILE))
}

/// What tells one state of each file from another; `None` where there is none to be seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    pub(super) fn of(paths: &TrustPaths) -> Self {
        let TrustPaths { credentials, authorities, identity, revocation } = paths;
        let identity = match identity {
            IdentityPath::None => None,
            IdentityPath::IfPresent(path) | IdentityPath::At(path) => Some(path),
        };
        let all = [&credentials.certificate, &credentials.key, authorities].into_iter().chain(identity);
        let all = all.chain(&revocation.lists).chain(&revocation.denied);
        Self(all.map(|path| Stamp::of(path)).collect())
    }

    /// Whether a file was changed so shortly before it was looked at that it can have been changed once more since.
    pub(super) fn may_hide_a_change(&self, looked: SystemTime, step: Duration) -> bool {
        self.0.iter().flatten().any(|stamp| stamp.is_recent(looked, step))
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_recent(&self, looked: SystemTime, step: Duration) -> bool {
        looked.duration_since(self.last_change()).map_or(true, |ago| ago < step)
    }

    fn last_change(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels since 6.13 give each change that somebody looked at a time of its own; older ones do not.
    #[test]
    fn a_file_just_changed_may_be_changed_again_at_the_same_time() {
        let changed = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (modified, size) = ((0, 0), 0);
        let stamp = Stamp { device: 0, inode: 0, size, modified, changed: (1_000_000, 900_000_000) };
        let stamps = Stamps(vec![None, Some(stamp)]);
        let step = Duration::from_secs(2);
        assert!(stamps.may_hide_a_change(changed, step));
        assert!(stamps.may_hide_a_change(changed + step - Duration::from_millis(1), step));
        assert!(!stamps.may_hide_a_change(changed + step, step));
        assert!(
            stamps.may_hide_a_change(changed - Duration::from_secs(60), step),
            "a clock that was set back"
        );
        assert!(!Stamps(vec![None]).may_hide_a_change(changed, step));
    }
}

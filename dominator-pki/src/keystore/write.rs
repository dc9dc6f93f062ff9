//! Writing keys and certificates so that a crash leaves the old file or the new one, and never a readable key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{MAX_FILE, open_key, read, with_suffix};
use crate::ca::{Authority, RevocationList, Revoked};
use crate::certificate::Serial;
use crate::error::PkiError;

/// What to do about a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and fail.
    Keep,
    /// Put the new one in its place, in one step.
    Replace,
}

/// Writes a private key, mode 0600.
///
/// # Errors
/// [`PkiError::AlreadyExists`], [`PkiError::Write`].
pub fn save_key(path: &Path, pem: &str, existing: Existing) -> Result<(), PkiError> {
    save(path, pem.as_bytes(), 0o600, existing)
}

/// Writes a certificate or a request for one, mode 0644.
///
/// # Errors
/// [`PkiError::AlreadyExists`], [`PkiError::Write`].
pub fn save_certificate(path: &Path, pem: &str, existing: Existing) -> Result<(), PkiError> {
    save(path, pem.as_bytes(), 0o644, existing)
}

/// Counts the serials of the authority `stem`, in `<stem>.serial`: the file holds the last one given out, and the first
/// is 2, for 1 is the authority's own.
///
/// Without that file a `.serial` beside it is continued, which is how older tools count. Two callers never get the same
/// number: each holds a lock on `key`, the authority's private key, which is a file that is never replaced.
///
/// # Errors
/// [`PkiError::BadSerialFile`], [`PkiError::Read`], [`PkiError::Write`].
pub fn next_serial(stem: &Path, key: &Path) -> Result<Serial, PkiError> {
    let lock = lock(key)?;
    let counter = with_suffix(stem, ".serial");
    let last = match last_serial(&counter)? {
        Some(last) => last,
        None => last_serial(&stem.with_file_name(".serial"))?.unwrap_or(1),
    };
    let next = last.checked_add(1).ok_or_else(|| PkiError::BadSerialFile { path: counter.clone() })?;
    // DURABILITY: on disk before the serial is used, so that a crash skips a number and never gives one out twice.
    save(&counter, format!("{next}\n").as_bytes(), 0o644, Existing::Replace)?;
    drop(lock);
    Ok(u128::from(next).into())
}

/// A list of revoked certificates that was added to.
#[derive(Clone, Debug)]
pub struct Extended {
    /// As it is now.
    pub list: RevocationList,
    /// How many of its certificates, the last ones, were not on it before.
    pub added: usize,
}

/// Adds to the list of certificates that the authority `stem` has taken back, in `<stem>.crl.pem`, and makes it current for
/// `days` days from now; with nothing to add, that is all it does.
///
/// The list must be the authority's own, and the new one takes its place in one step. Two callers lose nothing of each
/// other's, as with [`next_serial`]. With nothing to add there must be a list: an empty one in the place of one that was
/// mislaid would give everything back that was taken.
///
/// # Errors
/// [`PkiError::BadRevocationList`], [`PkiError::NoRevocationList`], [`PkiError::BadRequest`], [`PkiError::TooLong`] when no
/// reader would take it, [`PkiError::Read`], [`PkiError::Write`].
pub fn revoke(
    stem: &Path,
    key: &Path,
    authority: &Authority,
    more: &[Revoked],
    days: u32,
    now: SystemTime,
) -> Result<Extended, PkiError> {
    let path = revocations(stem);
    let lock = lock(key)?;
    let previous = load_revocations(stem, authority)?;
    if previous.is_none() && more.is_empty() {
        return Err(PkiError::NoRevocationList { path });
    }
    let list = authority.revoke(previous.as_ref(), more, days, now)?;
    if list.pem().len() > MAX_FILE {
        return Err(PkiError::TooLong { origin: path.as_path().into(), limit: MAX_FILE });
    }
    save(&path, list.pem().as_bytes(), 0o644, Existing::Replace)?;
    drop(lock);
    let before = previous.map_or(0, |previous| previous.revoked().len());
    Ok(Extended { added: list.revoked().len().saturating_sub(before), list })
}

/// Loads the list of certificates that the authority `stem` has taken back, if it has one.
///
/// # Errors
/// [`PkiError::BadRevocationList`] when it is not the authority's own; [`PkiError::Read`].
pub fn load_revocations(stem: &Path, authority: &Authority) -> Result<Option<RevocationList>, PkiError> {
    let path = revocations(stem);
    match read(&path) {
        Ok(pem) => authority.read_revocations(&pem, &path.as_path().into()).map(Some),
        Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

/// Where the authority `stem` keeps its list of revoked certificates.
pub fn revocations(stem: &Path) -> PathBuf {
    with_suffix(stem, ".crl.pem")
}

/// Whoever holds the lock on an authority's private key may write the authority's files; until it is dropped.
pub(super) fn lock(key: &Path) -> Result<File, PkiError> {
    let file = open_key(key)?;
    file.lock().map_err(|source| PkiError::Read { path: key.into(), source })?;
    Ok(file)
}

fn last_serial(path: &Path) -> Result<Option<u64>, PkiError> {
    match read(path) {
        Ok(text) => {
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
            number.map(Some).ok_or_else(|| PkiError::BadSerialFile { path: path.into() })
        }
        Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

fn save(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), PkiError> {
    let temporary = temporary(path);
    let saved = fill(&temporary, bytes, mode).and_then(|()| publish(&temporary, path, existing));
    if saved.is_err() {
        // The failure that matters is the one being reported.
        fs::remove_file(&temporary).ok();
    }
    saved.map_err(|source| match source.kind() == io::ErrorKind::AlreadyExists {
        true => PkiError::AlreadyExists { path: path.into() },
        false => PkiError::Write { path: path.into(), source },
    })
}

/// A name in the same directory, so that it can be renamed, and not taken by another writer.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{}.new", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // Created for its owner alone: between creation and chmod nobody else can have opened a key.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn publish(temporary: &Path, path: &Path, existing: Existing) -> io::Result<()> {
    match existing {
        Existing::Replace => fs::rename(temporary, path)?,
        // A link, unlike a rename, never takes the place of a file that somebody made meanwhile.
        Existing::Keep => {
            fs::hard_link(temporary, path)?;
            fs::remove_file(temporary)?;
        }
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

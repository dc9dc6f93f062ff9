//! The simplest machine data base: a JSON file that somebody else replaces when it changes.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use dominator_core::machine::Mdb;
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, MachineSource, MachineSourceError};

/// A file in the reference's JSON, looked at twice a second and read again when it has changed.
///
/// A file that can't be read, or is half-written, is reported once; the machines known before stay until it is right.
#[derive(Debug)]
pub struct MdbFile {
    path: PathBuf,
    /// What the file looked like when it was last read or found wrong.
    stamp: Option<Stamp>,
    /// What it said when it was last right.
    contents: Option<ObjectId>,
}

impl MdbFile {
    /// How long a change may go unnoticed.
    pub const INTERVAL: Duration = Duration::from_millis(500);

    /// The machines in the file at `path`. It is opened only by [`MachineSource::next`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), stamp: None, contents: None }
    }
}

#[async_trait]
impl MachineSource for MdbFile {
    async fn next(&mut self) -> Result<Mdb, MachineSourceError> {
        let mut ticks = tokio::time::interval(Self::INTERVAL);
        loop {
            ticks.tick().await;
            let (path, last) = (self.path.clone(), self.stamp);
            let looked = tokio::task::spawn_blocking(move || look(&path, last)).await;
            // Nothing is awaited from here on, so that a cancelled call forgets no change.
            let failed = |cause| MachineSourceError {
                what: format!("can't use the machine data base {}", self.path.display()),
                cause,
            };
            let Some(News { stamp, read }) = looked.map_err(|error| failed(Cause::new(error)))? else {
                continue;
            };
            let again = self.stamp.replace(stamp) == Some(stamp);
            match read {
                Err(_) if again => {}
                Err(cause) => return Err(failed(cause)),
                Ok((_, contents)) if self.contents == Some(contents) => {}
                Ok((mdb, contents)) => {
                    self.contents = Some(contents);
                    return Ok(mdb);
                }
            }
        }
    }
}

/// What tells one state of the file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Missing,
    Present { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self::Present {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it says little yet: before Linux 6.13, what is written twice within a tick of the clock looks the same.
    fn is_fresh(&self) -> bool {
        const LONGER_THAN_A_TICK: Duration = Duration::from_secs(2);
        let Self::Present { changed: (seconds, _), .. } = *self else { return false };
        let changed = UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
        SystemTime::now() < changed + LONGER_THAN_A_TICK
    }
}

/// A state of the file that may be other than the last.
struct News {
    stamp: Stamp,
    read: Result<(Mdb, ObjectId), Cause>,
}

/// Reads the file unless it still looks like `last`, and that tells.
fn look(path: &Path, last: Option<Stamp>) -> Option<News> {
    // The stamp is taken before reading: a file that is written meanwhile looks different the next time.
    let opened = File::open(path).and_then(|file| Ok((Stamp::of(&file.metadata()?), file)));
    let (stamp, opened) = match opened {
        Ok((stamp, file)) => (stamp, Ok(file)),
        Err(error) => (Stamp::Missing, Err(Cause::new(error))),
    };
    (Some(stamp) != last || stamp.is_fresh())
        .then(|| News { stamp, read: opened.and_then(|mut file| parse(&mut file)) })
}

fn parse(file: &mut File) -> Result<(Mdb, ObjectId), Cause> {
    let limit = u64::try_from(Mdb::MAX_JSON).unwrap_or(u64::MAX).saturating_add(1);
    let mut json = Vec::new();
    file.take(limit).read_to_end(&mut json).map_err(Cause::new)?;
    let mdb = Mdb::from_json(&json).map_err(Cause::new)?;
    Ok((mdb, ObjectId::of(&json)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Time passes at once when there is nothing else to do.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    fn names(mdb: &Mdb) -> Vec<&str> {
        mdb.machines.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mdb.json");
        let write = |json: &str| {
            let temporary = directory.path().join("new");
            fs::write(&temporary, json).unwrap();
            fs::rename(&temporary, &path).unwrap();
        };
        block_on(async {
            let mut source = MdbFile::new(&path);
            assert!(source.next().await.unwrap_err().what.contains("mdb.json"));
            write(r#"{"Machines": [{"Hostname": "a"}]}"#);
            assert_eq!(names(&source.next().await.unwrap()), ["a"]);
            write(r#"{"Machines": [{"Hostname": "#);
            assert!(source.next().await.is_err());
            write(r#"[{"Hostname": "a"}, {"Hostname": "b"}]"#);
            assert_eq!(names(&source.next().await.unwrap()), ["a", "b"]);
        });
    }

    #[test]
    fn a_file_that_was_written_just_now_is_read_again_though_it_looks_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mdb.json");
        fs::write(&path, "[]").unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        assert!(stamp.is_fresh() && look(&path, Some(stamp)).is_some());
        let Stamp::Present { device, inode, size, modified, changed: (seconds, nanos) } = stamp else {
            panic!("it is there")
        };
        let long_ago = Stamp::Present { device, inode, size, modified, changed: (seconds - 60, nanos) };
        assert!(!long_ago.is_fresh() && !Stamp::Missing.is_fresh());
    }

    #[test]
    fn a_file_that_says_the_same_again_is_no_news() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mdb.json");
        fs::write(&path, r#"[{"Hostname": "a"}]"#).unwrap();
        block_on(async {
            let mut source = MdbFile::new(&path);
            assert_eq!(names(&source.next().await.unwrap()), ["a"]);
            fs::write(&path, r#"[{"Hostname": "a"}]"#).unwrap();
            let again = tokio::time::timeout(3 * MdbFile::INTERVAL, source.next()).await;
            assert!(again.is_err(), "{again:?}");
            fs::write(&path, r#"[{"Hostname": "c"}]"#).unwrap();
            assert_eq!(names(&source.next().await.unwrap()), ["c"]);
        });
    }
}

//! Adding the contents of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Cause, ObjectSource, Piece, Pieces, StoreError, Verified};
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;
use futures_util::stream;
use serde::Serialize;

/// What was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Added {
    objects: Vec<AddedFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct AddedFile {
    file: String,
    object: String,
    bytes: u64,
    /// Whether the server lacked it.
    sent: bool,
}

impl Show for Added {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for AddedFile { file, object, bytes, sent } in &self.objects {
            let words = if *sent { "" } else { ", which was there" };
            writeln!(out, "{object}  {file} ({}{words})", HumanBytes(*bytes))?;
        }
        Ok(())
    }
}

/// Adds the contents of files.
///
/// # Errors
/// [`Failure`] when one can't be read, or sent; what was complete before stays.
pub(crate) async fn add(objects: &RemoteObjects, paths: Vec<PathBuf>) -> Result<Added, Failure> {
    let hashing = tokio::task::spawn_blocking(move || {
        let hashed = |path: PathBuf| {
            let during = format!("can't read {}", path.display());
            digest(&path).during(|| during).map(|(id, size)| (path, id, size))
        };
        paths.into_iter().map(hashed).collect::<Result<Vec<_>, Failure>>()
    });
    let files = hashing.await.during(|| "reading was broken off".into())??;
    let source = Files(files.iter().map(|(path, id, size)| (*id, (path.clone(), *size))).collect());
    let offers: BTreeMap<ObjectId, u64> = files.iter().map(|(_, id, size)| (*id, *size)).collect();
    let offers: Vec<_> = offers.into_iter().collect();
    let sent = objects.push(&offers, &source).await.during(|| "can't send objects".into())?;
    let sent: BTreeSet<ObjectId> = sent.iter().map(Verified::id).collect();
    let added = |(path, id, bytes): (PathBuf, ObjectId, u64)| AddedFile {
        file: path.display().to_string(),
        object: id.to_string(),
        bytes,
        sent: sent.contains(&id),
    };
    Ok(Added { objects: files.into_iter().map(added).collect() })
}

fn digest(path: &Path) -> io::Result<(ObjectId, u64)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut size) = (ObjectHasher::new(), 0);
    let mut buffer = vec![0; Piece::MAX_DATA];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Files by the digest of their contents. One that changes meanwhile is refused by the server, which hashes what comes.
struct Files(BTreeMap<ObjectId, (PathBuf, u64)>);

#[async_trait]
impl ObjectSource for Files {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let mut files = Vec::new();
        for id in wanted {
            let (path, size) = self.0.get(&id).ok_or(StoreError::NotFound { id })?;
            files.push(Sending { id, path: path.clone(), size: *size, left: *size, file: None });
        }
        files.reverse();
        // A piece is a quarter of a megabyte: reading it takes no longer than what a thread of the runtime may be kept.
        Ok(Pieces::new(stream::iter(Sendings(files))))
    }
}

struct Sending {
    id: ObjectId,
    path: PathBuf,
    size: u64,
    left: u64,
    file: Option<File>,
}

impl Sending {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        let Some(file) = &mut self.file else {
            self.file = Some(File::open(&self.path)?);
            return Ok(Some(Piece::Begin { id: self.id, size: self.size }));
        };
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(Piece::MAX_DATA).min(Piece::MAX_DATA);
        let mut part = vec![0; wanted];
        file.read_exact(&mut part)?;
        self.left -= wanted as u64;
        Ok(Some(Piece::Data(part.into())))
    }
}

/// What is to be sent, the last one first.
struct Sendings(Vec<Sending>);

impl Iterator for Sendings {
    type Item = Result<Piece, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let sending = self.0.last_mut()?;
            let what = format!("{} can't be read", sending.path.display());
            match sending.next() {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => drop(self.0.pop()),
                Err(error) => {
                    self.0.clear();
                    return Some(Err(StoreError::Failed { what, cause: Cause::new(error) }));
                }
            }
        }
    }
}

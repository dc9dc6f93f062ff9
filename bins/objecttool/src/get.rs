//! Getting objects. Every one is hashed before its last bytes are written.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::export::{ExportError, ObjectStream as _};
use dominator_fs::store::ports::PortStream;
use dominator_rpc::client::RemoteObjects;
use serde::Serialize;
use tokio::runtime::Handle;

/// An object that was got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Got {
    object: String,
    bytes: u64,
    to: String,
}

impl Show for Got {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} in {}: {}", self.object, self.to, HumanBytes(self.bytes))
    }
}

/// Gets one. Without a place, it goes to standard output, and there is nothing to show.
///
/// # Errors
/// [`Failure`]; a file that is not whole is removed.
pub(crate) async fn one(
    objects: RemoteObjects,
    id: ObjectId,
    to: Option<PathBuf>,
) -> Result<Option<Got>, Failure> {
    let mut objects = PortStream::new(Arc::new(objects), Handle::current());
    let work = move || -> Result<Option<Got>, ExportError> {
        match to {
            None => {
                let mut out = io::stdout().lock();
                objects.stream(&[id], &mut |_, contents| copy(contents, &mut out).map(drop))?;
                Ok(None)
            }
            Some(to) => {
                let mut bytes = 0;
                let got = objects.stream(&[id], &mut |_, contents| {
                    bytes = save(contents, &to)?;
                    Ok(())
                });
                if got.is_err() {
                    // The failure that counts is the other one.
                    drop(fs::remove_file(&to));
                }
                got?;
                Ok(Some(Got { object: id.to_string(), bytes, to: to.display().to_string() }))
            }
        }
    };
    let got = tokio::task::spawn_blocking(work).await.during(|| "getting was broken off".into())?;
    got.during(|| format!("can't get {id}"))
}

/// Objects that were got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Many {
    directory: String,
    objects: Vec<One>,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct One {
    object: String,
    bytes: u64,
}

impl Show for Many {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} objects of {} in {}", self.objects.len(), HumanBytes(self.bytes), self.directory)
    }
}

/// Gets those in a list.
///
/// # Errors
/// [`Failure`]; those that were whole before stay.
pub(crate) async fn many(objects: RemoteObjects, list: &Path, directory: PathBuf) -> Result<Many, Failure> {
    let ids = read_list(list)?;
    let during = || format!("can't write to {}", directory.display());
    fs::create_dir_all(&directory).during(during)?;
    let mut objects = PortStream::new(Arc::new(objects), Handle::current());
    let place = directory.clone();
    let work = move || {
        let mut got = Vec::new();
        let streamed = objects.stream(&ids, &mut |id, contents| {
            let path = place.join(id.to_string());
            let saved = save(contents, &path);
            if saved.is_err() {
                drop(fs::remove_file(&path));
            }
            got.push(One { object: id.to_string(), bytes: saved? });
            Ok(())
        });
        streamed.map(|()| got)
    };
    let got = tokio::task::spawn_blocking(work).await.during(|| "getting was broken off".into())?;
    let objects = got.during(|| "can't get all of them".into())?;
    let bytes = objects.iter().map(|one| one.bytes).sum();
    Ok(Many { directory: directory.display().to_string(), objects, bytes })
}

/// The digests in a file, each once.
fn read_list(list: &Path) -> Result<Vec<ObjectId>, Failure> {
    let during = || format!("can't read {}", list.display());
    let mut ids: Vec<ObjectId> = Vec::new();
    let mut lines = BufReader::new(File::open(list).during(during)?.take(MAX_LIST));
    let mut line = String::new();
    while lines.read_line(&mut line).during(during)? > 0 {
        // What sha256sum prints has the name of the file behind it.
        if let Some(word) = line.split_whitespace().next() {
            ids.push(word.parse().during(|| format!("{word:?} in {} names no object", list.display()))?);
        }
        line.clear();
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// The longest list, in bytes: about a million objects.
const MAX_LIST: u64 = 64 * 1024 * 1024;

fn save(contents: &mut dyn Read, path: &Path) -> Result<u64, ExportError> {
    let mut out = BufWriter::new(File::create(path).map_err(ExportError::Output)?);
    let bytes = copy(contents, &mut out)?;
    out.flush().map_err(ExportError::Output)?;
    Ok(bytes)
}

fn copy(contents: &mut dyn Read, out: &mut dyn Write) -> Result<u64, ExportError> {
    io::copy(contents, out).map_err(ExportError::Output)
}

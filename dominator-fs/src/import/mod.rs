//! Images out of what already is: [`directory`] and [`tar`] turn a tree into objects for a sink and a [`Snapshot`] that
//! names them. Neither holds more than a few files in memory, whatever the size of the tree.

#[cfg(feature = "compressed")]
mod compressed;
mod directory;
#[cfg(feature = "tokio")]
mod source;
mod tar;

#[cfg(feature = "compressed")]
pub use compressed::{UnpackLimits, UnpacksToTooMuch, unpacked};
pub use directory::{Watched, contents, directory, directory_again};
#[cfg(feature = "tokio")]
pub use source::TreeSource;
pub use tar::{ArchiveFault, tar};

use std::io::{self, Read};

use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::StoreError;
use dominator_core::tree::Snapshot;
use dominator_core::view::XattrPolicy;
use thiserror::Error;

use crate::scan::ScanError;
use crate::store::objects::AddBatch;

/// Where the objects of an image go: a store here, or one at the other end of a connection.
pub trait ObjectSink {
    /// Which of the objects offered, each with its length in bytes, are not there yet.
    ///
    /// # Errors
    /// [`StoreError`] when that can't be found out.
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError>;

    /// Takes an object in. It need not be there before the sink was told that all have come.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the contents are not those of the object; [`StoreError`].
    fn put(&mut self, id: ObjectId, size: u64, contents: &mut dyn Read) -> Result<(), StoreError>;
}

/// Objects are there when [`AddBatch::finish`] returns.
impl ObjectSink for AddBatch {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        let mut wanted = Vec::new();
        for (id, size) in offered {
            if !self.has(*id, *size)? {
                wanted.push(*id);
            }
        }
        Ok(wanted)
    }

    fn put(&mut self, id: ObjectId, size: u64, contents: &mut dyn Read) -> Result<(), StoreError> {
        let mut object = self.begin(id, size)?;
        object.write_all(contents)?;
        self.add(object)
    }
}

/// What of a tree is imported.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// What it matches is left out.
    pub filter: &'a Filter,
    /// Extended attributes of other classes are left out, too.
    pub xattrs: XattrPolicy,
}

/// All extended attributes.
impl<'a> From<&'a Filter> for Selection<'a> {
    fn from(filter: &'a Filter) -> Self {
        Self { filter, xattrs: XattrPolicy::ALL }
    }
}

/// Wants nothing: for those who need only the tree of an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl ObjectSink for Nowhere {
    fn want(&mut self, _offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&mut self, id: ObjectId, _size: u64, _contents: &mut dyn Read) -> Result<(), StoreError> {
        Err(StoreError::Protocol(format!("object {id} came, which nobody wanted")))
    }
}

/// A tree that was imported. All its objects, its directories and hard links among them, were given to the sink.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The tree, under [`View::everything`](dominator_core::view::View::everything).
    pub snapshot: Snapshot,
    /// Which classes of extended attributes the source could carry, of those that were selected.
    pub xattrs: XattrPolicy,
    /// How many extended attributes were dropped because the model does not carry their class, or the archive has them
    /// in a form that is not read here. Those that were not selected don't count.
    pub attributes_dropped: u64,
}

/// Why nothing was imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The directory could not be looked at.
    #[error("the directory can't be scanned")]
    Scan(#[source] ScanError),
    /// Part of the directory could not be read. An image must be whole: make it readable, or filter it out.
    #[error("{count} paths of the directory can't be imported; make them readable or filter them out: {list}", list = paths.join(", "))]
    Unreadable {
        /// The first of them, with what is wrong.
        paths: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// Somebody writes in the directory. Import one that is at rest.
    #[error("{path} changed while it was imported; import a directory that is at rest")]
    Changed {
        /// What changed.
        path: ImagePath,
    },
    /// The archive is compressed.
    #[error("the archive is compressed with {format}; decompress it first")]
    Compressed {
        /// The program for it.
        format: &'static str,
    },
    /// A member of the archive can't be part of an image.
    #[error("archive member {member:?}: {fault}")]
    Member {
        /// Its name as in the archive.
        member: String,
        /// What is wrong.
        fault: ArchiveFault,
    },
    /// The archive is broken.
    #[error("the archive is broken at byte {offset}: {fault}")]
    Archive {
        /// Where.
        offset: u64,
        /// How.
        fault: ArchiveFault,
    },
    /// The archive could not be read.
    #[error("the archive can't be read on")]
    Input(#[source] io::Error),
    /// The temporary file failed.
    #[error("the temporary file failed; set TMPDIR to a directory with room")]
    Spool(#[source] io::Error),
    /// The sink failed.
    #[error("the objects can't be stored")]
    Sink(#[source] StoreError),
}

/// How many objects are offered to a sink at a time.
const OFFER: usize = 1024;

/// Gives the directories and hard links of a tree to the sink.
fn deliver(snapshot: &Snapshot, sink: &mut dyn ObjectSink) -> Result<(), ImportError> {
    let links = snapshot.links.encode();
    let mut waiting = vec![(snapshot.tree.links.0, links.as_slice())];
    for (id, directory) in snapshot.directories.iter() {
        waiting.push((id.0, directory.encoded()));
        if waiting.len() >= OFFER {
            give(&waiting, sink)?;
            waiting.clear();
        }
    }
    give(&waiting, sink)
}

fn give(waiting: &[(ObjectId, &[u8])], sink: &mut dyn ObjectSink) -> Result<(), ImportError> {
    let offered: Vec<_> = waiting.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
    let wanted = sink.want(&offered).map_err(ImportError::Sink)?;
    for (id, bytes) in waiting.iter().filter(|(id, _)| wanted.contains(id)) {
        sink.put(*id, bytes.len() as u64, &mut &**bytes).map_err(ImportError::Sink)?;
    }
    Ok(())
}

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::herd::{CompareError, Required};
use dominator_core::object::ObjectId;
use dominator_core::plan::{Compared, Comparison, DiffError};
use dominator_core::port::{Agent, Cause};
use dominator_core::tree::{Directory, DirectoryId, DirectoryMap, LinkSets, Tree};
use tokio::sync::Semaphore;

use super::directories::DirectoryCache;
use crate::limits;
use crate::wire::length;

/// Compares a machine with what it must be. Only directories that differ are asked for, and of those only the ones no
/// machine has shown lately. What comes from the machine is hashed before it is used.
///
/// Safe to cancel: nothing was changed anywhere.
pub(super) async fn compare(
    agent: &dyn Agent,
    required: Arc<Required>,
    actual: Tree,
    cache: &Arc<DirectoryCache>,
    room: &Semaphore,
) -> Result<Compared, CompareError> {
    let mut state = Comparing {
        required,
        actual,
        links: None,
        directories: DirectoryMap::default(),
        fresh: Vec::new(),
        left: limits::DIRECTORY_BYTES,
        cache: cache.clone(),
    };
    let mut came = Vec::new();
    loop {
        let place = room.acquire().await.map_err(malformed)?;
        let round = tokio::task::spawn_blocking(move || {
            let step = state.step(came);
            (state, step)
        });
        let (after, step) = round.await.map_err(malformed)?;
        drop(place);
        state = after;
        match step? {
            Step::Done(compared) => return Ok(*compared),
            Step::Missing(ids) => {
                let ids: Vec<ObjectId> = ids.into_iter().collect();
                let encodings = agent.directories(ids.clone()).await?;
                if ids.len() != encodings.len() {
                    return Err(malformed("not as many directories came as were asked for"));
                }
                came = ids.into_iter().zip(encodings).collect();
            }
        }
    }
}

/// A comparison under way.
struct Comparing {
    required: Arc<Required>,
    actual: Tree,
    links: Option<LinkSets>,
    /// Of the machine, as far as they are needed.
    directories: DirectoryMap,
    /// Those of them that nobody has looked into yet.
    fresh: Vec<Arc<Directory>>,
    /// How many bytes of directories may still come.
    left: u64,
    cache: Arc<DirectoryCache>,
}

enum Step {
    Done(Box<Compared>),
    Missing(BTreeSet<ObjectId>),
}

impl Comparing {
    /// Takes in what came and goes as far as it can.
    fn step(&mut self, came: Vec<(ObjectId, Bytes)>) -> Result<Step, CompareError> {
        for (id, bytes) in came {
            self.take(id, bytes)?;
        }
        loop {
            let fresh = std::mem::take(&mut self.fresh);
            let mut missing = self.comparison().missing_below(fresh.iter().map(Arc::as_ref));
            if missing.is_empty() {
                missing = match self.comparison().plan() {
                    Ok(compared) => return Ok(Step::Done(Box::new(compared))),
                    Err(DiffError::Missing(missing)) => missing,
                    Err(error) => return Err(malformed(error)),
                };
            }
            let unknown: BTreeSet<_> = missing.into_iter().filter(|id| !self.recall(*id)).collect();
            if !unknown.is_empty() {
                return Ok(Step::Missing(unknown));
            }
        }
    }

    fn comparison(&self) -> Comparison<'_, DirectoryMap> {
        Comparison {
            required: &self.required.tree,
            actual: &self.actual,
            links: self.links.as_ref(),
            directories: &self.directories,
        }
    }

    /// Whether the cache had the directory.
    fn recall(&mut self, id: ObjectId) -> bool {
        let id = DirectoryId(id);
        match self.cache.find(&id) {
            Some(directory) => {
                self.directories.share(id, directory.clone());
                self.fresh.push(directory);
                true
            }
            None => false,
        }
    }

    fn take(&mut self, id: ObjectId, bytes: Bytes) -> Result<(), CompareError> {
        if ObjectId::of(&bytes) != id {
            return Err(malformed(format!("what came as {id} is something else")));
        }
        let left = self.left.checked_sub(length(&bytes));
        self.left = left.ok_or_else(|| malformed("its directories are larger than allowed"))?;
        if id == self.actual.links.0 {
            self.links = Some(LinkSets::decode(&bytes).map_err(malformed)?);
        } else {
            let directory = Arc::new(Directory::decode(bytes).map_err(malformed)?);
            self.cache.insert(DirectoryId(id), directory.clone());
            self.directories.share(DirectoryId(id), directory.clone());
            self.fresh.push(directory);
        }
        Ok(())
    }
}

fn malformed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(cause: E) -> CompareError {
    CompareError::Tree(Cause::new(cause))
}

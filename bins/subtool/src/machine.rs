//! What stands on a machine, path by path: directories are got as they are looked into.

use std::collections::BTreeSet;
use std::time::Duration;

use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::port::{Agent, PollRequest, Scanned};
use dominator_core::tree::{Directories as _, Directory, DirectoryId, DirectoryMap, Tree, TreeId};
use dominator_core::view::ViewId;
use dominator_daemon::{During, Failure};

use crate::compared::directories_of;

/// How long the agent may take to answer with a scan.
const WAIT: Duration = Duration::from_secs(30);

/// The tree of a machine under the view in force.
pub(crate) struct MachineTree<'a> {
    agent: &'a dyn Agent,
    tree: Tree,
    directories: DirectoryMap,
}

impl<'a> MachineTree<'a> {
    /// How many paths below one are looked up at most.
    const MAX_BELOW: usize = 1_000_000;

    /// What the agent saw last.
    ///
    /// # Errors
    /// [`Failure`], also when it has seen nothing yet and was not told what to look at.
    pub(crate) async fn of(agent: &'a dyn Agent) -> Result<Self, Failure> {
        let mut known = None;
        loop {
            let request = PollRequest { view: None, known, wait: WAIT };
            let reply = agent.poll(request).await.during(|| "can't poll".into())?;
            known = Some(reply.status.generation);
            match reply.scanned {
                Scanned::Tree(tree) => return Ok(Self { agent, tree, directories: DirectoryMap::default() }),
                Scanned::NotYet => {}
                Scanned::NeedView => {
                    return Err(Failure::new(
                        "nobody has told the agent yet what to look at; show-update-request does, for an image",
                    ));
                }
            }
        }
    }

    /// Which tree that is.
    pub(crate) fn id(&self) -> TreeId {
        self.tree.id()
    }

    /// Under which view.
    pub(crate) fn view(&self) -> ViewId {
        self.tree.view
    }

    /// What stands at a path, if anything.
    pub(crate) async fn inode(&mut self, path: &ImagePath) -> Result<Option<Inode>, Failure> {
        let mut inode = self.tree.root.clone();
        for name in path.names() {
            let Some(id) = inode.directory() else { return Ok(None) };
            self.get(&BTreeSet::from([id])).await?;
            let found = self.directories.directory(&id).and_then(|directory| {
                directory.iter().find(|entry| entry.name() == name.as_bytes()).map(|entry| entry.inode())
            });
            let Some(found) = found else { return Ok(None) };
            inode = found;
        }
        Ok(Some(inode))
    }

    /// The path and all below, each with whether it is a directory: what lies in one comes before it.
    pub(crate) async fn below(
        &mut self,
        path: &ImagePath,
        inode: &Inode,
    ) -> Result<Vec<(ImagePath, bool)>, Failure> {
        let mut found = vec![(path.clone(), inode.is_directory())];
        let mut level: Vec<_> = inode.directory().map(|id| (path.clone(), id)).into_iter().collect();
        while !level.is_empty() {
            self.get(&level.iter().map(|(_, id)| *id).collect()).await?;
            let mut next = Vec::new();
            for (at, id) in &level {
                let directory = self.directories.directory(id);
                for entry in directory.iter().flat_map(|directory| directory.iter()) {
                    let path = entry.path_in(at).during(|| format!("what is in {at} can't be named"))?;
                    found.push((path.clone(), entry.directory().is_some()));
                    next.extend(entry.directory().map(|id| (path, id)));
                }
            }
            if found.len() > Self::MAX_BELOW {
                return Err(Failure::new(format!("more than {} paths are below {path}", Self::MAX_BELOW)));
            }
            level = next;
        }
        found.reverse();
        Ok(found)
    }

    async fn get(&mut self, ids: &BTreeSet<DirectoryId>) -> Result<(), Failure> {
        let lacking = ids.iter().filter(|id| self.directories.directory(id).is_none());
        for (_, bytes) in directories_of(self.agent, &lacking.map(|id| id.0).collect()).await? {
            let directory = Directory::decode(bytes).during(|| "the machine's tree makes no sense".into())?;
            self.directories.insert(directory);
        }
        Ok(())
    }
}

//! A file-system that remembers everything that is done to it, so that a power cut at any moment can be played.
//!
//! [`CrashFs`] is a [`Seam`](dominator_fs::seam::Seam) over a directory. Every change is made for real, and written down: [`CrashFs::record`] gives
//! the [`Recording`], [`Recording::crashes`] every state that a crash at any point of it may leave, and
//! [`CrashFs::restore`] puts the directory into such a state, of the very same inodes: what was recorded as the number of
//! an inode is still that number. Nothing is ever waited for, which makes thousands of states a matter of seconds.
//!
//! What is changed past the seam is not known to it; [`CrashFs::check`] finds that out.

mod disk;
mod judge;
mod log;
mod mutant;
mod seam;
mod stage;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use judge::{Path as TreePath, Thing, Tree, difference, each_old_or_new};
pub use log::{Crash, Data, How, Recording};
pub use mutant::Fault;
pub use stage::{Stage, Sweep, require};
pub use world::{Attributes, Body, Node, NodeId, World};

use log::{Entry, Op};

/// A directory whose every change is made, and remembered. One thread at a time should change it: the order in which
/// things are done is what this is about.
#[derive(Debug)]
pub struct CrashFs {
    /// Where inodes wait that have no name at the moment.
    hoard: OwnedFd,
    state: Mutex<State>,
}

/// What is known.
#[derive(Debug)]
struct State {
    /// What is there now, with all inodes that wait in the hoard.
    live: World,
    log: Vec<Entry>,
    handles: BTreeMap<NodeId, OwnedFd>,
    numbers: HashMap<u64, NodeId>,
    next: u32,
}

impl CrashFs {
    /// Watches the directory `root` and all that is in it. `hoard` must be an empty directory beside it, on the same
    /// file-system.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn over(root: &Path, hoard: &Path) -> Self {
        Self { hoard: disk::directory(hoard), state: Mutex::new(State::over(root)) }
    }

    /// Writes down what `work` does.
    pub fn record<T>(&self, work: impl FnOnce() -> T) -> (Recording, T) {
        let base = {
            let mut state = self.state();
            state.log.clear();
            state.live.clone().reachable()
        };
        let done = work();
        let log = std::mem::take(&mut self.state().log);
        (Recording { base, log }, done)
    }

    /// Writes down that something was promised: from here on, a crash must not take it back.
    pub fn promise(&self, what: &'static str) {
        self.state().note(Op::Mark(what), Vec::new(), None);
    }

    /// What is there now.
    pub fn world(&self) -> World {
        self.state().live.clone().reachable()
    }

    /// Puts what is there into a state it was in, or could have been in, since [`Self::over`] and the last
    /// [`Self::forget`].
    ///
    /// # Panics
    /// When it can't be.
    pub fn restore(&self, world: &World) {
        self.state().restore(&self.hoard, world);
    }

    /// A number that all inodes known by now are below.
    pub fn known(&self) -> NodeId {
        NodeId(self.state().next)
    }

    /// Lets go of all inodes from that number on; none of them may be in the tree.
    ///
    /// # Panics
    /// When one is.
    pub fn forget(&self, from: NodeId) {
        self.state().forget(&self.hoard, from);
    }

    /// Compares what is known with what is there.
    ///
    /// # Panics
    /// When it is not the same: something was changed past the seam, or the model is wrong.
    pub fn check(&self) {
        self.state().check();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked has said all there is to say.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CrashFs {
    fn drop(&mut self) {
        // Whoever made the directory can remove it again.
        self.state().unpin();
    }
}

impl World {
    /// What is in a directory, as it is.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn of(dir: &Path) -> Self {
        State::over(dir).live
    }
}

impl State {
    fn over(root: &Path) -> Self {
        let mut state = Self {
            live: World::default(),
            log: Vec::new(),
            handles: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
        };
        state.take_in(disk::directory(root));
        state
    }

    fn note(&mut self, op: Op, touched: Vec<NodeId>, after: Option<(NodeId, Attributes)>) {
        self.live.change(&op);
        if let Op::Write { node, offset, bytes } = &op {
            self.live.write(*node, *offset, bytes);
        }
        if let Some((node, attributes)) = &after {
            self.live.dress(*node, attributes);
        }
        self.log.push(Entry { op, touched, after });
    }
}

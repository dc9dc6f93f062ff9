//! An image server that copies another one, its *master*: the runtime of [`dominator_core::replica`].
//!
//! [`replicate`] makes two things of a store: a [`ReplicaImages`], to be served instead of it, which has the master add what is
//! uploaded before it is added here; and a [`Replicator`], a task that takes over what the master has and what it deletes.
//! A replica can be the master of others; they must not follow each other in a circle.

mod complete;
mod resuming;
mod runtime;
mod store;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dominator_core::auth::Role;
use dominator_core::backoff::Spread;
use dominator_core::image::ImageName;
use dominator_core::port::{ImageStore, ObjectStore, Replication, ReplicationStatus};
use dominator_core::replica::{Policy, Replica};
use tokio::sync::Notify;

pub use self::runtime::Replicator;
pub use self::store::ReplicaImages;
use crate::client::{RemoteImages, RemoteObjects};
use crate::transport::{Tls, connect_lazily};

/// The image server that is copied.
#[derive(Clone, Debug)]
pub struct Master {
    address: String,
    images: RemoteImages,
    objects: RemoteObjects,
}

impl Master {
    /// The one at `address`, as in `host:port`. The first call connects; all share one connection.
    pub fn new(tls: &Tls, address: &str) -> Self {
        let channel = connect_lazily(tls, address, Role::ImageServer);
        let (images, objects) = (RemoteImages::over(channel.clone()), RemoteObjects::over(channel));
        Self { address: address.into(), images, objects }
    }
}

/// What is kept here.
#[derive(Clone)]
pub struct Here {
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Their objects.
    pub objects: Arc<dyn ObjectStore>,
    /// What time it is.
    pub clock: fn() -> SystemTime,
}

/// Makes a replica of `master` out of what is kept `here`.
pub fn replicate(master: Master, here: Here, policy: Policy) -> (ReplicaImages, Replicator) {
    let number = RandomState::new().hash_one(&master.address);
    let spread = Spread::drawn(number);
    let replica = Mutex::new(Replica::new(policy, spread));
    let trouble = Mutex::new(Some("it was not reached yet".into()));
    let shared = Arc::new(Shared { master, here, replica, trouble, news: Notify::new() });
    (ReplicaImages::new(Arc::clone(&shared)), Replicator::new(shared, spread))
}

/// What the store and the task both know.
struct Shared {
    master: Master,
    here: Here,
    replica: Mutex<Replica>,
    /// Why the master can't be followed now.
    trouble: Mutex<Option<String>>,
    /// There may be something to look at.
    news: Notify,
}

impl Shared {
    fn replica(&self) -> MutexGuard<'_, Replica> {
        // Nothing in it panics half way through a change.
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replication for Shared {
    fn status(&self) -> ReplicationStatus {
        let trouble = self.trouble().clone();
        let replica = self.replica();
        ReplicationStatus {
            master: self.master.address.clone(),
            in_sync: trouble.is_none() && replica.is_in_sync(),
            trouble,
            behind: replica.behind(),
            held: replica.held().map(|(name, why)| (name.clone(), why)).collect(),
        }
    }

    fn accept_deletions(&self, names: &[ImageName]) -> Vec<ImageName> {
        let refused = self.replica().accept(names);
        self.news.notify_one();
        refused
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("master", &self.master.address).finish_non_exhaustive()
    }
}

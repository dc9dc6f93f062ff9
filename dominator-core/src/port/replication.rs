use crate::image::ImageName;
use crate::replica::Held;

/// How a replica stands to its master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// The address of the master, as in `host:port`.
    pub master: String,
    /// Why it can't be followed now.
    pub trouble: Option<String>,
    /// Whether all that the master has said is done, but for what is held.
    pub in_sync: bool,
    /// How many names are still to be looked at.
    pub behind: usize,
    /// Which images the master does not have as they are here, in order.
    pub held: Vec<(ImageName, Held)>,
}

/// What an operator is told of a replica, and may tell it.
pub trait Replication: Send + Sync {
    /// How it stands.
    fn status(&self) -> ReplicationStatus;

    /// Gives up images that are held: they are deleted when the master, asked once more, still does not have them. Returns
    /// those that are not held, or can't be given up.
    fn accept_deletions(&self, names: &[ImageName]) -> Vec<ImageName>;
}

use crate::root::{Root, Statx, born};

/// Which inode: its number, and when it was born, which tells it from those that had the number before. A rename changes
/// neither. Where a file-system keeps no time of birth, the number has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) ino: u64,
    /// Nanoseconds since 1970, wrapped to 64 bits: it is compared and nothing else. Zero where there is none.
    pub(super) generation: u64,
}

impl Root {
    /// The identity of an inode on the root's file-system.
    pub(super) fn id(&self, stat: &Statx) -> Id {
        // What comes from a lower layer is born again when it changes for the first time, a rename included. Its number stays.
        let born = born(stat).filter(|_| !self.is_layered());
        let generation = born.map_or(0, |time| {
            let seconds = u64::from_ne_bytes(time.seconds().to_ne_bytes());
            seconds.wrapping_mul(1_000_000_000).wrapping_add(time.nanos().into())
        });
        Id { ino: stat.stx_ino, generation }
    }
}

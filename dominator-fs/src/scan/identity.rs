//! What tells whether a file is the same as it was, without reading it.

use dominator_core::inode::Timestamp;
use rustix::fs::{FileType, Statx, StatxTimestamp};

/// Which file, on which file-system.
pub(crate) type FileKey = (u32, u64);

/// All that tells whether a file is the same, and the same as it was. 56 bytes, as there is one for each name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
    pub(super) mtime_nanos: u32,
    pub(super) ctime_nanos: u32,
    pub(super) dev: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// With the type of the file.
    pub(super) mode: u16,
    pub(super) links: Links,
    pub(super) freshness: Freshness,
}

/// Whether a file has other names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Links {
    #[default]
    One,
    Several,
}

/// Whether what was found can still change without a new time of change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It can: the file had changed a short while before.
    #[default]
    Fresh,
    /// It can't.
    Settled,
}

impl Identity {
    /// As `stat` tells it, and held to be fresh.
    pub(crate) fn of(stat: &Statx) -> Self {
        Self {
            ino: stat.stx_ino,
            size: stat.stx_size,
            mtime: stat.stx_mtime.tv_sec,
            ctime: stat.stx_ctime.tv_sec,
            mtime_nanos: stat.stx_mtime.tv_nsec,
            ctime_nanos: stat.stx_ctime.tv_nsec,
            dev: dev_of(stat),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mode: stat.stx_mode,
            links: if stat.stx_nlink > 1 { Links::Several } else { Links::One },
            freshness: Freshness::Fresh,
        }
    }

    /// Whether it is the same file, and the same as it was, fresh or not.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Self { freshness: other.freshness, ..*self } == *other
    }

    /// Whether it is the same file, as long and last written to as it was, whatever became of its owner, mode and names.
    pub(crate) fn is_as_written(&self, other: &Self) -> bool {
        let written = |one: &Self| (one.key(), one.file_type(), one.size, one.mtime, one.mtime_nanos);
        written(self) == written(other)
    }

    pub(crate) fn key(&self) -> FileKey {
        (self.dev, self.ino)
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    /// When the file last changed: the one time nobody can set.
    pub(crate) fn changed(&self) -> Timestamp {
        Timestamp::new(self.ctime, self.ctime_nanos).unwrap_or_default()
    }

    pub(super) fn with(self, freshness: Freshness) -> Self {
        Self { freshness, ..self }
    }
}

pub(super) fn key_of(stat: &Statx) -> FileKey {
    (dev_of(stat), stat.stx_ino)
}

pub(super) fn type_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

pub(super) fn mtime_of(stat: &Statx) -> Option<Timestamp> {
    let StatxTimestamp { tv_sec, tv_nsec, .. } = stat.stx_mtime;
    Timestamp::new(tv_sec, tv_nsec)
}

/// As the kernel packs it: twelve bits of major and twenty of minor number.
fn dev_of(stat: &Statx) -> u32 {
    stat.stx_dev_major << 20 | stat.stx_dev_minor & 0xf_ffff
}

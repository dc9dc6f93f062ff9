use std::io;
use std::os::fd::BorrowedFd;

use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::view::{Ownership, View, XattrPolicy};
use rustix::io::Errno;

use crate::root::{Statx, xattrs_at, xattrs_itself};
use crate::seam::{At, Seam};

/// What of metadata an update may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(super) ownership: Ownership,
    pub(super) xattrs: XattrPolicy,
}

impl Rules {
    pub(crate) fn of(view: &View) -> Self {
        Self { ownership: view.ownership, xattrs: view.xattrs }
    }
}

/// The metadata of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Nothing for a symbolic link.
    pub(super) mode: Option<Mode>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) xattrs: Xattrs,
    /// Nothing for what keeps none here: directories and symbolic links.
    pub(super) mtime: Option<Timestamp>,
}

impl Attributes {
    /// Those an inode must have, as far as the rules let them be touched.
    pub(crate) fn of(inode: &Inode, rules: Rules) -> Self {
        let (symlink, mtime) = match inode.kind {
            Kind::Regular { mtime, .. }
            | Kind::BlockDevice { mtime, .. }
            | Kind::CharDevice { mtime, .. }
            | Kind::Fifo { mtime } => (false, Some(mtime)),
            Kind::Symlink { .. } => (true, None),
            Kind::Computed { .. } | Kind::Directory { .. } | Kind::Unknown { .. } => (false, None),
            _ => (false, None),
        };
        Self {
            mode: (!symlink).then_some(inode.mode),
            uid: inode.uid,
            gid: inode.gid,
            xattrs: inode.xattrs.retained(|name| rules.xattrs.covers(name)),
            mtime,
        }
    }

    /// Those an open file has, as far as the rules let them be touched.
    pub(crate) fn read(handle: BorrowedFd<'_>, stat: &Statx, rules: Rules) -> io::Result<Self> {
        let kind = rustix::fs::FileType::from_raw_mode(stat.stx_mode.into());
        let nanos = stat.stx_mtime.tv_nsec;
        Ok(Self {
            mode: (!kind.is_symlink()).then(|| Mode::from_st_mode(stat.stx_mode.into())),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            xattrs: xattrs_itself(handle, rules.xattrs)?,
            mtime: (!kind.is_symlink() && !kind.is_dir())
                .then(|| Timestamp::new(stat.stx_mtime.tv_sec, nanos))
                .flatten(),
        })
    }

    /// Whether these are as they must be, as far as the rules let them be touched.
    pub(crate) fn meet(&self, wanted: &Self, rules: Rules) -> bool {
        let owned = match rules.ownership {
            Ownership::Kept => (self.uid, self.gid) == (wanted.uid, wanted.gid),
            Ownership::Ignored => true,
        };
        owned && (self.mode, &self.xattrs, self.mtime) == (wanted.mode, &wanted.xattrs, wanted.mtime)
    }

    /// The same, but open to its owner.
    pub(crate) fn accessible(&self) -> Self {
        let open = |mode: Mode| Mode::from_st_mode(u32::from(mode.bits()) | 0o700);
        Self { mode: self.mode.map(open), ..self.clone() }
    }

    /// Whether it makes a program run with rights its caller lacks.
    pub(crate) fn is_privileged(&self) -> bool {
        self.mode.is_some_and(|mode| mode.bits() & 0o6000 != 0)
            || self.xattrs.value(b"security.capability").is_some()
    }
}

/// What extended attributes a new inode has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Present {
    Nothing,
    Unknown,
}

/// Gives a new inode, which only we can reach, its metadata. The owner comes first: `chown` takes set-uid bits and
/// capabilities away, and a set-uid bit must never meet the wrong owner. The time comes last.
pub(crate) fn dress(
    seam: &dyn Seam,
    at: At<'_>,
    present: Present,
    wanted: &Attributes,
    rules: Rules,
) -> io::Result<()> {
    if rules.ownership == Ownership::Kept {
        seam.chown(at, wanted.uid, wanted.gid)?;
    }
    let present = match present {
        Present::Nothing => Xattrs::default(),
        Present::Unknown => xattrs_at(at.dir, at.name, rules.xattrs)?,
    };
    set_xattrs(seam, at, &present, &wanted.xattrs)?;
    if let Some(mode) = wanted.mode {
        seam.chmod(at, mode)?;
    }
    wanted.mtime.map_or(Ok(()), |mtime| seam.set_mtime(at, mtime))
}

/// Changes the metadata of an inode that others may be using. `handle` is the inode itself. In between, nobody has more
/// access than both before and after, no set-uid bit is left, and a sticky directory is never open to everybody.
pub(crate) fn redress(
    seam: &dyn Seam,
    handle: BorrowedFd<'_>,
    before: &Attributes,
    wanted: &Attributes,
    rules: Rules,
) -> io::Result<()> {
    let at = At::itself(handle);
    let chown = rules.ownership == Ownership::Kept && (before.uid, before.gid) != (wanted.uid, wanted.gid);
    if let (Some(old), Some(new)) = (before.mode, wanted.mode) {
        // Without privileges, one's own access is needed for the rest.
        let own = if rules.ownership == Ownership::Ignored { 0o700 } else { 0 };
        // The sticky bit is the one that takes access away.
        let sticky = u32::from((old.bits() | new.bits()) & 0o1000);
        let between = Mode::from_st_mode(u32::from(old.bits() & new.bits() & 0o777) | sticky | own);
        if between != old && (chown || old != new) {
            seam.chmod(at, between)?;
        }
    }
    if chown {
        seam.chown(at, wanted.uid, wanted.gid)?;
    }
    let present = if chown { xattrs_itself(handle, rules.xattrs)? } else { before.xattrs.clone() };
    set_xattrs(seam, at, &present, &wanted.xattrs)?;
    if let Some(mode) = wanted.mode {
        seam.chmod(at, mode)?;
    }
    wanted.mtime.map_or(Ok(()), |mtime| seam.set_mtime(at, mtime))
}

fn set_xattrs(seam: &dyn Seam, at: At<'_>, present: &Xattrs, wanted: &Xattrs) -> io::Result<()> {
    for (name, _) in present.iter().filter(|(name, _)| wanted.value(name).is_none()) {
        match seam.remove_xattr(at, name) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODATA) => {}
            other => other?,
        }
    }
    wanted
        .iter()
        .filter(|(name, value)| present.value(name) != Some(value))
        .try_for_each(|(name, value)| seam.set_xattr(at, name, value))
}

//! What this process is able to see and set below a root: the machine's part in a view.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use dominator_core::filter::Filter;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::MachineTraits;
use dominator_core::view::{Granularity, Ownership, XattrClass, XattrPolicy};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::root::{Root, inode_of};
use crate::update::names_in;

/// What this process can do below `root`: owners count when it may set them, a class of extended attributes when the
/// file-system keeps it and the process may set it. Nothing is excluded: that is for the operator to say.
///
/// Protected are directories at the top of the root where a file-system of the kernel's making is mounted: `/proc`,
/// `/sys`, `/dev`, `/run` of a running machine. What an image has there lies hidden below the mount, out of reach, and
/// what is there instead is no image's concern. Other mounts are as they are found: an image may well have a say in
/// the directory they are mounted on. A root that is seen without what is mounted over it
/// ([`Root::open_beneath_mounts`]) has no such directories: what an image has there is within reach.
pub fn traits_of(root: &Root) -> MachineTraits {
    let held = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let may_set = |class| match class {
        XattrClass::Capability => held.contains(CapabilitySet::SETFCAP),
        XattrClass::Selinux => held.contains(CapabilitySet::SYS_ADMIN),
        // Of the files it owns, that is, as with everything else an unprivileged agent sets.
        XattrClass::PosixAcl | XattrClass::User => true,
    };
    let classes = XattrClass::ALL.into_iter().filter(|class| may_set(*class) && is_kept(root, *class));
    let chown = held.contains(CapabilitySet::CHOWN);
    MachineTraits {
        protected: kernel_mounts(root),
        exclusions: Filter::Empty,
        xattrs: XattrPolicy::of(classes),
        ownership: if chown { Ownership::Kept } else { Ownership::Ignored },
        mtime: Granularity::FINE,
    }
}

fn kernel_mounts(root: &Root) -> BTreeSet<ImagePath> {
    // A root that can't be listed can't be scanned either, and is told of then.
    let names = names_in(root.as_fd()).unwrap_or_default();
    let names = names.iter().filter(|name| is_kernel_mount(root, name).unwrap_or(false));
    names.filter_map(|name| ImagePath::root().join(&Name::parse(name).ok()?).ok()).collect()
}

fn is_kernel_mount(root: &Root, name: &[u8]) -> io::Result<bool> {
    /// proc, sysfs, tmpfs (and devtmpfs), ramfs.
    const MAGIC: [u64; 4] = [0x9fa0, 0x6265_6572, 0x0102_1994, 0x8584_58f6];
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(root, name, flags, rustix::fs::Mode::empty())?;
    if !root.is_elsewhere(&inode_of(&handle)?) {
        return Ok(false);
    }
    let magic = u64::try_from(rustix::fs::fstatfs(&handle)?.f_type);
    Ok(magic.is_ok_and(|magic| MAGIC.contains(&magic)))
}

/// Whether the file-system knows the class: it then says that the attribute is not there, not that there can be none.
pub(crate) fn is_kept(root: &Root, class: XattrClass) -> bool {
    let name = match class {
        XattrClass::Capability => c"security.capability",
        XattrClass::Selinux => c"security.selinux",
        XattrClass::PosixAcl => c"system.posix_acl_access",
        XattrClass::User => c"user.dominator",
    };
    matches!(rustix::fs::fgetxattr(root, name, &mut [0_u8; 1]), Ok(_) | Err(Errno::NODATA | Errno::RANGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_counts_only_where_it_can_be_kept() {
        let proc = Root::open(std::path::Path::new("/proc/self")).unwrap();
        assert!(!is_kept(&proc, XattrClass::User), "/proc keeps no user attributes");
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let name = dir.path().join("probe");
        std::fs::write(&name, b"").unwrap();
        let kept = rustix::fs::setxattr(&name, "user.x", b"y", rustix::fs::XattrFlags::empty()).is_ok();
        assert_eq!(traits_of(&root).xattrs.covers(b"user.x"), kept);
    }
}

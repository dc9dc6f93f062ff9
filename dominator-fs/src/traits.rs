//! What this process is able to see and set below a root: the machine's part in a view.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use dominator_core::filter::Filter;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::MachineTraits;
use dominator_core::view::{Granularity, Ownership, XattrClass, XattrPolicy};
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::root::{Root, inode_of, names_in};

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

/// How fine the times are that the file-system of `root` keeps. [`traits_of`] does not find out: it takes a file, made here
/// without a name, that is gone at once. An agent calls this, or it sets times for ever that are never kept: ext4 with
/// inodes of 128 bytes keeps whole seconds.
///
/// # Errors
/// What the kernel says: the root can't be written to, or its file-system has no files without names.
pub fn granularity_of(root: &Root) -> io::Result<Granularity> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, c".", flags, rustix::fs::Mode::from_raw_mode(0o600))?;
    // Its last digit is not 0: whatever is not kept shows.
    let wanted = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omitted, last_modification: wanted };
    rustix::fs::futimens(&file, &times)?;
    let kept = inode_of(&file)?.stx_mtime;
    Ok(granularity(123_456_789, kept.tv_nsec))
}

/// The finest power of ten that explains what was kept; whole seconds if none does.
fn granularity(wanted: u32, kept: u32) -> Granularity {
    let powers = (0..9).map(|power| 10_u32.pow(power)).filter(|nanos| wanted - wanted % nanos == kept);
    powers.filter_map(Granularity::nanos).next().unwrap_or(Granularity::SECOND)
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
    use dominator_fs_testkit::{Disk, left_out, mount_tmpfs, unmount, with_mounts};

    #[test]
    fn times_are_as_fine_as_the_file_system_keeps_them() {
        let test = "times_are_as_fine_as_the_file_system_keeps_them";
        for (kept, nanos) in
            [(123_456_789, 1), (123_456_700, 100), (123_000_000, 1_000_000), (0, 1_000_000_000)]
        {
            assert_eq!(granularity(123_456_789, kept).as_nanos(), nanos);
        }
        assert_eq!(granularity(123_456_789, 999), Granularity::SECOND, "nothing explains that");
        with_mounts(test, move || {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(dir.path(), "size=1m");
            assert_eq!(granularity_of(&Root::open(dir.path()).unwrap()).unwrap(), Granularity::FINE);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            unmount(dir.path());
            let disk = match Disk::made_with(16 << 20, &["-I", "128"]) {
                Ok(disk) => disk,
                Err(why) => return left_out(test, &why),
            };
            let root = Root::open(&disk.path()).unwrap();
            assert_eq!(granularity_of(&root).unwrap(), Granularity::SECOND);
        });
    }

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

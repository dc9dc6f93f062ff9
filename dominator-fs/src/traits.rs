//! What this process is able to see and set below a root: the machine's part in a view.

use std::collections::BTreeSet;

use dominator_core::filter::Filter;
use dominator_core::port::MachineTraits;
use dominator_core::view::{Granularity, Ownership, XattrClass, XattrPolicy};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::root::Root;

/// What this process can do below `root`: owners count when it may set them, a class of extended attributes when the
/// file-system keeps it and the process may set it. Nothing is protected or excluded: that is for the operator to say.
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
        protected: BTreeSet::new(),
        exclusions: Filter::Empty,
        xattrs: XattrPolicy::of(classes),
        ownership: if chown { Ownership::Kept } else { Ownership::Ignored },
        mtime: Granularity::FINE,
    }
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

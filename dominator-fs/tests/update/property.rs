use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use dominator_core::plan::Operation;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{Machine, is_root};

/// One step in making a random tree. Steps that don't fit the tree are passed over.
#[derive(Clone, Debug)]
pub(crate) enum Grow {
    Directory { at: String, mode: u32 },
    File { at: String, contents: u8, mode: u32, mtime: i64, note: bool },
    Symlink { at: String, to: String },
    Fifo { at: String },
    Device { at: String, minor: u32 },
    Link { at: String, to: String },
    Owner { at: String, uid: u32 },
}

pub(crate) fn grow(root: &Path, steps: &[Grow]) {
    let fixed = |at: &Path, mtime| {
        let time = Timespec { tv_sec: mtime, tv_nsec: 5 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    for step in steps {
        match step {
            Grow::Directory { at, mode } => {
                let at = root.join(at);
                if std::fs::create_dir(&at).is_ok() {
                    std::fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
                }
            }
            Grow::File { at, contents, mode, mtime, note } => {
                let at = root.join(at);
                if at.symlink_metadata().is_err()
                    && std::fs::write(&at, vec![*contents; usize::from(*contents)]).is_ok()
                {
                    if *note {
                        rustix::fs::setxattr(&at, "user.note", b"n", XattrFlags::empty()).unwrap();
                    }
                    std::fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
                    fixed(&at, *mtime);
                }
            }
            Grow::Symlink { at, to } => drop(symlink(to, root.join(at))),
            Grow::Fifo { at } => {
                if rustix::fs::mknodat(CWD, root.join(at), FileType::Fifo, Mode::RWXU, 0).is_ok() {
                    fixed(&root.join(at), 9);
                }
            }
            Grow::Device { at, minor } => {
                let device = rustix::fs::makedev(1, *minor);
                if rustix::fs::mknodat(CWD, root.join(at), FileType::CharacterDevice, Mode::RWXU, device)
                    .is_ok()
                {
                    fixed(&root.join(at), 9);
                }
            }
            Grow::Link { at, to } => drop(std::fs::hard_link(root.join(to), root.join(at))),
            Grow::Owner { at, uid } => {
                if is_root() {
                    drop(std::os::unix::fs::lchown(root.join(at), Some(*uid), None));
                }
            }
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(part, 1..=3).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Grow> {
    let mode = || prop::sample::select(vec![0o755, 0o700, 0o555]);
    let file_mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o400]);
    prop_oneof![
        4 => (name(), mode()).prop_map(|(at, mode)| Grow::Directory { at, mode }),
        4 => (name(), 0u8..3, file_mode, 1i64..3, any::<bool>())
            .prop_map(|(at, contents, mode, mtime, note)| Grow::File { at, contents, mode, mtime, note }),
        1 => (name(), name()).prop_map(|(at, to)| Grow::Symlink { at, to }),
        1 => name().prop_map(|at| Grow::Fifo { at }),
        1 => (name(), 3u32..6).prop_map(|(at, minor)| Grow::Device { at, minor }),
        4 => (name(), name()).prop_map(|(at, to)| Grow::Link { at, to }),
        1 => (name(), 0u32..2).prop_map(|(at, uid)| Grow::Owner { at, uid }),
    ]
}

pub(crate) fn objects_of(machine: &Machine, operations: &[Operation]) {
    for operation in operations {
        if let Operation::Put { inode, .. } = operation
            && let Some((_, size)) = inode.object()
        {
            machine.offer(&vec![u8::try_from(size).unwrap(); usize::try_from(size).unwrap()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_becomes_any_other(
        before in prop::collection::vec(step(), 0..25),
        after in prop::collection::vec(step(), 0..25),
    ) {
        let (mut machine, model) = (Machine::new(), Machine::new());
        grow(machine.dir.path(), &before);
        grow(model.dir.path(), &after);
        let required = model.scan();
        let plan = machine.plan_for(&required);
        objects_of(&machine, &plan.operations);
        let report = machine.updater.apply(&plan, &machine.view).unwrap();
        prop_assert_eq!(&report.failures, &[], "{:#?}", plan);
        prop_assert_eq!(&report.kept, &[]);
        prop_assert_eq!(machine.plan_for(&required).operations, []);
        prop_assert_eq!(machine.scan().id(), required.id());
        machine.is_tidy();
        // Applied to what it has made, a plan finds everything done, or says why not; it breaks nothing.
        objects_of(&machine, &plan.operations);
        let again = machine.updater.apply(&plan, &machine.view).unwrap();
        prop_assert_eq!(machine.scan().id(), required.id(), "{:?}", again);
    }
}

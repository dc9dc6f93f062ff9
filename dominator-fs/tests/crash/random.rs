//! Machines that have anything, and become anything else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use crate::play::Play;
use crate::update::{UNDO, UPDATE, all};

/// One thing in a tree. What does not fit is passed over.
#[derive(Clone, Debug)]
enum Thing {
    Directory { at: String, mode: u32 },
    File { at: String, contents: u8, mode: u32, mtime: i64 },
    Symlink { at: String, to: String },
    Pipe { at: String },
    Link { at: String, to: String },
}

fn grow(root: &Path, things: &[Thing]) {
    for thing in things {
        match thing {
            Thing::Directory { at, mode } => {
                if fs::create_dir(root.join(at)).is_ok() {
                    fs::set_permissions(root.join(at), Permissions::from_mode(*mode)).unwrap();
                }
            }
            Thing::File { at, contents, mode, mtime } => {
                let at = root.join(at);
                let bytes = vec![*contents; usize::from(*contents) * 300];
                if at.symlink_metadata().is_err() && fs::write(&at, bytes).is_ok() {
                    fs::set_permissions(&at, Permissions::from_mode(*mode)).unwrap();
                    timed(&at, *mtime);
                }
            }
            Thing::Symlink { at, to } => drop(symlink(to, root.join(at))),
            Thing::Pipe { at } => {
                if rustix::fs::mknodat(CWD, root.join(at), FileType::Fifo, Mode::RWXU, 0).is_ok() {
                    timed(&root.join(at), 9);
                }
            }
            Thing::Link { at, to } => drop(fs::hard_link(root.join(to), root.join(at))),
        }
    }
}

fn timed(at: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(part, 1..=3).prop_map(|parts| parts.join("/"))
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode = prop::sample::select(vec![0o755, 0o700, 0o1777]);
    let file_mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o400]);
    prop_oneof![
        5 => (name(), mode).prop_map(|(at, mode)| Thing::Directory { at, mode }),
        5 => (name(), 0u8..3, file_mode, 1i64..3)
            .prop_map(|(at, contents, mode, mtime)| Thing::File { at, contents, mode, mtime }),
        1 => (name(), name()).prop_map(|(at, to)| Thing::Symlink { at, to }),
        1 => name().prop_map(|at| Thing::Pipe { at }),
        4 => (name(), name()).prop_map(|(at, to)| Thing::Link { at, to }),
    ]
}

fn tree() -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec(thing(), 0..25)
}

fn cases() -> u32 {
    if all() { 1000 } else { 30 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_whatever_survives_a_crash_at_any_point(
        before in tree(),
        after in tree(),
        undo in any::<bool>(),
    ) {
        let play = Play::of(&|root| grow(root, &before), &|root| grow(root, &after));
        let case = if undo { &UNDO } else { &UPDATE };
        let swept = play.sweep_some(case, if all() { 1 } else { 7 }, 25, &|seam| seam);
        prop_assert!(swept.complaints.is_empty(), "{:#?}", swept.complaints);
    }
}

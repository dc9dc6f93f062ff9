//! Plans nobody in his right mind would make: names twice, files and directories of one name, what is protected, what is ours,
//! ways out of the root. Whatever they say, nothing outside or protected is touched, nothing is lost, and undoing gives each
//! path the very inode it had.

use std::os::unix::fs::symlink as make_symlink;

use dominator_core::inode::{Device, Inode, Kind, Timestamp};
use dominator_core::plan::{Operation, Plan};
use dominator_fs::update::{Reason, UpdateError};
use proptest::prelude::*;

use crate::property::{Grow, grow, objects_of};
use crate::seen::{Tree, identical, seen};
use crate::support::*;

/// Names of the tree, of what is not to be touched in it, and of nothing.
const NAMES: [&str; 24] = [
    "/",
    "/a",
    "/a/a",
    "/a/a/a",
    "/a/b",
    "/b",
    "/b/a",
    "/b/b",
    "/c",
    "/c/a",
    "/c/b",
    "/c/b/a",
    "/p",
    "/p/a",
    "/p/b",
    "/out",
    "/out/victim",
    "/out/new",
    "/.subd",
    "/.subd/slots",
    "/.subd/slots/2",
    "/.subd/journal",
    "/.subd/objects/x",
    "/none/at/all",
];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMES.to_vec())
}

fn any_inode() -> impl Strategy<Value = Inode> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o755, 0o1777, 0o000]);
    let mtime = Timestamp::new(3, 0).unwrap();
    (mode, 0_u8..3, 0_u32..3, any::<bool>()).prop_map(move |(mode, contents, kind, note)| {
        let contents = vec![contents; usize::from(contents)];
        // An ordinary user could not look at them afterwards.
        let mode = if is_root() { mode } else { mode | 0o400 };
        let mut inode = match kind {
            0 => symlink("/etc/passwd"),
            1 if is_root() => inode(mode, Kind::CharDevice { mtime, device: Device { major: 1, minor: 3 } }),
            1 => inode(mode, Kind::Fifo { mtime }),
            _ => file(mode, &contents),
        };
        if note && kind > 1 {
            inode.xattrs.insert(b"user.note", b"noted").unwrap();
        }
        inode
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let modes = prop::sample::select(vec![0o755, 0o700, 0o555, 0o1777]);
    let set_names = prop::collection::vec(name(), 1..4);
    prop_oneof![
        5 => (name(), any_inode()).prop_map(|(at, inode)| put(at, inode)),
        3 => (name(), modes.clone()).prop_map(|(at, mode)| make(at, mode)),
        4 => (name(), name()).prop_map(|(at, to)| link(at, to)),
        3 => (set_names, any_inode()).prop_map(|(paths, inode)| set(&paths, inode)),
        2 => (name(), modes).prop_map(|(at, mode)| set(&[at], directory(mode))),
        4 => name().prop_map(delete),
        4 => name().prop_map(delete_directory),
    ]
}

fn grown() -> impl Strategy<Value = Vec<Grow>> {
    let at = || name().prop_map(|name| name.trim_start_matches('/').to_owned());
    let step = prop_oneof![
        3 => at().prop_map(|at| Grow::Directory { at, mode: 0o755 }),
        4 => (at(), 0u8..3, any::<bool>())
            .prop_map(|(at, contents, note)| Grow::File { at, contents, mode: 0o644, mtime: 1, note }),
        2 => (at(), at()).prop_map(|(at, to)| Grow::Link { at, to }),
        1 => at().prop_map(|at| Grow::Symlink { at, to: "a".into() }),
    ];
    prop::collection::vec(step, 0..25).prop_map(|mut steps| {
        let ours = |at: &str| at.is_empty() || at.starts_with(".subd") || at.starts_with("out");
        steps.retain(|step| match step {
            Grow::Directory { at, .. } | Grow::File { at, .. } | Grow::Symlink { at, .. } => !ours(at),
            Grow::Link { at, to } => !ours(at) && !ours(to),
            _ => true,
        });
        steps.splice(0..0, ["a", "c", "p"].map(|at| Grow::Directory { at: at.to_owned(), mode: 0o755 }));
        steps
    })
}

/// What is protected, and whatever else has the same inodes.
fn protected(tree: &Tree) -> Tree {
    let protected = tree.iter().filter(|(name, _)| name.starts_with("/p/") || *name == "/p");
    // Names elsewhere may come and go.
    protected
        .map(|(name, seen)| {
            let mut seen = seen.clone();
            (seen.nlink, seen.names) = (None, [].into());
            (name.clone(), seen)
        })
        .collect()
}

fn check(before: &[Grow], plan: Plan) -> Result<(), TestCaseError> {
    let (mut machine, outside) = (Machine::new(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("victim"), b"v").unwrap();
    make_symlink(outside.path(), machine.at("/out")).unwrap();
    grow(machine.dir.path(), before);
    machine.view.protected.insert(path("/p"));
    let (old, beyond) = (seen(machine.dir.path()), seen(outside.path()));
    objects_of(&machine, &plan.operations);
    let outcome = machine.updater.apply(&plan, &machine.view);
    let now = seen(machine.dir.path());
    let same = identical(&protected(&now), &protected(&old));
    prop_assert!(same.is_ok(), "{plan:#?}\n{outcome:?}: {}", same.unwrap_err());
    let report = match outcome {
        Ok(report) => report,
        Err(UpdateError::Missing(_)) => return Ok(()),
        Err(error) => return Err(TestCaseError::fail(format!("{plan:#?}: {error:?}"))),
    };
    for failure in &report.failures {
        prop_assert!(!failure.reason.is_empty(), "{failure:?}");
    }
    if machine.updater.is_undoable() {
        // What such a plan contradicted itself in may be told of as somebody else's doing.
        machine.updater.undo(Reason::Asked).unwrap();
    }
    let same = identical(&seen(machine.dir.path()), &old);
    prop_assert!(same.is_ok(), "{plan:#?}\n{report:#?}: {}", same.unwrap_err());
    prop_assert_eq!(identical(&seen(outside.path()), &beyond), Ok(()), "outside the root: {:#?}", plan);
    machine.is_tidy();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_whatever_touches_what_is_outside_or_protected_and_every_one_can_be_undone(
        before in grown(),
        operations in prop::collection::vec(operation(), 1..12),
    ) {
        check(&before, Plan { operations })?;
    }
}

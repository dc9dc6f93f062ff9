//! Hard links through updates and back: which names share an inode is as it must be, what the update does not change keeps
//! its inode, and undoing gives each name the very inode it had.

use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_fs::update::Reason;
use proptest::prelude::*;

use crate::property::{Grow, grow, objects_of};
use crate::seen::{Tree, alike, identical, seen};
use crate::support::{Machine, path};

/// Names in a directory that is there in any case, so that links fit nearly always; some are protected.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d", "e", "s/a", "s/b", "s/c", "p/a", "p/b", "q/a", "q/b"])
        .prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Grow> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o4755]);
    prop_oneof![
        5 => (name(), 0u8..4, mode, 1i64..3, any::<bool>())
            .prop_map(|(at, contents, mode, mtime, note)| Grow::File { at, contents, mode, mtime, note }),
        1 => (name(), name()).prop_map(|(at, to)| Grow::Symlink { at, to }),
        1 => name().prop_map(|at| Grow::Fifo { at }),
        8 => (name(), name()).prop_map(|(at, to)| Grow::Link { at, to }),
        1 => (name(), 0u32..2).prop_map(|(at, uid)| Grow::Owner { at, uid }),
    ]
}

fn grown(steps: &[Grow]) -> Machine {
    let machine = Machine::new();
    let directories = ["s", "p", "q"].map(|at| Grow::Directory { at: at.to_owned(), mode: 0o755 });
    grow(machine.dir.path(), &directories);
    grow(machine.dir.path(), steps);
    machine
}

/// What of a tree is not protected, as if there was nothing else.
fn in_view(tree: &Tree, machine: &Machine) -> Tree {
    let is_seen = |name: &String| {
        let path = ImagePath::parse(name.as_bytes()).unwrap_or_else(|_| ImagePath::root());
        !machine.view.protected.iter().any(|protected| path.is_within(protected))
    };
    let mut tree: Tree =
        tree.iter().filter(|(name, _)| is_seen(name)).map(|(n, s)| (n.clone(), s.clone())).collect();
    tree.values_mut().for_each(|seen| seen.names.retain(|name| is_seen(name)));
    tree
}

/// Makes `machine` like `model`, judges what came of it, undoes that, and judges again.
fn check(mut machine: Machine, mut model: Machine) -> Result<(), TestCaseError> {
    model.view = machine.view.clone();
    let (before, wanted) = (seen(machine.dir.path()), in_view(&seen(model.dir.path()), &machine));
    let required = model.scan();
    let plan = machine.plan_for(&required);
    objects_of(&machine, &plan.operations);
    let report = machine.updater.apply(&plan, &machine.view).unwrap();
    prop_assert_eq!((&report.failures, &report.kept), (&vec![], &vec![]), "{:#?}", plan);
    let after = seen(machine.dir.path());
    let outcome = alike(&in_view(&after, &machine), &wanted);
    prop_assert!(outcome.is_ok(), "after {:#?}: {}", plan, outcome.unwrap_err());
    untouched(&machine, &plan, &before, &after)?;
    if plan.is_empty() {
        return Ok(());
    }
    let report = machine.updater.undo(Reason::Asked).unwrap();
    prop_assert_eq!((&report.conflicts, &report.failures), (&vec![], &vec![]), "{:#?}", plan);
    let outcome = identical(&seen(machine.dir.path()), &before);
    prop_assert!(outcome.is_ok(), "undone {:#?}: {}", plan, outcome.unwrap_err());
    machine.is_tidy();
    Ok(())
}

/// Protected names are the very same as before; so is what the plan does not speak of.
fn untouched(machine: &Machine, plan: &Plan, before: &Tree, after: &Tree) -> Result<(), TestCaseError> {
    let touched = |name: &str| {
        let is = |path: &ImagePath| path.to_string() == name;
        plan.operations.iter().flat_map(Operation::paths).any(is)
    };
    let shown = in_view(before, machine);
    for (name, one) in before {
        let hidden = !shown.contains_key(name);
        if hidden || !one.names.iter().any(|name| touched(name)) {
            let other = after.get(name);
            let same = other.is_some_and(|other| (other.ino, &other.anew().holds) == (one.ino, &one.holds));
            let same = same
                && other.is_some_and(|o| {
                    (o.mode, o.uid, o.mtime, &o.note) == (one.mode, one.uid, one.mtime, &one.note)
                });
            prop_assert!(same || name.is_empty(), "{name} was {one:?} and is {other:?}, after {plan:#?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hard_links_become_those_that_must_be_and_those_that_were(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
    ) {
        check(grown(&before), grown(&after))?;
    }

    /// Whoever has a name of an inode that is protected keeps that inode as it was.
    #[test]
    fn hard_links_of_what_is_protected_leave_that_as_it_is(
        before in prop::collection::vec(step(), 0..25),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let mut machine = grown(&before);
        machine.view.protected.extend([path("/p"), path("/q/b")]);
        check(machine, grown(&after))?;
    }
}

//! Disks that are full, over their quota, read-only or broken, from any call of an update on: once, for calls of one kind, or
//! for good. The tree is all old or all new, what is said of it is true, whoever starts anew when the cause is gone finds
//! or makes it so without being told anything, and the next update succeeds.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use dominator_core::inode::{Inode, Kind};
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::Chain;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Reason, Recovery, UpdateError};
use dominator_fs_testkit::{Fault, Faults, Lasting, mount_tmpfs, unmount, with_mounts};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::io::Errno;

use crate::process::say;
use crate::seen::{Tree, alike, identical, seen};
use crate::support::*;

/// Debug builds are for finding out quickly: they try every so many calls only.
const STRIDE: usize = if cfg!(debug_assertions) { 3 } else { 1 };

/// What fails.
const ERRORS: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];

/// While what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    Fetch,
    Apply,
    Undo,
    CleanUp,
}

/// One of everything an update does.
fn operations() -> Vec<Operation> {
    let (mut tool, mut noted, mut shared) =
        (file(0o4755, b"tool"), file(0o640, b"/noted"), directory(0o1777));
    (tool.uid, shared.uid) = (1234, 1234);
    noted.xattrs.insert(b"user.note", b"new").unwrap();
    vec![
        set(&["/"], directory(0o751)),
        make("/was-file", 0o755),
        make("/made", 0o700),
        put("/made/pipe", Inode { kind: Kind::Fifo { mtime: time() }, ..file(0o600, b"") }),
        set(&["/dir"], directory(0o711)),
        set(&["/shared"], shared),
        put("/was-file/new", symlink("x")),
        put("/was-dir", file(0o600, b"tool")),
        put("/tool", tool),
        put("/empty", file(0o644, b"")),
        set(&["/noted"], noted),
        link("/link", "/tool"),
        link("/other-link", "/noted-too"),
        delete("/was-dir/inner"),
        delete("/dir/deleted"),
        delete_directory("/dir/gone"),
    ]
}

fn time() -> dominator_core::inode::Timestamp {
    dominator_core::inode::Timestamp::new(1_000, 0).unwrap()
}

/// A machine whose disk fails when told to.
fn before(place: &Path, faults: &Arc<Faults>) -> Machine {
    let dir = tempfile::tempdir_in(place).unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut machine = Machine::within(dir);
    for at in ["/was-file", "/was-dir/inner", "/noted", "/noted-too", "/link", "/dir/deleted", "/tool"] {
        machine.write(at, at.as_bytes());
        fs::set_permissions(machine.at(at), PermissionsExt::from_mode(0o644)).unwrap();
        let time = Timespec { tv_sec: 500, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, machine.at(at), &times, AtFlags::empty()).unwrap();
    }
    fs::create_dir(machine.at("/dir/gone")).unwrap();
    fs::create_dir(machine.at("/shared")).unwrap();
    fs::set_permissions(machine.at("/shared"), PermissionsExt::from_mode(0o1777)).unwrap();
    fs::set_permissions(machine.at("/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    machine.restart_with(faults.disk());
    machine
}

/// What was done, and what came of it, in the words of whoever did it.
enum Outcome {
    Done,
    /// All is as it was before.
    Refused(Box<dyn Error>),
    /// It is all one or all the other once the root is opened anew.
    Unfinished(Box<dyn Error>),
}

fn fetch(machine: &Machine) -> Result<(), Box<dyn Error>> {
    let id = dominator_core::object::ObjectId::of(b"tool");
    let mut intake = machine.updater.objects().intake();
    intake.begin(id, 4)?;
    intake.data(b"tool")?;
    intake.finish()?;
    Ok(())
}

fn act(machine: &mut Machine, during: During) -> Outcome {
    let done = match during {
        During::Fetch => return fetch(machine).map_or_else(Outcome::Refused, |()| Outcome::Done),
        During::Apply => {
            machine.updater.apply(&Plan { operations: operations() }, &machine.view).map(|report| {
                assert!(report.is_success() && report.kept.is_empty(), "{report:?}");
            })
        }
        During::Undo => machine.updater.undo(Reason::Asked).map(|report| {
            assert!(report.conflicts.is_empty() && report.failures.is_empty(), "{report:?}");
        }),
        During::CleanUp => machine.updater.clean_up(),
    };
    match done {
        Ok(()) => Outcome::Done,
        Err(UpdateError::Halted { not_undone, path, source }) => {
            assert_eq!(not_undone, [], "{path}: {source}");
            Outcome::Refused(UpdateError::Halted { not_undone, path, source }.into())
        }
        Err(error) if machine.updater.is_unfinished() => Outcome::Unfinished(error.into()),
        Err(error) => Outcome::Refused(error.into()),
    }
}

/// The error says what the disk said, somewhere in its causes.
fn names_its_cause(error: &(dyn Error + 'static), errno: Errno) -> bool {
    let expected = std::io::Error::from(errno).to_string();
    Chain(error).to_string().contains(&expected)
}

/// The old tree and the new.
struct Trees {
    old: Tree,
    new: Tree,
}

/// Breaks one call while something is done, and judges what comes of it. False when there was no such call.
fn check(place: &Path, during: During, fault: Fault, made: &Tree, told: &mut BTreeMap<&str, usize>) -> bool {
    let faults = Faults::none();
    let mut machine = before(place, &faults);
    let mut trees = Trees { old: seen(machine.dir.path()), new: made.clone() };
    if during != During::Fetch {
        fetch(&machine).unwrap();
    }
    if matches!(during, During::Undo | During::CleanUp) {
        assert!(matches!(act(&mut machine, During::Apply), Outcome::Done));
        trees.new = seen(machine.dir.path());
    }
    faults.breaks(fault);
    let outcome = act(&mut machine, during);
    let hit = faults.mend() > 0;
    let shown = format!("{during:?}, {fault:?}");
    let now = seen(machine.dir.path());
    // What it is when nothing came of it; what it is when all did.
    let (unchanged, changed) = match during {
        During::Fetch => (&trees.old, &trees.old),
        During::Apply => (&trees.old, &trees.new),
        During::Undo => (&trees.new, &trees.old),
        During::CleanUp => (&trees.new, &trees.new),
    };
    let is = |tree: &Tree| if during == During::Apply { alike(&now, tree) } else { identical(&now, tree) };
    let word = match &outcome {
        Outcome::Done => {
            is(changed).unwrap_or_else(|why| panic!("{shown}: it claims to be done: {why}"));
            "done all the same"
        }
        Outcome::Refused(error) => {
            identical(&now, unchanged).unwrap_or_else(|why| panic!("{shown}: {error} changed it: {why}"));
            assert!(names_its_cause(&**error, fault.errno), "{shown}: {error}");
            "left or undone at once"
        }
        Outcome::Unfinished(error) => {
            assert!(names_its_cause(&**error, fault.errno), "{shown}: {error}");
            "finished or undone by the next"
        }
    };
    *told.entry(word).or_default() += usize::from(hit);
    afterwards(&mut machine, &trees, during, &shown);
    hit
}

/// The cause is gone: whoever opens the root finds or makes it all one or all the other, and can go on.
fn afterwards(machine: &mut Machine, trees: &Trees, during: During, shown: &str) {
    let recovery =
        machine.try_restart_with(Arc::new(Kernel)).unwrap_or_else(|error| panic!("{shown}: {error:?}"));
    let now = seen(machine.dir.path());
    let (old, new) = (identical(&now, &trees.old), alike(&now, &trees.new));
    let expected = match &recovery {
        Recovery::Finished { report, .. } => {
            assert!(report.is_success(), "{shown}: {report:?}");
            &new
        }
        Recovery::Undone { report, .. } => {
            assert!(report.conflicts.is_empty() && report.failures.is_empty(), "{shown}: {report:?}");
            &old
        }
        Recovery::Abandoned { .. } => &old,
        Recovery::Kept { .. } => &new,
        Recovery::Clean | _ if during == During::CleanUp => &new,
        Recovery::Clean | _ => {
            if old.is_ok() {
                &old
            } else {
                &new
            }
        }
    };
    assert_eq!(*expected, Ok(()), "{shown}: {recovery:?}");
    if old.is_ok() {
        fetch(machine).unwrap();
        machine.applied(operations());
        assert_eq!(alike(&seen(machine.dir.path()), &trees.new), Ok(()), "{shown}");
    }
    machine.is_tidy();
}

fn sweep(during: During) {
    let place = tempfile::tempdir().unwrap();
    mount_tmpfs(place.path(), "size=200m,mode=755");
    let mut clean = before(place.path(), &Faults::none());
    fetch(&clean).unwrap();
    assert!(matches!(act(&mut clean, During::Apply), Outcome::Done));
    let made = seen(clean.dir.path());
    let (mut told, mut skipped) = (BTreeMap::new(), 0);
    for errno in ERRORS {
        for lasting in [Lasting::Once, Lasting::ThisKind, Lasting::Everything] {
            skipped += 1;
            for nth in (1 + skipped % STRIDE..).step_by(STRIDE) {
                if !check(place.path(), during, Fault { kind: None, nth, errno, lasting }, &made, &mut told) {
                    break;
                }
            }
        }
    }
    say(&format!("{during:?}: {told:?}"));
    assert!(told.values().sum::<usize>() * STRIDE > 20, "hardly anything failed: {told:?}");
    drop(clean);
    unmount(place.path());
}

#[test]
fn a_disk_that_fails_while_objects_come_leaves_no_half_of_one() {
    with_mounts("a_disk_that_fails_while_objects_come_leaves_no_half_of_one", || sweep(During::Fetch));
}

#[test]
fn a_disk_that_fails_during_an_update_leaves_all_old_or_all_new() {
    with_mounts("a_disk_that_fails_during_an_update_leaves_all_old_or_all_new", || sweep(During::Apply));
}

#[test]
fn a_disk_that_fails_while_an_update_is_undone_leaves_all_old_or_all_new() {
    with_mounts("a_disk_that_fails_while_an_update_is_undone_leaves_all_old_or_all_new", || {
        sweep(During::Undo)
    });
}

#[test]
fn a_disk_that_fails_while_what_was_displaced_is_removed_leaves_all_new() {
    with_mounts("a_disk_that_fails_while_what_was_displaced_is_removed_leaves_all_new", || {
        sweep(During::CleanUp)
    });
}

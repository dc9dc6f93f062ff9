use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_fs::update::{Local, Reason, UpdateError};
use dominator_fs_testkit::{Call, Tap, Tapped};

use crate::support::*;

/// Offers what the tree has of these contents.
fn offered(machine: &mut Machine, contents: &[&[u8]], going: &[&str]) {
    let wanted: BTreeSet<_> = contents.iter().map(|contents| ObjectId::of(contents)).collect();
    let going: BTreeSet<_> = going.iter().map(|at| path(at)).collect();
    let local = Local::find(&machine.scan(), &wanted, |path| going.contains(path));
    assert_eq!(local.len(), contents.len());
    machine.updater.offer(local);
}

fn as_it_is(machine: &Machine, at: &str) -> dominator_core::inode::Inode {
    machine.scan().inode(&path(at)).unwrap()
}

/// The kernel, but files share blocks, or don't, whatever the file-system can do.
struct Sharing(bool);

impl Tap for Sharing {
    fn before(&self, call: Call<'_>) -> std::io::Result<()> {
        let refused = matches!(call, Call::Reflink(..)) && !self.0;
        if refused { Err(std::io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn shares(&self) -> bool {
        self.0
    }
}

fn machine_with(sharing: Sharing) -> Machine {
    let mut machine = Machine::new();
    machine.restart_with(Arc::new(Tapped(sharing)));
    machine
}

#[test]
fn where_files_share_blocks_undoing_a_move_gives_back_what_was_there_and_keeps_what_was_written_since() {
    let mut machine = machine_with(Sharing(true));
    machine.write("/old", b"contents");
    let (inode, ino) = (as_it_is(&machine, "/old"), machine.ino("/old"));
    offered(&mut machine, &[b"contents"], &["/old"]);
    assert!(machine.apply(vec![put("/new", inode), delete("/old")]).unwrap().is_success());
    assert_ne!(machine.ino("/new"), ino);
    machine.write("/new", b"changed since");
    let report = machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!((machine.read("/old"), machine.ino("/old")), (b"contents".to_vec(), ino));
    let [conflict] = &report.conflicts[..] else { panic!("{report:?}") };
    assert_eq!(conflict.path, path("/new"));
    assert_eq!(machine.read(&conflict.kept.as_ref().unwrap().to_string()), b"changed since");
}

#[test]
fn a_file_that_moves_is_the_same_file_before_and_after_and_when_it_is_undone() {
    let mut machine = machine_with(Sharing(false));
    machine.write("/old/f", b"contents");
    let (before, inode, ino) = (machine.scan(), as_it_is(&machine, "/old/f"), machine.ino("/old/f"));
    offered(&mut machine, &[b"contents"], &["/old/f"]);
    let plan = || {
        vec![
            make("/new", 0o755),
            put("/new/f", inode.clone()),
            put("/new/g", inode.clone()),
            delete("/old/f"),
            delete_directory("/old"),
        ]
    };
    let report = machine.apply(plan()).unwrap();
    assert!(report.is_success(), "{:?}", report.failures);
    assert_eq!(machine.ino("/new/f"), ino);
    assert_ne!(machine.ino("/new/g"), ino, "it is used twice, and never shared");
    assert!(machine.updater.undo(Reason::Asked).unwrap().not_as_before().is_empty());
    assert_eq!((machine.scan().id(), machine.ino("/old/f")), (before.id(), ino));
    machine.applied(plan());
    assert_eq!(machine.read("/new/f"), b"contents");
    assert!(!machine.has("/old"));
}

#[test]
fn a_file_is_copied_when_it_stays_has_other_names_other_metadata_or_would_become_privileged() {
    for case in ["stays", "linked", "other mode", "set-uid", "attributes nobody looks at"] {
        let mut machine = Machine::new();
        machine.write("/old", b"contents");
        if case == "linked" {
            std::fs::hard_link(machine.at("/old"), machine.at("/also")).unwrap();
        }
        let mode = if case == "set-uid" { 0o4755 } else { 0o644 };
        std::fs::set_permissions(machine.at("/old"), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
        if case == "attributes nobody looks at" {
            machine.view.xattrs = dominator_core::view::XattrPolicy::NONE;
            rustix::fs::setxattr(machine.at("/old"), "user.note", b"n", rustix::fs::XattrFlags::empty())
                .unwrap();
        }
        let mut inode = as_it_is(&machine, "/old");
        if case == "other mode" {
            inode.mode = dominator_core::inode::Mode::from_st_mode(0o600);
        }
        let ino = machine.ino("/old");
        offered(&mut machine, &[b"contents"], &["/old"]);
        let mut plan = vec![put("/new", inode.clone())];
        if case != "stays" {
            plan.push(delete("/old"));
        }
        machine.applied(plan);
        assert_ne!(machine.ino("/new"), ino, "{case}");
        assert_eq!(machine.read("/new"), b"contents", "{case}");
        assert_eq!(as_it_is(&machine, "/new"), inode, "{case}");
    }
}

/// Opens a file for writing when it gets its second name.
struct Opens {
    file: std::path::PathBuf,
    open: std::sync::Mutex<Option<std::fs::File>>,
}

impl Tap for Opens {
    fn before(&self, call: Call<'_>) -> std::io::Result<()> {
        if let Call::Reflink(..) = call {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        if let Call::Link(..) = call {
            *self.open.lock().unwrap() = Some(std::fs::File::options().append(true).open(&self.file)?);
        }
        Ok(())
    }
}

#[test]
fn a_file_that_somebody_writes_to_is_copied_and_what_is_written_later_is_not_in_the_copy() {
    for early in [true, false] {
        let mut machine = Machine::new();
        machine.write("/old", b"contents");
        let (inode, ino) = (as_it_is(&machine, "/old"), machine.ino("/old"));
        let open = early.then(|| std::fs::File::options().append(true).open(machine.at("/old")).unwrap());
        let opens = Arc::new(Opens { file: machine.at("/old"), open: open.into() });
        if !early {
            machine.restart_with(Arc::new(Tapped(Arc::clone(&opens))));
        }
        offered(&mut machine, &[b"contents"], &["/old"]);
        machine.applied(vec![put("/new", inode), delete("/old")]);
        assert_ne!(machine.ino("/new"), ino);
        let mut open = opens.open.lock().unwrap().take().unwrap();
        std::io::Write::write_all(&mut open, b", and more").unwrap();
        assert_eq!(machine.read("/new"), b"contents");
    }
}

/// Opens a file for writing just before it is moved.
struct OpensLate {
    file: std::path::PathBuf,
    open: std::sync::Mutex<Option<std::fs::File>>,
    moved: AtomicU32,
}

impl Tap for OpensLate {
    fn before(&self, call: Call<'_>) -> std::io::Result<()> {
        if let Call::Reflink(..) = call {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        if let Call::Rename(_, to, _) = call
            && to.name == b"new"
            && self.moved.fetch_add(1, Relaxed) == 0
        {
            *self.open.lock().unwrap() = Some(std::fs::File::options().append(true).open(&self.file)?);
        }
        Ok(())
    }
}

#[test]
fn a_file_that_somebody_opens_for_writing_while_it_moves_stays_and_is_copied_by_the_next_attempt() {
    let mut machine = Machine::new();
    machine.write("/old", b"contents");
    let (before, inode, ino) = (machine.scan(), as_it_is(&machine, "/old"), machine.ino("/old"));
    let (open, moved) = (std::sync::Mutex::default(), AtomicU32::new(0));
    let opens = Arc::new(OpensLate { file: machine.at("/old"), open, moved });
    machine.restart_with(Arc::new(Tapped(Arc::clone(&opens))));
    let plan = || vec![put("/new", inode.clone()), delete("/old")];
    offered(&mut machine, &[b"contents"], &["/old"]);
    let error = machine.apply(plan()).unwrap_err();
    assert!(matches!(&error, UpdateError::Halted { not_undone, .. } if not_undone.is_empty()), "{error:?}");
    assert_eq!((machine.scan().id(), machine.ino("/old"), machine.has("/new")), (before.id(), ino, false));
    offered(&mut machine, &[b"contents"], &["/old"]);
    machine.applied(plan());
    assert_ne!(machine.ino("/new"), ino);
    let mut open = opens.open.lock().unwrap().take().unwrap();
    std::io::Write::write_all(&mut open, b", and more").unwrap();
    assert_eq!(machine.read("/new"), b"contents");
}

#[test]
fn undoing_a_move_keeps_what_was_written_to_the_file_since_and_says_so() {
    for replaced in [true, false] {
        let mut machine = machine_with(Sharing(false));
        machine.write("/old", b"contents");
        let inode = as_it_is(&machine, "/old");
        offered(&mut machine, &[b"contents"], &["/old"]);
        assert!(machine.apply(vec![put("/new", inode), delete("/old")]).unwrap().is_success());
        if replaced {
            std::fs::remove_file(machine.at("/new")).unwrap();
        }
        machine.write("/new", b"changed since");
        let report = machine.updater.undo(Reason::Asked).unwrap();
        let told: Vec<_> = report.conflicts.iter().map(|conflict| conflict.path.to_string()).collect();
        if replaced {
            assert_eq!(told, ["/new"]);
            assert_eq!(machine.read("/old"), b"contents");
            assert_eq!(machine.read("/new"), b"changed since");
        } else {
            // In place: there is only what was written.
            assert_eq!(told, ["/old", "/new"]);
            assert!(report.conflicts[0].reason.contains("/new"), "{report:?}");
            let kept = report.conflicts[1].kept.as_ref().unwrap().to_string();
            assert_eq!(
                (machine.read("/old"), machine.read(&kept)),
                (b"changed since".into(), b"changed since".into())
            );
            std::fs::remove_file(machine.at(&kept)).unwrap();
        }
    }
}

#[test]
fn what_is_not_where_it_was_said_to_be_is_missing_and_nothing_was_done() {
    for case in ["gone", "longer", "other", "symlink"] {
        let mut machine = Machine::new();
        machine.write("/old", b"contents");
        machine.write("/secret", b"contents");
        let inode = as_it_is(&machine, "/old");
        offered(&mut machine, &[b"contents"], &["/old"]);
        std::fs::remove_file(machine.at("/old")).unwrap();
        match case {
            "longer" => machine.write("/old", b"contents!"),
            "other" => machine.write("/old", b"CONTENTS"),
            "symlink" => std::os::unix::fs::symlink("secret", machine.at("/old")).unwrap(),
            _ => {}
        }
        let plan = Plan { operations: vec![put("/new", inode)] };
        let error = machine.updater.apply(&plan, &machine.view).unwrap_err();
        let UpdateError::Missing(missing) = &error else { panic!("{case}: {error:?}") };
        assert_eq!(Vec::from_iter(missing.iter().copied()), [ObjectId::of(b"contents")], "{case}");
        assert!(!machine.has("/new"), "{case}");
        machine.is_tidy();
    }
}

/// Makes a file longer whenever some of it was copied.
struct Grows {
    file: std::path::PathBuf,
    times: std::sync::atomic::AtomicU32,
}

impl Tap for Grows {
    fn before(&self, call: Call<'_>) -> std::io::Result<()> {
        match call {
            // Where blocks are shared, nothing can come in between.
            Call::Reflink(..) => return Err(std::io::ErrorKind::Unsupported.into()),
            Call::Write(..) if self.times.load(Relaxed) < 100 => {
                let mut file = std::fs::File::options().append(true).open(&self.file)?;
                std::io::Write::write_all(&mut file, &[7; 256 * 1024])?;
                self.times.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        Ok(())
    }
}

#[test]
fn a_file_that_grows_as_fast_as_it_is_copied_holds_nobody_up() {
    let mut machine = Machine::new();
    let contents = [9; 300 * 1024];
    machine.write("/old", &contents);
    let inode = as_it_is(&machine, "/old");
    let grows = Arc::new(Grows { file: machine.at("/old"), times: AtomicU32::new(0) });
    machine.restart_with(Arc::new(Tapped(Arc::clone(&grows))));
    offered(&mut machine, &[&contents], &[]);
    let plan = Plan { operations: vec![put("/new", inode)] };
    let error = machine.updater.apply(&plan, &machine.view).unwrap_err();
    assert!(matches!(error, UpdateError::Missing(_)), "{error:?}");
    assert!(grows.times.load(Relaxed) < 10);
    machine.is_tidy();
}

//! The model itself: what is restored is what was there, inode for inode, and what it says of power cuts is what
//! file-systems do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use dominator_core::inode::{Mode, Timestamp};
use dominator_fs::seam::{At, Node, Remove, Rename};
use dominator_fs_testkit::crash::{How, Stage, World};
use dominator_fs_testkit::observed;

const MODE: Mode = Mode::from_st_mode(0o640);

fn tree(root: &Path) {
    fs::create_dir_all(root.join("dir/below")).unwrap();
    fs::write(root.join("dir/file"), "one").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("dir/below/link")).unwrap();
    fs::write(root.join("gone"), "two").unwrap();
    symlink("dir/file", root.join("symlink")).unwrap();
    fs::set_permissions(root.join("gone"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn at<'a>(dir: BorrowedFd<'a>, name: &'a str) -> At<'a> {
    At::new(dir, name.as_bytes())
}

/// One of everything a seam can do.
fn turmoil(stage: &Stage) {
    let (seam, top) = (stage.seam(), stage.open());
    let top = top.as_fd();
    let file = seam.create(at(top, "new"), MODE).unwrap();
    seam.write(&file, &[b'x'; 1300]).unwrap();
    seam.truncate(&file, 5000).unwrap();
    seam.mkdir(at(top, "made"), Mode::from_st_mode(0o750)).unwrap();
    seam.mknod(at(top, "pipe"), Node::Fifo, MODE).unwrap();
    seam.symlink(b"made", at(top, "leads")).unwrap();
    seam.rename(at(top, "new"), at(top, "gone"), Rename::Replace).unwrap();
    seam.rename(at(top, "dir"), at(top, "made"), Rename::Exchange).unwrap();
    seam.rename(at(top, "pipe"), at(top, "tube"), Rename::Never).unwrap();
    seam.link(at(top, "gone"), at(top, "again")).unwrap();
    seam.remove(at(top, "symlink"), Remove::File).unwrap();
    seam.remove(at(top, "gone"), Remove::File).unwrap();
    seam.remove(at(top, "dir"), Remove::Directory).unwrap();
    seam.chmod(at(top, "again"), Mode::from_st_mode(0o4711)).unwrap();
    seam.set_mtime(at(top, "again"), Timestamp::new(77, 7).unwrap()).unwrap();
    drop(seam.set_xattr(at(top, "again"), b"user.x", b"y"));
    seam.fsync(file.as_fd()).unwrap();
    seam.syncfs(top).unwrap();
}

#[test]
fn every_state_is_restored_as_it_was_inode_for_inode() {
    let stage = Stage::new(tree);
    let before = observed(&stage.root, &[]);
    let (recording, ()) = stage.fs.record(|| turmoil(&stage));
    stage.fs.check();
    let (after, world) = (observed(&stage.root, &[]), stage.fs.world());
    let swept = stage.sweep(&recording, |crash| {
        stage.fs.check();
        assert_eq!(stage.fs.world(), crash.world);
        Ok(())
    });
    assert!(swept.clean() > 20);
    stage.fs.restore(&world);
    assert_eq!(observed(&stage.root, &[]), after);
    stage.fs.restore(recording.before());
    assert_eq!(observed(&stage.root, &[]), before);
}

/// What is left of `new` by crashes of one kind after all of it was done: its contents.
fn left(work: impl FnOnce(&Stage), kind: fn(&How) -> bool) -> BTreeSet<Option<Vec<u8>>> {
    let stage = Stage::new(|_| {});
    let (recording, ()) = stage.fs.record(|| {
        work(&stage);
        stage.fs.promise("done");
    });
    let crashes = recording.crashes().into_iter().filter(|crash| crash.promised.is_some());
    let such = crashes.filter(|crash| kind(&crash.how));
    such.map(|crash| crash.world.read("/new").map(<[u8]>::to_vec)).collect()
}

fn written(stage: &Stage) -> fs::File {
    let (seam, top) = (stage.seam(), stage.open());
    let file = seam.create(at(top.as_fd(), "new"), MODE).unwrap();
    seam.write(&file, b"bytes").unwrap();
    file
}

fn ordered(how: &How) -> bool {
    // What is all there is listed as what a killed process leaves.
    matches!(how, How::Killed | How::Ordered { .. })
}

fn lazy(how: &How) -> bool {
    matches!(how, How::Lazy { .. })
}

#[test]
fn what_nobody_waited_for_may_be_missing_empty_or_there() {
    let any = BTreeSet::from([None, Some(Vec::new()), Some(b"bytes".to_vec())]);
    assert_eq!(left(|stage| drop(written(stage)), ordered), any);
    let whole = BTreeSet::from([Some(b"bytes".to_vec())]);
    let waited = |stage: &Stage| stage.seam().fsync(written(stage).as_fd()).unwrap();
    assert_eq!(left(waited, ordered), whole);
    assert_eq!(left(waited, lazy), BTreeSet::from([None]), "its name was not waited for");
    let both = |stage: &Stage| {
        waited(stage);
        stage.seam().fsync(stage.open().as_fd()).unwrap();
    };
    assert_eq!(left(both, |_| true), whole);
}

#[test]
fn waiting_for_one_thing_waits_for_all_that_came_before_it_only_where_order_is_kept() {
    let work = |stage: &Stage| {
        drop(written(stage));
        let (seam, top) = (stage.seam(), stage.open());
        seam.mkdir(at(top.as_fd(), "other"), Mode::from_st_mode(0o755)).unwrap();
        let other = fs::File::open(stage.root.join("other")).unwrap();
        seam.create(at(other.as_fd(), "inner"), MODE).unwrap();
        seam.fsync(other.as_fd()).unwrap();
    };
    let kept = BTreeSet::from([Some(Vec::new()), Some(b"bytes".to_vec())]);
    assert_eq!(left(work, ordered), kept);
    assert!(left(work, lazy).contains(&None));
}

#[test]
fn a_rename_is_never_seen_half() {
    let stage = Stage::new(tree);
    let (recording, ()) = stage.fs.record(|| {
        let (seam, top) = (stage.seam(), stage.open());
        let dir = fs::File::open(stage.root.join("dir")).unwrap();
        seam.rename(at(top.as_fd(), "gone"), at(dir.as_fd(), "come"), Rename::Never).unwrap();
        seam.fsync(dir.as_fd()).unwrap();
    });
    let one = |world: &World| {
        usize::from(world.names("/").contains(&"gone".into()))
            + usize::from(world.names("/dir").contains(&"come".into()))
    };
    assert!(recording.crashes().iter().all(|crash| one(&crash.world) == 1));
}

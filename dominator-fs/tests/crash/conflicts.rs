//! What somebody wrote to what an update had put in place is never lost, whenever undoing that update is cut off.

use std::fs::File;
use std::os::fd::AsFd;

use dominator_core::inode::Mode;
use dominator_fs::seam::{At, Rename};
use dominator_fs::update::{Reason, Recovery, Updater};
use dominator_fs_testkit::crash::{Body, World, difference, require};

use crate::play::{NEW, Play};

const WRITTEN: &[u8] = b"written after the update";
const FOREIGN: &[u8] = b"put into a directory the update made";
const REPLACED: &[u8] = b"put in the place of what the update had put there";
const AGAIN: &[u8] = b"made again where the update deleted a file";
const ALL: [&[u8]; 4] = [WRITTEN, FOREIGN, REPLACED, AGAIN];
/// Three files, and the two directories that hold what is not the update's.
const CONFLICTS: usize = 5;

/// Somebody writes to a file, makes one and replaces one.
fn meddle(play: &Play) {
    let seam = play.stage.seam();
    let root = &play.stage.root;
    let open = |name: &str| File::open(root.join(name)).unwrap();
    let file = File::options().write(true).open(root.join("etc/replaced")).unwrap();
    seam.write(&file, WRITTEN).unwrap();
    seam.truncate(&file, WRITTEN.len() as u64).unwrap();
    let make = |dir: &File, name: &[u8], bytes: &[u8]| {
        let file = seam.create(At::new(dir.as_fd(), name), Mode::from_st_mode(0o644)).unwrap();
        seam.write(&file, bytes).unwrap();
    };
    make(&open("new/sub"), b"foreign", FOREIGN);
    make(&open("etc"), b"gone", AGAIN);
    let top = open(".");
    make(&top, b"was-dir~", REPLACED);
    seam.rename(At::new(top.as_fd(), b"was-dir~"), At::new(top.as_fd(), b"was-dir"), Rename::Replace)
        .unwrap();
}

fn is_somewhere(world: &World, bytes: &[u8]) -> bool {
    let nodes = world.paths();
    nodes.values().any(|node| matches!(&world.node(*node).unwrap().body, Body::File(is) if &***is == bytes))
}

/// A machine with an update that somebody has meddled with, and what is there when that is undone.
fn meddled() -> (Play, World) {
    let play = Play::new();
    let (mut updater, _) = play.open(play.stage.seam()).unwrap();
    play.update(&mut updater, NEW);
    meddle(&play);
    let meddled = play.stage.fs.world();
    let report = updater.undo(Reason::Asked).unwrap();
    assert_eq!(report.conflicts.len(), CONFLICTS, "{report:#?}");
    drop(updater);
    let undone = play.stage.fs.world();
    play.stage.fs.restore(&meddled);
    (play, undone)
}

fn recovered(play: &Play, meddled: &World, undone: &World) -> Result<(), String> {
    let recovery = play.open(play.stage.seam()).map_err(|error| format!("{error:?}"))?.1;
    let now = play.stage.fs.world();
    let must = match recovery {
        Recovery::Kept { .. } => meddled,
        Recovery::Undone { .. } | Recovery::Clean => undone,
        Recovery::Abandoned { .. } | Recovery::Finished { .. } | _ => return Err(format!("{recovery:?}")),
    };
    let differs = difference(&now.tree(), &must.tree());
    require(differs.is_none(), || format!("{recovery:?}: {differs:?}"))?;
    for bytes in ALL {
        require(is_somewhere(&now, bytes), || format!("lost: {:?}", String::from_utf8_lossy(bytes)))?;
    }
    Ok(())
}

#[test]
fn what_somebody_wrote_is_never_lost_when_undoing_is_cut_off() {
    let (play, undone) = meddled();
    let meddled = play.stage.fs.world();
    let undo = |updater: &mut Updater| updater.undo(Reason::Asked).unwrap();
    let (recording, _) = play.stage.fs.record(|| undo(&mut play.open(play.stage.seam()).unwrap().0));
    let swept = play.stage.sweep(&recording, |crash| {
        for bytes in ALL {
            let lost = || format!("lost at once: {:?}", String::from_utf8_lossy(bytes));
            require(is_somewhere(&crash.world, bytes), lost)?;
        }
        recovered(&play, &meddled, &undone)
    });
    let states = swept.clean();
    assert!(states > 20, "only {states} states");
}

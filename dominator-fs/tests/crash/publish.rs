//! What is published is there whole, or not at all; and once that is said, it stays.

use std::fs;
use std::os::fd::AsFd;

use dominator_core::inode::Mode;
use dominator_fs::publish::{self, MANY, Move, Replace};
use dominator_fs::seam::{At, Seam};
use dominator_fs_testkit::crash::{Crash, Fault, Stage, Sweep, require};

const MODE: Mode = Mode::from_st_mode(0o600);
/// More than fits into a sector, so that it can be torn.
const OLD: [u8; 1500] = [b'o'; 1500];
const NEW: [u8; 2100] = [b'n'; 2100];

/// Who publishes, by whatever seam.
type Work = fn(&dyn Seam, &Stage);

fn bytes(seam: &dyn Seam, stage: &Stage) {
    let _durable =
        publish::bytes(seam, stage.open().as_fd(), b"name", &NEW, MODE, Replace::Existing).unwrap();
}

fn file(seam: &dyn Seam, stage: &Stage) {
    let dir = stage.open();
    let file = seam.create(At::new(dir.as_fd(), b"name~"), MODE).unwrap();
    seam.write(&file, &NEW).unwrap();
    let _durable = publish::file(seam, dir.as_fd(), b"name~", b"name", Replace::Existing).unwrap();
}

fn batch<const COUNT: usize>(seam: &dyn Seam, stage: &Stage) {
    let dir = stage.open();
    let names: Vec<_> = std::iter::once("name".to_owned())
        .chain((1..COUNT).map(|number| format!("more-{number}")))
        .map(|name| (format!("{name}~").into_bytes(), name.into_bytes()))
        .collect();
    for (from, _) in &names {
        let file = seam.create(At::new(dir.as_fd(), from), MODE).unwrap();
        seam.write(&file, &NEW).unwrap();
    }
    let moves: Vec<_> = names
        .iter()
        .map(|(from, to)| Move { from: At::new(dir.as_fd(), from), to: At::new(dir.as_fd(), to) })
        .collect();
    let _durable = publish::batch(seam, &moves, Replace::Existing).unwrap();
}

fn swept(work: Work, wrong: Option<Fault>) -> Sweep {
    let stage = Stage::new(|root| fs::write(root.join("name"), OLD).unwrap());
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let (recording, ()) = stage.fs.record(|| {
        work(&*seam, &stage);
        stage.fs.promise("published");
    });
    let all = stage.fs.world().names("/");
    stage.fs.check();
    stage.sweep(&recording, |crash| {
        whole(crash, &all)?;
        // Whoever tries again is not hindered by what was left.
        let _durable =
            publish::bytes(&*stage.seam(), stage.open().as_fd(), b"name", &NEW, MODE, Replace::Existing)
                .map_err(|error| error.to_string())?;
        require(stage.fs.world().read("/name") == Some(&NEW), || "a second attempt did not help".to_owned())
    })
}

fn whole(crash: &Crash, all: &[String]) -> Result<(), String> {
    let name = crash.world.read("/name");
    require(name == Some(&OLD) || name == Some(&NEW), || "torn".to_owned())?;
    let there = crash.world.names("/");
    for name in there.iter().filter(|name| !name.ends_with('~') && *name != "name") {
        require(crash.world.read(&format!("/{name}")) == Some(&NEW), || format!("{name} is torn"))?;
    }
    if crash.promised.is_some() {
        require(name == Some(&NEW) && there == all, || "promised, but not there".to_owned())?;
    }
    Ok(())
}

#[test]
fn what_is_published_survives_a_crash_at_any_point() {
    for (work, name) in
        [(bytes as Work, "bytes"), (file, "file"), (batch::<3>, "a few"), (batch::<{ MANY + 1 }>, "many")]
    {
        let states = swept(work, None).clean();
        assert!(states >= 8, "{name}: only {states} states");
    }
}

#[test]
fn the_sweep_finds_a_publisher_that_waits_for_nothing() {
    for fault in [Fault::NoSync, Fault::NoSyncOfFiles, Fault::NoSyncOfDirectories] {
        for work in [bytes as Work, file, batch::<3>] {
            swept(work, Some(fault)).finds(fault);
        }
    }
    swept(batch::<{ MANY + 1 }>, Some(Fault::NoSync)).finds(Fault::NoSync);
}

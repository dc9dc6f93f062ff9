//! Images are whole or not there, whatever is added, deleted and collected when the power fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::object::ObjectId;
use dominator_fs::seam::Seam;
use dominator_fs_testkit::crash::{Crash, Fault, Stage, Sweep, require};

use crate::support::{Lab, named, parts, tree};

type Files = &'static [(&'static str, &'static [u8])];

const ONE: Files = &[("a", b"alpha"), ("b", b"beta")];
const TWO: Files = &[("b", b"beta"), ("c", b"gamma")];
const NEW: Files = &[("a", b"alpha"), ("d", b"delta")];

fn files_of(name: &str) -> Files {
    match name {
        "one" => ONE,
        "two" => TWO,
        "web/new" => NEW,
        other => panic!("{other} was never added"),
    }
}

fn stage() -> Stage {
    Stage::new(|root| {
        let lab = Lab::new(root);
        lab.add("one", ONE);
        lab.add("two", TWO);
        lab.put(b"for nobody");
    })
}

/// What was acknowledged by then, in order.
const ADDED: &str = "web/new is there";
const DELETED: &str = "one is not";

fn work(place: &Path, seam: Arc<dyn Seam>, promise: &dyn Fn(&'static str)) {
    let lab = Lab::on(place, seam);
    lab.add("web/new", NEW);
    promise(ADDED);
    drop(lab.images.delete(&named("one")).unwrap());
    promise(DELETED);
    assert!(lab.collect(Duration::ZERO).0 > 1);
}

/// Every image there is can be read, and those are there that must be.
fn whole(lab: &Lab, promised: Option<&'static str>) -> Result<(), String> {
    let names = lab.images.list().map_err(|error| error.to_string())?;
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let (added, deleted) = (promised.is_some(), promised == Some(DELETED));
    require(names.contains(&"two"), || "two is gone".to_owned())?;
    require(!added || names.contains(&"web/new"), || format!("promised, but not there: {names:?}"))?;
    require(!deleted || !names.contains(&"one"), || "one is back".to_owned())?;
    require(added || names.contains(&"one"), || "one is gone before its time".to_owned())?;
    for name in names {
        let files = files_of(name);
        for bytes in parts(&tree(files), files) {
            let read = lab.objects().read(&ObjectId::of(&bytes), 1 << 20);
            require(read.is_ok_and(|read| read == bytes), || format!("{name} is incomplete"))?;
        }
    }
    Ok(())
}

fn judge(stage: &Stage, crash: &Crash) -> Result<(), String> {
    let lab = Lab::on(&stage.root, stage.seam());
    whole(&lab, crash.promised)?;
    lab.images.collect(Duration::ZERO, |all| all).map_err(|error| error.to_string())?;
    whole(&lab, crash.promised)?;
    let (known, there) = (lab.objects().totals().objects, crate::support::files(&stage.root) as u64);
    require(known == there, || format!("the index knows {known} objects, {there} are there"))
}

fn swept(wrong: Option<Fault>) -> Sweep {
    let stage = stage();
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let (recording, ()) = stage.fs.record(|| work(&stage.root, seam, &|promised| stage.fs.promise(promised)));
    stage.sweep(&recording, |crash| judge(&stage, crash))
}

#[test]
fn images_are_whole_after_a_crash_at_any_point_of_addition_deletion_and_collection() {
    let states = swept(None).clean();
    assert!(states > 30, "only {states} states");
}

#[test]
fn the_sweep_finds_stores_that_wait_for_nothing() {
    for fault in [Fault::NoSync, Fault::NoSyncOfFiles, Fault::NoSyncOfDirectories] {
        swept(Some(fault)).finds(fault);
    }
}

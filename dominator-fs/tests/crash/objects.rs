//! An object is in a store or a cache whole, or not at all; and once that is said, it stays.

use std::path::Path;
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_fs::root::Root;
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::update::Updater;
use dominator_fs_testkit::crash::{Crash, Fault, Stage, Sweep, World, require};

fn objects() -> [Vec<u8>; 3] {
    [b"short".to_vec(), vec![b'l'; 3000], (0..2000_u32).flat_map(u32::to_le_bytes).collect()]
}

/// Every object that is there, by the name its contents should have.
fn in_store(world: &World) -> Vec<(String, &[u8])> {
    let shards = world.names("/store").into_iter().filter(|name| name.len() == 2);
    let path = |shard: &str, name: &str| format!("/store/{shard}/{name}");
    shards
        .flat_map(|shard| {
            world.names(&format!("/store/{shard}")).into_iter().map(move |n| (shard.clone(), n))
        })
        .map(|(shard, name)| {
            let node = world.at(path(&shard, &name).as_bytes()).unwrap();
            (format!("{shard}{name}"), world.contents(node).unwrap())
        })
        .collect()
}

fn in_cache(world: &World) -> Vec<(String, &[u8])> {
    let names = world.names("/.subd/objects").into_iter().filter(|name| !name.ends_with('~'));
    names
        .map(|name| {
            let node = world.at(format!("/.subd/objects/{name}").as_bytes()).unwrap();
            (name, world.contents(node).unwrap())
        })
        .collect()
}

fn whole(crash: &Crash, there: &[(String, &[u8])]) -> Result<(), String> {
    for (name, bytes) in there {
        require(ObjectId::of(bytes).to_string() == *name, || format!("object {name} is torn"))?;
    }
    let promised = crash.promised.is_none() || there.len() == objects().len();
    require(promised, || format!("{} objects are there, three were promised", there.len()))
}

fn store_swept(wrong: Option<Fault>) -> Sweep {
    let stage = Stage::new(|root| drop(ObjectStore::open(&root.join("store")).unwrap()));
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let place = stage.root.join("store");
    let (recording, ()) = stage.fs.record(|| {
        let store = ObjectStore::open_on(&place, seam).unwrap();
        let [first, others @ ..] = objects();
        let mut writer = store.begin(ObjectId::of(&first), first.len() as u64).unwrap();
        writer.write(&first).unwrap();
        let _durable = writer.finish().unwrap();
        let mut batch = store.batch();
        for object in &others {
            batch.add_bytes(object).unwrap();
        }
        let _durable = batch.finish().unwrap();
        stage.fs.promise("all three");
    });
    stage.sweep(&recording, |crash| {
        whole(crash, &in_store(&crash.world))?;
        drop(ObjectStore::open_on(&place, stage.seam()).map_err(|error| error.to_string())?);
        let left = stage.fs.world().names("/store/tmp");
        require(left.is_empty(), || format!("debris: {left:?}"))
    })
}

fn take_in(root: &Path, seam: Arc<dyn Seam>) {
    let updater = Updater::open(Root::open(root).unwrap(), seam).unwrap().0;
    let mut intake = updater.objects().intake();
    for object in objects() {
        intake.begin(ObjectId::of(&object), object.len() as u64).unwrap();
        object.chunks(700).for_each(|piece| intake.data(piece).unwrap());
    }
    intake.finish().unwrap();
}

fn cache_swept(wrong: Option<Fault>) -> Sweep {
    let stage = Stage::new(|root| drop(Updater::open(Root::open(root).unwrap(), Arc::new(Kernel)).unwrap()));
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let (recording, ()) = stage.fs.record(|| {
        take_in(&stage.root, seam);
        stage.fs.promise("all three");
    });
    stage.sweep(&recording, |crash| {
        whole(crash, &in_cache(&crash.world))?;
        take_in(&stage.root, stage.seam());
        let left = stage.fs.world().names("/.subd/objects");
        require(left.len() == objects().len(), || format!("debris, or too little: {left:?}"))
    })
}

#[test]
fn objects_that_were_added_survive_a_crash_at_any_point() {
    let states = store_swept(None).clean();
    assert!(states > 20, "only {states} states");
}

#[test]
fn objects_that_were_fetched_survive_a_crash_at_any_point() {
    let states = cache_swept(None).clean();
    assert!(states > 30, "only {states} states");
}

#[test]
fn the_sweep_finds_a_store_that_waits_for_nothing() {
    for fault in [Fault::NoSync, Fault::NoSyncOfFiles, Fault::NoSyncOfDirectories] {
        store_swept(Some(fault)).finds(fault);
        cache_swept(Some(fault)).finds(fault);
    }
}

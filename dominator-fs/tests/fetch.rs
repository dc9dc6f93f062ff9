//! Fetching from sources that lie, break off, stand still or lack what is wanted, as a controller sees it.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod local;
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dominator_core::object::ObjectId;
use dominator_core::plan::{Need, Needs, Plan};
use dominator_core::port::*;
use dominator_core::tree::TreeId;
use dominator_core::view::ViewId;
use dominator_fs::agent::{AgentConfig, Effort, LocalAgent, MemoryError, Patience, StartError};
use dominator_fs::service::NoServices;
use dominator_fs_testkit::{Disk, left_out, with_mounts};
use sources::{Way, World};
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;
/// How long an agent that was let go may take to be gone.
const PATIENCE: Duration = Duration::from_secs(120);
/// Numbers of four bytes in four of them.
const LONG: u32 = 1024 * 1024;

struct Machine {
    _place: Option<TempDir>,
    root: PathBuf,
    state: TempDir,
    world: Arc<World>,
    agent: Option<LocalAgent>,
}

impl Machine {
    fn new(world: &Arc<World>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().to_owned();
        Self { _place: Some(place), ..Self::at(root, world) }
    }

    fn at(root: PathBuf, world: &Arc<World>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut machine = Self { _place: None, root, state, world: Arc::clone(world), agent: None };
        machine.restart();
        machine
    }

    fn restart(&mut self) {
        self.agent = None;
        let patience = Patience {
            silence: Duration::from_millis(100),
            window: Duration::from_millis(100),
            // So little that a machine that is busy with something else still is fast enough.
            bytes_per_second: 1 << 10,
            expected: 1 << 30,
        };
        let sources = Arc::clone(&self.world) as Arc<dyn ObjectSources>;
        let mut config = AgentConfig::new(&self.root, self.state.path(), Arc::new(NoServices), sources);
        config.scan_interval = Duration::from_secs(3600);
        config.effort = Effort { patience, ..Effort::default() };
        // What the agent before had begun may hold its directories a moment longer.
        let begin = Instant::now();
        let agent = loop {
            match LocalAgent::start(config.clone()) {
                Err(StartError::Memory(MemoryError::Busy { .. })) if begin.elapsed() < PATIENCE => {
                    std::thread::yield_now();
                }
                other => break other.unwrap(),
            }
        };
        self.agent = Some(agent);
    }

    async fn fetch(&self, objects: &[ObjectId], sources: &[&str]) -> Result<FetchReport, StoreError> {
        let needs = Needs::of(objects.iter().map(|id| (*id, self.world.bytes(id).len() as u64)));
        self.fetch_for(needs, sources).await
    }

    async fn fetch_for(&self, needs: Needs, sources: &[&str]) -> Result<FetchReport, StoreError> {
        let sources = sources.iter().map(|source| (*source).to_owned()).collect();
        match self.agent.as_ref().unwrap().fetch(FetchRequest { needs, sources, lock: None }).await {
            Ok(report) => Ok(report),
            Err(AgentError::Fetch(error)) => Err(error),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// What is kept beside the root, by name.
    fn kept(&self) -> BTreeMap<String, u64> {
        let objects = std::fs::read_dir(self.root.join(".subd/objects")).unwrap();
        let each = objects.map(|entry| entry.unwrap());
        each.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect()
    }

    /// All of these are kept, as they must be, and nothing else.
    fn has_only(&self, objects: &[ObjectId]) {
        let mut names: Vec<_> = objects.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(self.kept().into_keys().collect::<Vec<_>>(), names);
        for id in objects {
            let kept = std::fs::read(self.root.join(".subd/objects").join(id.to_string())).unwrap();
            assert_eq!(ObjectId::of(&kept), *id);
        }
    }
}

fn sources_of(error: StoreError) -> Vec<SourceFailure> {
    let StoreError::Sources(failures) = error else { panic!("{error:?}") };
    failures
}

/// A world with some objects, one of them long.
fn world() -> (Arc<World>, Vec<ObjectId>) {
    let world = Arc::new(World::default());
    let mut ids: Vec<_> = (0..20_u32).map(|number| world.put(number.to_string().into_bytes())).collect();
    ids.push(world.put((0..LONG).flat_map(u32::to_le_bytes).collect()));
    ids.sort();
    (world, ids)
}

#[tokio::test]
async fn whatever_a_source_does_wrong_the_next_one_makes_up_for_it_and_it_is_named() {
    let (world, ids) = world();
    world.add("good:2", Way::Honest);
    for way in Way::HOSTILE {
        let machine = Machine::new(&world);
        world.add("bad:1", way);
        let report = machine.fetch(&ids, &["bad:1", "good:2"]).await;
        let report = report.unwrap_or_else(|error| panic!("{way:?}: {error}"));
        let [failed] = &report.failed[..] else { panic!("{way:?}: {report:?}") };
        assert!(failed.starts_with("bad:1: "), "{way:?}: {failed}");
        assert_eq!(report.objects, ids.len() as u64, "{way:?}");
        machine.has_only(&ids);
    }
}

#[tokio::test]
async fn nothing_wrong_is_kept_when_all_sources_lie_and_every_one_is_told_of() {
    let (world, ids) = world();
    let names: Vec<String> = Way::HOSTILE.iter().map(|way| format!("{way:?}:1")).collect();
    for (name, way) in names.iter().zip(Way::HOSTILE) {
        world.add(name, way);
    }
    for chunk in names.chunks(FetchRequest::MAX_SOURCES) {
        let machine = Machine::new(&world);
        let sources: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let error = machine.fetch(&ids, &sources).await.unwrap_err();
        let text = error.to_string();
        let failures = sources_of(error);
        assert_eq!(failures.iter().map(|failure| failure.source.as_str()).collect::<Vec<_>>(), sources);
        assert!(sources.iter().all(|source| text.contains(source)), "{text}");
        for (name, length) in machine.kept() {
            let kept = std::fs::read(machine.root.join(".subd/objects").join(&name)).unwrap();
            match name.strip_suffix('~') {
                // A beginning that may be gone on with: nothing is made of it before the whole was hashed.
                Some(_) => assert!(length >= MIB as u64, "{name}"),
                None => assert_eq!(ObjectId::of(&kept).to_string(), name),
            }
        }
    }
}

#[tokio::test]
async fn what_a_source_did_wrong_is_told_with_its_object() {
    let world = Arc::new(World::default());
    let id = world.put(vec![7; 1000]);
    let machine = Machine::new(&world);
    type Expected = fn(&StoreError) -> bool;
    let cases: [(Way, bool, Expected); 8] = [
        (Way::Truncated, true, |e| matches!(e, StoreError::Protocol(_))),
        (Way::OtherLength, false, |e| matches!(e, StoreError::Protocol(_))),
        (Way::Empty, true, |e| matches!(e, StoreError::Protocol(_))),
        (Way::WrongBytes, true, |e| matches!(e, StoreError::Corrupt { length: 1000, .. })),
        (Way::OtherObject, false, |e| matches!(e, StoreError::Protocol(_))),
        (Way::Silent, false, |e| matches!(e, StoreError::TooSlow { bytes: 0, .. })),
        (Way::Drips, true, |e| matches!(e, StoreError::TooSlow { .. })),
        (Way::Lacks, false, |e| matches!(e, StoreError::NotFound { .. })),
    ];
    for (way, named, expected) in cases {
        world.add("bad:1", way);
        let failures = sources_of(machine.fetch(&[id], &["bad:1"]).await.unwrap_err());
        assert!(expected(&failures[0].error), "{way:?}: {failures:?}");
        assert_eq!(failures[0].object, named.then_some(id), "{way:?}: {failures:?}");
        assert!(machine.kept().is_empty(), "{way:?}");
    }
    world.add("bad:1", Way::Oversized);
    let report = machine.fetch(&[id], &["bad:1"]).await.unwrap();
    assert!(report.failed[0].contains("more data than was announced"), "{report:?}");
    machine.has_only(&[id]);
    machine.agent.as_ref().unwrap().clean_up(None).await.unwrap();
    let none = machine.fetch(&[id], &[]).await.unwrap_err();
    assert!(none.to_string().contains("none was named"), "{none}");
}

#[tokio::test]
async fn a_source_that_has_others_come_first_is_waited_for() {
    let (world, ids) = world();
    // Longer than it may be silent once it has begun.
    world.add("busy:1", Way::Busy(Duration::from_millis(250)));
    let machine = Machine::new(&world);
    let report = machine.fetch(&ids, &["busy:1"]).await.unwrap();
    assert_eq!(report.objects, ids.len() as u64);
}

#[tokio::test]
async fn a_source_is_asked_only_for_what_those_before_did_not_give() {
    let world = Arc::new(World::default());
    let mut ids: Vec<_> = (0..10_u32).map(|number| world.put(number.to_string().into_bytes())).collect();
    ids.sort();
    world.add("some:1", Way::LacksFirst(3));
    world.add("all:2", Way::Honest);
    let machine = Machine::new(&world);
    let report = machine.fetch(&ids, &["some:1", "all:2"]).await.unwrap();
    assert_eq!(report.objects, 10);
    assert_eq!(world.asked("all:2"), [(ids[..3].to_vec(), 0)]);
    machine.has_only(&ids);
    let again = machine.fetch(&ids, &["some:1"]).await.unwrap();
    assert_eq!(again, FetchReport::default(), "all of it is there");
}

#[tokio::test]
async fn a_source_that_lacks_much_gives_the_rest() {
    let world = Arc::new(World::default());
    let mut ids: Vec<_> = (0..60_u32).map(|number| world.put(number.to_string().into_bytes())).collect();
    ids.sort();
    world.add("some:1", Way::LacksMany(40));
    world.add("all:2", Way::Honest);
    let machine = Machine::new(&world);
    let report = machine.fetch(&ids, &["some:1", "all:2"]).await.unwrap();
    assert_eq!(report.objects, 60);
    assert_eq!(world.asked("all:2"), [(ids[..40].to_vec(), 0)]);
    machine.has_only(&ids);
}

#[tokio::test]
async fn a_long_object_whose_stream_broke_off_is_gone_on_with_by_the_next_source_and_the_next_agent() {
    let world = Arc::new(World::default());
    let long: Vec<u8> = (0..2 * LONG).flat_map(u32::to_le_bytes).collect();
    let id = world.put(long);
    world.add("breaks:1", Way::BreaksAfter(3 * MIB));
    world.add("good:2", Way::Honest);
    let mut machine = Machine::new(&world);
    let report = machine.fetch(&[id], &["breaks:1", "good:2"]).await.unwrap();
    assert_eq!(world.asked("good:2"), [(vec![id], 3 * MIB as u64)]);
    assert_eq!(report.bytes, 8 * MIB as u64, "each byte came once");
    machine.has_only(&[id]);
    // By another process.
    let mut machine_again = Machine::new(&world);
    let failures = sources_of(machine_again.fetch(&[id], &["breaks:1"]).await.unwrap_err());
    assert_eq!(failures[0].object, Some(id));
    assert_eq!(machine_again.kept(), BTreeMap::from([(format!("{id}~"), 3 * MIB as u64)]));
    machine_again.restart();
    world.forget();
    machine_again.fetch(&[id], &["good:2"]).await.unwrap();
    assert_eq!(world.asked("good:2"), [(vec![id], 3 * MIB as u64)]);
    machine_again.has_only(&[id]);
    machine.restart();
    machine.has_only(&[id]);
}

#[tokio::test]
async fn who_is_asked_for_the_rest_of_what_another_began_wrongly_is_not_blamed() {
    let world = Arc::new(World::default());
    let id = world.put((0..LONG).flat_map(u32::to_le_bytes).collect());
    world.add("liar:1", Way::LiesAndBreaksAfter(2 * MIB));
    world.add("good:2", Way::Honest);
    let machine = Machine::new(&world);
    let report = machine.fetch(&[id], &["liar:1", "good:2"]).await.unwrap();
    let [failed] = &report.failed[..] else { panic!("{report:?}") };
    assert!(failed.starts_with("liar:1: "), "{failed}");
    assert_eq!(world.asked("good:2"), [(vec![id], 2 * MIB as u64), (vec![id], 0)]);
    machine.has_only(&[id]);
}

#[tokio::test]
async fn a_rest_that_is_wrong_is_fetched_whole_once_and_not_for_ever() {
    let world = Arc::new(World::default());
    let id = world.put((0..LONG).flat_map(u32::to_le_bytes).collect());
    world.add("breaks:1", Way::BreaksAfter(2 * MIB));
    world.add("wrong:2", Way::WrongBytes);
    let machine = Machine::new(&world);
    let failures = sources_of(machine.fetch(&[id], &["breaks:1", "wrong:2"]).await.unwrap_err());
    assert!(matches!(failures[1].error, StoreError::Corrupt { .. }), "{failures:?}");
    assert_eq!(world.asked("wrong:2"), [(vec![id], 2 * MIB as u64), (vec![id], 0)]);
    assert!(machine.kept().is_empty());
}

#[tokio::test]
async fn few_beginnings_are_kept_and_none_that_is_short() {
    let world = Arc::new(World::default());
    let long = |byte: u8| vec![byte; 2 * MIB];
    let ids: Vec<_> = (1..=6).map(|byte| world.put(long(byte))).collect();
    let short = world.put(vec![9; MIB]);
    world.add("breaks:1", Way::BreaksAfter(MIB));
    world.add("early:2", Way::BreaksAfter(MIB - 1));
    let mut machine = Machine::new(&world);
    for id in &ids {
        machine.fetch(&[*id], &["breaks:1"]).await.unwrap_err();
    }
    machine.fetch(&[short], &["early:2"]).await.unwrap_err();
    machine.restart();
    let kept: Vec<_> = ids[2..].iter().map(|id| (format!("{id}~"), MIB as u64)).collect();
    assert_eq!(machine.kept(), kept.into_iter().collect());
    machine.agent.as_ref().unwrap().clean_up(None).await.unwrap();
    assert!(machine.kept().is_empty());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// On a disk of its own, and while no other is made: a program that is about to be executed has all files of this process
/// open until it is, and what was removed takes its room until nobody has it open.
fn on_disk(
    name: &'static str,
    size: u64,
    arguments: &'static [&'static str],
    test: impl FnOnce(&Path, &Disk) + Send + 'static,
) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    with_mounts(name, move || match Disk::made_with(size, arguments) {
        Ok(disk) => test(&disk.path(), &disk),
        Err(why) => left_out(name, &why),
    });
}

#[test]
fn a_disk_with_few_inodes_refuses_before_the_first_byte() {
    let name = "a_disk_with_few_inodes_refuses_before_the_first_byte";
    on_disk(name, 64 << 20, &["-N", "256"], |root, _| {
        runtime().block_on(async {
            let world = Arc::new(World::default());
            let id = world.put(vec![1; 10]);
            world.add("good:1", Way::Honest);
            let machine = Machine::at(root.to_owned(), &world);
            let many = Needs { inodes: 250, ..Needs::of([(id, 10)]) };
            let error = machine.fetch_for(many, &["good:1"]).await.unwrap_err();
            assert!(matches!(error, StoreError::NoInodes { need: 251, free } if free < 200), "{error:?}");
            let uses = Need { size: 10, uses: 251 };
            let copies = Needs { objects: BTreeMap::from([(id, uses)]), inodes: 0 };
            let error = machine.fetch_for(copies, &["good:1"]).await.unwrap_err();
            assert!(matches!(error, StoreError::NoInodes { need: 251, .. }), "{error:?}");
            assert!(world.asked("good:1").is_empty());
            machine.fetch(&[id], &["good:1"]).await.unwrap();
        });
    });
}

#[test]
fn a_disk_without_room_for_all_of_the_update_refuses_before_the_first_byte() {
    let name = "a_disk_without_room_for_all_of_the_update_refuses_before_the_first_byte";
    on_disk(name, 64 << 20, &[], |root, _| {
        runtime().block_on(async {
            let world = Arc::new(World::default());
            let (id, other) = (world.put(vec![1; 10 * MIB]), world.put(vec![2; 10 * MIB]));
            world.add("good:1", Way::Honest);
            let machine = Machine::at(root.to_owned(), &world);
            let uses = |uses| Needs {
                objects: BTreeMap::from([(id, Need { size: 10 * MIB as u64, uses })]),
                inodes: 0,
            };
            let error = machine.fetch_for(uses(4), &["good:1"]).await.unwrap_err();
            assert!(
                matches!(error, StoreError::NoSpace { need, free } if need > 40 << 20 && free < 40 << 20),
                "{error:?}"
            );
            assert!(world.asked("good:1").is_empty());
            // What another image needed goes first.
            machine.fetch(&[other], &["good:1"]).await.unwrap();
            machine.fetch_for(uses(3), &["good:1"]).await.unwrap();
            machine.has_only(&[id]);
        });
    });
}

#[test]
fn what_has_come_of_an_object_does_not_keep_the_rest_of_it_out() {
    let name = "what_has_come_of_an_object_does_not_keep_the_rest_of_it_out";
    on_disk(name, 64 << 20, &[], |root, _| {
        runtime().block_on(async {
            let world = Arc::new(World::default());
            // Half of the room there is, and then more than what is left.
            let id = world.put((0..6 * LONG).flat_map(u32::to_le_bytes).collect());
            world.add("breaks:1", Way::BreaksAfter(18 * MIB));
            world.add("good:2", Way::Honest);
            let machine = Machine::at(root.to_owned(), &world);
            sources_of(machine.fetch(&[id], &["breaks:1"]).await.unwrap_err());
            machine.fetch(&[id], &["good:2"]).await.unwrap();
            assert_eq!(world.asked("good:2"), [(vec![id], 18 * MIB as u64)]);
            machine.has_only(&[id]);
        });
    });
}

#[tokio::test]
async fn a_source_that_is_slow_is_left_for_the_next_and_asked_again_when_no_other_has_it() {
    let (world, ids) = world();
    world.add("slow:1", Way::Steady);
    world.add("good:2", Way::Honest);
    world.add("bad:3", Way::Lacks);
    let machine = Machine::new(&world);
    let report = machine.fetch(&ids, &["slow:1", "good:2"]).await.unwrap();
    assert!(report.failed[0].starts_with("slow:1: "), "{report:?}");
    machine.has_only(&ids);
    let machine = Machine::new(&world);
    world.forget();
    let medium = world.put(vec![b'm'; 96 * 1024]);
    let report = machine.fetch(&[medium], &["slow:1", "bad:3"]).await.unwrap();
    assert_eq!((report.objects, report.failed.len()), (1, 2), "{report:?}");
    assert_eq!(world.asked("slow:1").len(), 2);
    machine.has_only(&[medium]);
}

#[tokio::test]
async fn no_source_can_hold_a_machine_that_is_to_do_something_else() {
    let (world, ids) = world();
    let long = *ids.iter().max_by_key(|id| world.bytes(id).len()).unwrap();
    world.add("slow:1", Way::Steady);
    world.add("good:2", Way::Honest);
    let needs = |id: &ObjectId| Needs::of([(*id, world.bytes(id).len() as u64)]);
    let request =
        |id, source: &str| FetchRequest { needs: needs(id), sources: vec![source.to_owned()], lock: None };
    let other = ids.iter().find(|id| **id != long).unwrap();
    for end in ["another fetch", "an update", "nobody waits"] {
        let machine = Machine::new(&world);
        world.forget();
        let agent = machine.agent.as_ref().unwrap();
        {
            let fetching = agent.fetch(request(&long, "slow:1"));
            tokio::pin!(fetching);
            while world.asked("slow:1").is_empty() {
                tokio::select! {
                    biased;
                    ended = &mut fetching => panic!("{ended:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
            let again = agent.fetch(request(&long, "slow:1")).await;
            assert!(matches!(again, Err(AgentError::NotNow(_))), "it is being done: {again:?}");
            let ended = match end {
                "another fetch" => {
                    let (ended, fetched) = tokio::join!(&mut fetching, agent.fetch(request(other, "good:2")));
                    assert_eq!(fetched.unwrap().objects, 1);
                    Some(ended)
                }
                "an update" => {
                    let plan = Plan { operations: Vec::new() };
                    let anything = UpdateRequest::new(TreeId(long), ViewId(long), plan);
                    let (ended, refused) = tokio::join!(&mut fetching, agent.update(anything));
                    let refused = refused.unwrap_err().to_string();
                    assert!(refused.contains("no scan"), "{refused}");
                    Some(ended)
                }
                _ => None,
            };
            assert!(ended.is_none_or(|ended| matches!(ended, Err(AgentError::NotNow(_)))), "{end}");
        }
        agent.idle().await;
        assert!(!machine.kept().contains_key(&long.to_string()), "{end}: it was not fetched to its end");
    }
}

//! Agents on disks that are full, read-only or broken: they say so, answer all the same, and go on by themselves when the
//! cause is gone.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, missing_docs)]

mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::plan::Comparison;
use dominator_core::port::*;
use dominator_core::tree::{Directory, DirectoryMap, LinkSets, Snapshot, Tree};
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, LocalAgent, UndoBudget};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs_testkit::scenario::view_by;
use dominator_fs_testkit::{Access, Disk, Fault, Faults, Lasting, left_out, remount, with_mounts};
use rustix::io::Errno;
use sources::{Way, World};

type Hook = Box<dyn FnOnce() + Send>;

/// Objects and services; something may happen when the next of them is asked for.
#[derive(Default)]
struct Around {
    world: World,
    when_fetching: Mutex<Option<Hook>>,
    when_stopping: Mutex<Option<Hook>>,
}

fn happens(hook: &Mutex<Option<Hook>>) {
    let hook = hook.lock().unwrap().take();
    if let Some(hook) = hook {
        hook();
    }
}

#[async_trait]
impl ObjectSources for Around {
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        happens(&self.when_fetching);
        self.world.source(address).await
    }
}

impl ServiceRunner for Around {
    fn run(&self, action: ServiceAction, _: &str) -> Result<(), ServiceError> {
        if action == ServiceAction::Stop {
            happens(&self.when_stopping);
        }
        Ok(())
    }
}

/// A machine with an agent, and its controller.
struct Machine {
    root: PathBuf,
    agent: LocalAgent,
    around: Arc<Around>,
    view: View,
}

impl Machine {
    /// Both its root and what the agent remembers are in `place`.
    async fn in_place(place: &Path, seam: Arc<dyn Seam>) -> Self {
        let (root, state) = (place.join("root"), place.join("state"));
        fs::create_dir_all(&root).unwrap();
        let around = Arc::new(Around::default());
        around.world.add("images:6971", Way::Honest);
        let services = Arc::clone(&around) as Arc<dyn ServiceRunner>;
        let sources = Arc::clone(&around) as Arc<dyn ObjectSources>;
        let mut config = AgentConfig::new(&root, state, services, sources);
        config.scan_interval = Duration::from_secs(3600);
        // What a failed update leaves is told from what is kept on purpose.
        config.undo = UndoBudget::NOTHING;
        let agent = LocalAgent::start_with(config, seam).unwrap();
        let view = view_by(&agent.poll(PollRequest::default()).await.unwrap().details.traits);
        agent.set_view(view.clone(), None).await.unwrap();
        Self { root, agent, around, view }
    }

    async fn status(&self) -> PollReply {
        self.agent.poll(PollRequest::default()).await.unwrap()
    }

    /// What it is, as soon as it knows.
    async fn tree(&self) -> Tree {
        let mut known = None;
        loop {
            let wait = Duration::from_secs(60);
            let reply = self.agent.poll(PollRequest { known, wait, ..PollRequest::default() }).await.unwrap();
            match reply.scanned {
                Scanned::Tree(tree) => return tree,
                Scanned::NotYet => known = Some(reply.status.generation),
                Scanned::NeedView => panic!("the view is set"),
            }
        }
    }

    /// What a machine must be that has these files; their contents are to be had.
    fn required(&self, files: &[(&str, Vec<u8>)]) -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), self.root.metadata().unwrap().permissions()).unwrap();
        if self.root.join("lost+found").exists() {
            fs::create_dir(dir.path().join("lost+found")).unwrap();
        }
        for (name, contents) in files {
            fs::write(dir.path().join(name), contents).unwrap();
            self.around.world.put(contents.clone());
        }
        let root = Root::open(dir.path()).unwrap();
        Scanner::new(root, Arc::new(self.view.clone())).scan(&Cancel::default()).unwrap().snapshot
    }

    /// One round of a controller: looks, has fetched what is missing, and orders the update.
    async fn converge(&self, required: &Snapshot) -> Result<UpdateReport, AgentError> {
        let actual = self.tree().await;
        let root = actual.root.directory().unwrap().0;
        let encoded = self.agent.directories(vec![root, actual.links.0]).await?;
        let mut directories = DirectoryMap::default();
        directories.insert(Directory::decode(encoded[0].clone()).unwrap());
        let links = LinkSets::decode(&encoded[1]).unwrap();
        let comparison =
            Comparison { required, actual: &actual, links: Some(&links), directories: &directories };
        let plan = comparison.plan().unwrap().plan;
        let sources = vec!["images:6971".to_owned()];
        self.agent.fetch(FetchRequest { needs: plan.needs(), sources, lock: None }).await?;
        let triggers = br#"[{"MatchLines": ["/.*"], "Service": "web"}]"#;
        let order = UpdateRequest {
            image: Some("web/1".parse().unwrap()),
            triggers: Triggers::from_json(triggers).unwrap(),
            ..UpdateRequest::new(actual.id(), actual.view, plan)
        };
        self.agent.update(order).await
    }

    /// Converges without a fault. An update that was cut off has to be brought to its end first, which the agent may be
    /// about, and may have found out to be needed between a look and the order made from it.
    async fn becomes(&self, required: &Snapshot) {
        let mut outcome = self.converge(required).await;
        for _ in 0..3 {
            if !matches!(outcome, Err(AgentError::NotNow(_))) {
                break;
            }
            self.agent.idle().await;
            outcome = self.converge(required).await;
        }
        let report = outcome.unwrap();
        assert!(report.is_success(), "{report:?}");
        assert_eq!(self.tree().await.id(), required.id());
        let details = self.status().await.details;
        assert_eq!((&details.last_update_error, &details.write_error), (&None, &None));
        assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
        self.agent.clean_up(None).await.unwrap();
        for part in ["objects", "slots", "conflicts"] {
            let left: Vec<_> = fs::read_dir(self.root.join(".subd").join(part)).unwrap().collect();
            assert!(left.is_empty(), "{part}: {left:?}");
        }
    }

    /// The files in the root, with what is in them.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.root).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    }
}

fn old() -> Vec<(&'static str, Vec<u8>)> {
    vec![("changed", b"old".to_vec()), ("gone", b"gone".to_vec()), ("same", b"same".to_vec())]
}

fn new() -> Vec<(&'static str, Vec<u8>)> {
    vec![("changed", b"new".to_vec()), ("added", vec![7; 100_000]), ("same", b"same".to_vec())]
}

fn as_files(files: &[(&str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, contents)| ((*name).to_owned(), contents.clone())).collect()
}

async fn with_old_files(place: &Path, seam: Arc<dyn Seam>) -> Machine {
    fs::create_dir_all(place.join("root")).unwrap();
    for (name, contents) in old() {
        fs::write(place.join("root").join(name), contents).unwrap();
    }
    Machine::in_place(place, seam).await
}

/// Debug builds are for finding out quickly: they try every so many calls only.
const STRIDE: usize = if cfg!(debug_assertions) { 11 } else { 1 };

#[tokio::test]
async fn whatever_call_fails_the_agent_says_so_and_goes_on_when_it_does_not_any_more() {
    let mut failed = 0;
    for (number, errno) in [Errno::NOSPC, Errno::ROFS, Errno::IO].into_iter().enumerate() {
        for lasting in [Lasting::Once, Lasting::Everything] {
            for nth in (1 + number..).step_by(STRIDE) {
                let place = tempfile::tempdir().unwrap();
                let faults = Faults::none();
                let machine = with_old_files(place.path(), faults.disk()).await;
                let required = machine.required(&new());
                machine.tree().await;
                faults.breaks(Fault { kind: None, nth, errno, lasting });
                let outcome = machine.converge(&required).await;
                let shown = format!("{errno:?}, {lasting:?}, call {nth}: {outcome:?}");
                let status = machine.status().await;
                if matches!(lasting, Lasting::Everything) && outcome.is_err() {
                    let told =
                        status.details.last_update_error.is_some() || status.details.write_error.is_some();
                    assert!(told || matches!(outcome, Err(AgentError::Fetch(_))), "{shown}: nobody was told");
                }
                let hit = faults.mend() > 0;
                failed += usize::from(hit);
                let now = machine.files();
                assert!(
                    outcome.is_err() || now == as_files(&new()),
                    "{shown}: it claims to be done and is {:?}",
                    now.keys()
                );
                if outcome.is_err() {
                    machine.becomes(&required).await;
                }
                assert_eq!(machine.files(), as_files(&new()), "{shown}");
                if !hit {
                    break;
                }
            }
        }
    }
    assert!(failed * STRIDE > 100, "hardly anything failed: {failed}");
}

/// Runs a test with a disk of its own, where it may mount.
fn with_disk(
    name: &'static str,
    disk: fn() -> Result<Disk, String>,
    test: impl AsyncFnOnce(PathBuf) + Send + 'static,
) {
    with_mounts(name, move || {
        let disk = match disk() {
            Ok(disk) => disk,
            Err(why) => return left_out(name, &why),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(disk.path()));
    });
}

/// Takes the last byte there is.
fn fill(place: &Path) -> PathBuf {
    let filler = place.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    file.sync_all().unwrap_or_default();
    assert_eq!(rustix::fs::statvfs(place).unwrap().f_bavail, 0, "there is room left");
    filler
}

#[test]
fn on_a_disk_without_a_byte_left_an_agent_answers_and_updates_once_there_is_room() {
    with_disk(
        "on_a_disk_without_a_byte_left_an_agent_answers_and_updates_once_there_is_room",
        || Disk::new(64 << 20),
        async |place: PathBuf| {
            let machine = with_old_files(&place, Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.tree().await;
            let filler = fill(&place);
            for _ in 0..2 {
                let error = machine.converge(&required).await.unwrap_err();
                let words = Chain(&error).to_string();
                assert!(words.contains("space") && words.contains("free"), "{words}");
                assert_eq!(machine.files(), as_files(&old()));
                assert!(matches!(machine.status().await.scanned, Scanned::Tree(_)), "it says what it is");
            }
            fs::remove_file(filler).unwrap();
            machine.becomes(&required).await;
        },
    );
}

#[test]
fn an_agent_starts_and_answers_on_a_disk_without_a_byte_left() {
    with_disk(
        "an_agent_starts_and_answers_on_a_disk_without_a_byte_left",
        || Disk::new(64 << 20),
        async |place: PathBuf| {
            // It has been there before: it is started anew, or the machine is.
            drop(with_old_files(&place, Arc::new(Kernel)).await);
            let filler = fill(&place);
            let machine = Machine::in_place(&place, Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.tree().await;
            let words =
                machine.converge(&required).await.map_err(|error| Chain(&error).to_string()).unwrap_err();
            assert!(words.contains("space"), "{words}");
            fs::remove_file(filler).unwrap();
            machine.becomes(&required).await;
        },
    );
}

#[test]
fn on_a_disk_without_inodes_an_agent_says_so_and_updates_once_there_are() {
    with_disk(
        "on_a_disk_without_inodes_an_agent_says_so_and_updates_once_there_are",
        || Disk::made_with(64 << 20, &["-N", "128"]),
        async |place: PathBuf| {
            let machine = with_old_files(&place, Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.tree().await;
            let fillers = place.join("fillers");
            fs::create_dir(&fillers).unwrap();
            (0..).take_while(|number| fs::write(fillers.join(format!("{number}")), b"").is_ok()).count();
            let words =
                machine.converge(&required).await.map_err(|error| Chain(&error).to_string()).unwrap_err();
            assert!(words.contains("inodes"), "{words}");
            assert_eq!(machine.files(), as_files(&old()));
            fs::remove_dir_all(fillers).unwrap();
            machine.becomes(&required).await;
        },
    );
}

/// It says that the root is read-only, and that nothing has changed, as often as it is asked.
async fn is_read_only(machine: &Machine, required: &Snapshot) {
    for _ in 0..2 {
        let words = machine.converge(required).await.map_err(|error| Chain(&error).to_string()).unwrap_err();
        assert!(words.contains("Read-only file system"), "{words}");
        assert_eq!(machine.files(), as_files(&old()), "{words}");
        let details = machine.status().await.details;
        let told: Vec<_> = [&details.write_error, &details.last_update_error].into_iter().flatten().collect();
        assert!(told.iter().any(|words| words.contains("Read-only file system")), "{told:?}");
    }
}

#[test]
fn a_root_that_becomes_read_only_while_objects_come_is_told_of_and_gone_on_with() {
    with_disk(
        "a_root_that_becomes_read_only_while_objects_come_is_told_of_and_gone_on_with",
        || Disk::new(64 << 20),
        async |place: PathBuf| {
            let machine = with_old_files(&place, Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.tree().await;
            let at = place.clone();
            *machine.around.when_fetching.lock().unwrap() =
                Some(Box::new(move || remount(&at, Access::Read)));
            is_read_only(&machine, &required).await;
            remount(&place, Access::Write);
            machine.becomes(&required).await;
        },
    );
}

/// The file-system finds an error in itself between the journal and the first rename, and lets nobody write any more.
#[test]
fn a_root_that_breaks_during_an_update_is_told_of_and_gone_on_with_when_it_is_mended() {
    const NAME: &str = "a_root_that_breaks_during_an_update_is_told_of_and_gone_on_with_when_it_is_mended";
    with_mounts(NAME, || {
        let disk = match Disk::with(64 << 20, "errors=remount-ro") {
            Ok(disk) => disk,
            Err(why) => return left_out(NAME, &why),
        };
        let device = disk.device().file_name().unwrap().to_str().unwrap().to_owned();
        let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));
        if !trigger.exists() {
            return left_out(NAME, "the kernel lets nobody break an ext4");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let machine = with_old_files(&disk.path(), Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.tree().await;
            let hook = move || fs::write(trigger, "the disk is broken").unwrap();
            *machine.around.when_stopping.lock().unwrap() = Some(Box::new(hook));
            is_read_only(&machine, &required).await;
        });
        drop(runtime);
        disk.forget();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let machine = Machine::in_place(&disk.path(), Arc::new(Kernel)).await;
            let required = machine.required(&new());
            machine.becomes(&required).await;
        });
    });
}

//! The agent that is killed, and the world it leaves behind.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dominator_core::health::{HealthChecks, Probe};
use dominator_core::port::*;
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, LocalAgent, UndoBudget};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Seam;
use dominator_fs::update::BootId;
use dominator_fs_testkit::{Call, Tap, Tapped};

use super::Cut;
use super::support::{Source, fetch, order, poll, tree, view};

/// A service won't start with this.
pub(crate) const BAD: &str = "bad";
/// A service starts with this, and is not well.
pub(crate) const SICK: &str = "sick";
pub(crate) const NEVER: usize = usize::MAX;

const SERVICES: &str = r#"
    {"MatchLines": ["/conf"], "Service": "web"},
    {"MatchLines": ["/data"], "Service": "db", "DoReload": true}"#;
pub(crate) const AGENT: &str = r#",{"MatchLines": ["/conf"], "Service": "subd"}"#;
pub(crate) const REBOOT: &str = r#",{"MatchLines": ["/conf"], "Service": "reboot", "DoReboot": true}"#;
pub(crate) const CHECK: &str = r#"{"Deadline": "60s", "Checks": [{"Name": "answers", "Tcp": "127.0.0.1:80", "Retries": 1, "Delay": "10ms"}]}"#;

/// What outlives an agent: services, and whoever supervises them and the machine.
pub(crate) struct World {
    dir: PathBuf,
}

impl World {
    /// A machine that is `old/1`, and runs.
    pub(crate) fn new(dir: &Path) -> Self {
        for part in ["root", "state", "world"] {
            fs::create_dir(dir.join(part)).unwrap();
        }
        let world = Self::open(dir);
        ["conf", "data"].iter().for_each(|name| fs::write(dir.join("root").join(name), "old").unwrap());
        world.write("boot", "0");
        world.boot();
        world
    }

    pub(crate) fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.dir.join("world").join(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join("world").join(name)).ok()
    }

    fn remove(&self, name: &str) -> bool {
        fs::remove_file(self.dir.join("world").join(name)).is_ok()
    }

    fn file(&self, service: &str) -> String {
        let name = if service == "db" { "data" } else { "conf" };
        fs::read_to_string(self.dir.join("root").join(name)).unwrap()
    }

    /// All that was asked for.
    pub(crate) fn log(&self) -> String {
        self.read("log").unwrap_or_default().replace('\n', ", ")
    }

    /// What a service answers; nothing, when it does not run.
    pub(crate) fn answer(&self, service: &str) -> Option<String> {
        self.read(&format!("runs-{service}"))
    }

    /// What the machine was started with.
    pub(crate) fn kernel(&self) -> String {
        self.read("kernel").unwrap()
    }

    fn start(&self, service: &str) -> Result<(), String> {
        let file = self.file(service);
        if self.answer(service).is_none() && file == BAD {
            return Err("it does not like its file".to_owned());
        }
        // One that runs is left alone.
        if self.answer(service).is_none() {
            self.write(&format!("runs-{service}"), &file);
        }
        Ok(())
    }

    fn stop(&self, service: &str) {
        self.remove(&format!("runs-{service}"));
    }

    /// The machine is started anew, with what services come up.
    fn boot(&self) {
        self.write("boot", &format!("{}+", self.read("boot").unwrap()));
        self.write("kernel", &self.file("kernel"));
        for service in ["web", "db"] {
            self.stop(service);
            drop(self.start(service));
        }
    }

    /// What was ordered comes. Whether anything was.
    pub(crate) fn restart(&self) -> bool {
        let ordered = self.read("ordered");
        self.remove("ordered");
        if ordered.as_deref() == Some("reboot") {
            self.boot();
        }
        ordered.is_some()
    }
}

/// Whoever asks for anything in this world, and is killed at some point.
struct Victim {
    world: World,
    /// How many points there were.
    passed: AtomicUsize,
    /// At which it ends.
    last: AtomicUsize,
}

impl Victim {
    /// Points count from here.
    fn begin(&self, last: usize) {
        self.passed.store(0, Ordering::SeqCst);
        self.last.store(last, Ordering::SeqCst);
    }

    fn point(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) == self.last.load(Ordering::SeqCst) {
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    }

    fn asked<T>(&self, call: &str, work: impl FnOnce() -> T) -> T {
        self.point();
        let path = self.world.dir.join("world/log");
        let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
        log.write_all(format!("{call}\n").as_bytes()).unwrap();
        let done = work();
        self.point();
        done
    }
}

impl Tap for Victim {
    fn before(&self, _: Call<'_>) -> io::Result<()> {
        self.point();
        Ok(())
    }
}

impl ServiceRunner for Victim {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let world = &self.world;
        let done = self.asked(&format!("{} {service}", action.verb()), || match (action, service) {
            (ServiceAction::Reboot, _) => {
                world.write("ordered", "reboot");
                Ok(())
            }
            (ServiceAction::Start, "subd") => {
                world.write("ordered", "agent");
                Ok(())
            }
            (ServiceAction::Start, _) => world.start(service),
            (ServiceAction::Stop, _) => {
                world.stop(service);
                Ok(())
            }
            (ServiceAction::Reload | ServiceAction::Restart, _) => {
                world.stop(service);
                world.start(service)
            }
        });
        let failed =
            |output| ServiceError::Failed { action: action.verb(), service: service.to_owned(), output };
        done.map_err(failed)
    }

    fn state(&self, service: &str) -> ServiceState {
        match self.world.answer(service) {
            Some(_) => ServiceState::Running,
            None if self.world.file(service) == BAD => ServiceState::Failed,
            None => ServiceState::Stopped,
        }
    }
}

impl Prober for Victim {
    fn probe(&self, _: &Probe, _: Duration) -> Result<(), Unhealthy> {
        self.asked("probe", || match self.world.answer("web").as_deref() {
            Some(SICK) | None => Err(Unhealthy::Wrong("it coughs".to_owned())),
            Some(_) => Ok(()),
        })
    }
}

/// Does what an agent does for this task, until it is killed.
pub(crate) fn carry_out(task: &str, dir: &Path, cut: &Cut, point: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let last = point.parse().unwrap();
    runtime.block_on(async {
        match task {
            "prepare" => prepare(dir).await,
            "order" => ordered(dir, cut, last).await,
            "settle" => settled(dir, last).await,
            other => panic!("{other} is nothing an agent does"),
        }
    });
}

fn start(dir: &Path, last: usize, undo: UndoBudget) -> (LocalAgent, Arc<Victim>, Source) {
    let world = World::open(dir);
    let boot = BootId::of(world.read("boot").unwrap().as_bytes());
    let victim = Arc::new(Victim { world, passed: AtomicUsize::new(0), last: AtomicUsize::new(last) });
    let source = Source::default();
    let services = Arc::clone(&victim) as Arc<dyn ServiceRunner>;
    let mut config =
        AgentConfig::new(dir.join("root"), dir.join("state"), services, Arc::new(source.clone()));
    config.scan_interval = Duration::from_secs(3600);
    config.settle = Duration::ZERO;
    config.undo = undo;
    config.prober = Arc::clone(&victim) as Arc<dyn Prober>;
    config.boot = boot;
    let seam: Arc<dyn Seam> = Arc::new(Tapped(Arc::clone(&victim)));
    let agent = LocalAgent::start_between(config, Arc::clone(&seam), seam).unwrap();
    agent.is_served();
    (agent, victim, source)
}

/// What the machine must be to have these files.
fn required(view: &View, dir: &Path, files: [(&str, &str); 2]) -> Snapshot {
    let like = tempfile::tempdir().unwrap();
    fs::set_permissions(like.path(), dir.join("root").metadata().unwrap().permissions()).unwrap();
    files.iter().for_each(|(name, contents)| fs::write(like.path().join(name), contents).unwrap());
    let root = Root::open(like.path()).unwrap();
    Scanner::new(root, Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot
}

async fn prepare(dir: &Path) {
    // A journal is of one root, and none of its copies.
    let (agent, _, _) = start(dir, NEVER, UndoBudget::NOTHING);
    let view = view(&agent).await;
    agent.set_view(view.clone(), None).await.unwrap();
    tree(&agent).await;
    let old = required(&view, dir, [("conf", "old"), ("data", "old")]);
    let image = Some("old/1".parse().unwrap());
    let request = UpdateRequest { image, ..order(&agent, &old, &format!("[{SERVICES}]")).await };
    assert!(agent.update(request).await.unwrap().is_success());
}

async fn ordered(dir: &Path, cut: &Cut, last: usize) {
    let (agent, victim, source) = start(dir, NEVER, UndoBudget::default());
    tree(&agent).await;
    let view = view(&agent).await;
    let required = required(&view, dir, [("conf", cut.conf), ("data", "news")]);
    let objects = [cut.conf, "news"].map(|contents| {
        let id = dominator_core::object::ObjectId::of(contents.as_bytes());
        source.objects.lock().unwrap().insert(id, bytes::Bytes::copy_from_slice(contents.as_bytes()));
        (id, contents.len() as u64)
    });
    agent.fetch(fetch(&objects)).await.unwrap();
    let request = order(&agent, &required, &format!("[{SERVICES}{}]", cut.more)).await;
    let health = HealthChecks::from_json(cut.health.as_bytes()).unwrap();
    victim.begin(last);
    let report = agent.update(UpdateRequest { health, ..request }).await.unwrap();
    println!("points: {}", victim.passed.load(Ordering::SeqCst));
    println!("{}", report.outcome.text());
}

async fn settled(dir: &Path, last: usize) {
    let (agent, victim, _) = start(dir, last, UndoBudget::default());
    agent.idle().await;
    println!("points: {}", victim.passed.load(Ordering::SeqCst));
    // What was ordered is about to come: nobody waits for what this one still does.
    if victim.world.read("ordered").is_some() {
        return;
    }
    tree(&agent).await;
    let details = poll(&agent).await.details;
    assert_eq!(details.trial, None);
    let record = agent.history(1).await.unwrap().remove(0);
    assert!(record.ended.is_some() || matches!(record.outcome, UpdateOutcome::NotMade { .. }), "{record:?}");
    let image = details.last_image.as_ref().map(ToString::to_string).unwrap_or_default();
    println!("{image}: {}, {} bad", record.outcome.text(), details.bad_images.len());
}

//! A machine whose services answer with what their file contained when they were started, and which can lose power, or its
//! agent, at any call.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dominator_core::health::{HealthChecks, Probe};
use dominator_core::port::*;
use dominator_core::tree::Snapshot;
use dominator_core::trigger::ServiceName;
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::seam::Seam;
use dominator_fs::update::BootId;
use dominator_fs_testkit::{Call, Tap, Tapped};
use rustix::io::Errno;

use super::support::*;

/// A service won't start with this.
pub(crate) const BAD: &str = "bad";
/// A service starts with this, and is not well.
pub(crate) const SICK: &str = "sick";

pub(crate) const SERVICES: &str = r#"
    {"MatchLines": ["/conf"], "Service": "web"},
    {"MatchLines": ["/data"], "Service": "db", "DoReload": true}"#;
pub(crate) const AGENT: &str = r#",{"MatchLines": ["/conf"], "Service": "subd"}"#;
pub(crate) const REBOOT: &str = r#",{"MatchLines": ["/conf"], "Service": "reboot", "DoReboot": true}"#;
pub(crate) const MAIL: &str = r#",{"MatchLines": ["/conf"], "Service": "mail"}"#;
pub(crate) const CHECK: &str = r#"{"Deadline": "60s", "Checks": [{"Name": "answers", "Tcp": "127.0.0.1:80", "Retries": 1, "Delay": "10ms"}]}"#;

const DEAD: usize = usize::MAX - 1;
const NEVER: usize = usize::MAX;

/// What kills the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before the disk is changed for the nth time.
    AtDisk(usize),
    /// Before a service, or a check, is asked for the nth time.
    Before(usize),
    /// After that.
    After(usize),
}

/// After how many changes of the disk, and what.
type Beside = (usize, Box<dyn FnOnce() + Send>);

#[derive(Default)]
pub(crate) struct World {
    root: PathBuf,
    running: Mutex<BTreeMap<String, Option<String>>>,
    calls: Mutex<Vec<String>>,
    /// How many calls of each kind are left, or that the agent is dead.
    disk: AtomicUsize,
    before: AtomicUsize,
    after: AtomicUsize,
    ordered: Mutex<Option<TrialReason>>,
    /// How often it is said that the machine is still coming up.
    pub(crate) coming_up: AtomicUsize,
    /// What the machine, and the agent, were started with.
    kernel: Mutex<String>,
    program: Mutex<String>,
    /// Services that had failed before anything was done to them.
    pub(crate) failed: Mutex<Vec<&'static str>>,
    /// After how many looks at it a service is found dead, and is up again after how many more.
    pub(crate) dies: Mutex<Option<(usize, usize)>>,
    /// What happens beside, when the disk is changed that often.
    beside: Mutex<Option<Beside>>,
}

impl World {
    fn new(root: PathBuf) -> Self {
        let world = Self { root, ..Self::default() };
        *world.kernel.lock().unwrap() = world.file("kernel");
        world.revive();
        world
    }

    fn revive(&self) {
        [&self.disk, &self.before, &self.after].iter().for_each(|left| left.store(NEVER, Ordering::SeqCst));
    }

    pub(crate) fn at_disk(&self, calls: usize, beside: impl FnOnce() + Send + 'static) {
        *self.beside.lock().unwrap() = Some((calls, Box::new(beside)));
    }

    fn is_dead(&self) -> bool {
        self.disk.load(Ordering::SeqCst) == DEAD
    }

    fn die(&self) -> ! {
        self.disk.store(DEAD, Ordering::SeqCst);
        panic!("the end of the agent");
    }

    fn count(&self, left: &AtomicUsize) {
        match left.load(Ordering::SeqCst) {
            NEVER => {}
            0 => self.die(),
            more => left.store(more - 1, Ordering::SeqCst),
        }
    }

    fn file(&self, service: &str) -> String {
        let name = if service == "db" { "data" } else { "conf" };
        std::fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    fn asked<T>(&self, call: String, work: impl FnOnce() -> T) -> T {
        assert!(!self.is_dead(), "nothing of a dead agent does anything any more");
        self.count(&self.before);
        self.calls.lock().unwrap().push(call);
        let outcome = work();
        self.count(&self.after);
        outcome
    }

    fn start(&self, service: &str) -> Result<(), String> {
        let file = self.file(service);
        let is_good = file != BAD && !self.failed.lock().unwrap().contains(&service);
        let mut running = self.running.lock().unwrap();
        // One that runs is left alone.
        let running = running.entry(service.to_owned()).or_default();
        if running.is_none() {
            *running = is_good.then_some(file);
        }
        if running.is_some() { Ok(()) } else { Err("it does not like its file".to_owned()) }
    }

    /// What a service answers; nothing, when it does not run.
    pub(crate) fn answer(&self, service: &str) -> Option<String> {
        self.running.lock().unwrap().get(service).cloned().flatten()
    }
}

impl ServiceRunner for World {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let done = self.asked(format!("{} {service}", action.verb()), || match (action, service) {
            (ServiceAction::Reboot, _) => {
                *self.ordered.lock().unwrap() = Some(TrialReason::Reboot);
                Ok(())
            }
            (ServiceAction::Start, "subd") => {
                *self.ordered.lock().unwrap() = Some(TrialReason::AgentRestart);
                Ok(())
            }
            (ServiceAction::Start, "guard-that-is-broken") => Err("there is none".to_owned()),
            (ServiceAction::Start, "subd-guard") => Ok(()),
            (ServiceAction::Start, _) => self.start(service),
            (ServiceAction::Stop, _) => {
                self.running.lock().unwrap().insert(service.to_owned(), None);
                Ok(())
            }
            (ServiceAction::Reload | ServiceAction::Restart, _) => {
                self.running.lock().unwrap().insert(service.to_owned(), None);
                self.start(service)
            }
        });
        let failed =
            |output| ServiceError::Failed { action: action.verb(), service: service.to_owned(), output };
        done.map_err(failed)
    }

    fn is_coming_up(&self) -> bool {
        let left = self.coming_up.load(Ordering::SeqCst);
        self.coming_up.store(left.saturating_sub(1), Ordering::SeqCst);
        self.calls.lock().unwrap().extend((left > 0).then(|| "coming up".to_owned()));
        left > 0
    }

    fn state(&self, service: &str) -> ServiceState {
        if self.is_dead() {
            return ServiceState::Unknown;
        }
        if self.failed.lock().unwrap().contains(&service) {
            return ServiceState::Failed;
        }
        let is_new = self.answer("web").is_some_and(|answer| answer != "old");
        match (&mut *self.dies.lock().unwrap(), self.answer(service)) {
            (Some((0, 0)), Some(_)) => ServiceState::Running,
            (Some((0, more)), Some(_)) if service == "web" && is_new => {
                *more -= 1;
                ServiceState::Failed
            }
            (Some((looks, _)), Some(_)) if service == "web" && is_new => {
                *looks -= 1;
                ServiceState::Running
            }
            (_, Some(_)) => ServiceState::Running,
            (_, None) if self.file(service) == BAD => ServiceState::Failed,
            (_, None) => ServiceState::Stopped,
        }
    }
}

impl Prober for World {
    fn probe(&self, _: &Probe, _: Duration) -> Result<(), Unhealthy> {
        self.asked("probe".to_owned(), || match self.answer("web").as_deref() {
            Some(SICK) | None => Err(Unhealthy::Wrong("it coughs".to_owned())),
            Some(_) => Ok(()),
        })
    }
}

impl Tap for World {
    fn before(&self, _: Call<'_>) -> io::Result<()> {
        match self.disk.load(Ordering::SeqCst) {
            DEAD => Err(Errno::IO.into()),
            _ => {
                let mut beside = self.beside.lock().unwrap();
                match beside.take() {
                    Some((0, work)) => work(),
                    Some((more, work)) => *beside = Some((more - 1, work)),
                    None => {}
                }
                drop(beside);
                self.count(&self.disk);
                Ok(())
            }
        }
    }
}

/// A machine that is `old/1`, and is to be `web/1`.
pub(crate) struct Case {
    pub(crate) machine: Machine,
    pub(crate) world: Arc<World>,
    required: Option<Snapshot>,
    /// What `conf` must become.
    pub(crate) conf: &'static str,
    pub(crate) triggers: String,
    pub(crate) health: HealthChecks,
    boot: AtomicUsize,
    pub(crate) guard: Option<ServiceName>,
    pub(crate) settle: Duration,
}

pub(crate) const OLD: [(&str, &str); 2] = [("conf", "old"), ("data", "old")];

impl Case {
    pub(crate) async fn new(conf: &'static str, more: &str, health: &str) -> Self {
        let machine = Machine::new();
        for (name, contents) in OLD {
            machine.write(name, contents);
        }
        let world = Arc::new(World::new(machine.root.path().to_owned()));
        let triggers = format!("[{SERVICES}{more}]");
        let health = HealthChecks::from_json(health.as_bytes()).unwrap();
        let required = None;
        let boot = AtomicUsize::new(1);
        let (guard, settle) = (None, Duration::ZERO);
        let mut case = Self { machine, world, required, conf, triggers, health, boot, guard, settle };
        let agent = case.start().unwrap();
        let view = view(&agent).await;
        agent.set_view(view.clone(), None).await.unwrap();
        tree(&agent).await;
        let old = super::support::required(&view, &case.machine, &OLD);
        let image = Some("old/1".parse().unwrap());
        let request = UpdateRequest { image, ..order(&agent, &old, &format!("[{SERVICES}]")).await };
        assert!(agent.update(request).await.unwrap().is_success());
        for service in ["web", "db"] {
            case.world.start(service).unwrap();
        }
        case.required =
            Some(super::support::required(&view, &case.machine, &[("conf", conf), ("data", "news")]));
        case
    }

    pub(crate) fn config(&self) -> AgentConfig {
        let mut config = self.machine.config();
        config.services = Arc::clone(&self.world) as Arc<dyn ServiceRunner>;
        config.prober = Arc::clone(&self.world) as Arc<dyn Prober>;
        config.boot = BootId::of(&self.boot.load(Ordering::SeqCst).to_be_bytes());
        config.guard.clone_from(&self.guard);
        config.settle = self.settle;
        config
    }

    /// Nothing, if it dies of that.
    pub(crate) fn start(&self) -> Option<LocalAgent> {
        *self.world.program.lock().unwrap() = self.world.file("subd");
        let seam: Arc<dyn Seam> = Arc::new(Tapped(Arc::clone(&self.world)));
        std::panic::catch_unwind(AssertUnwindSafe(|| LocalAgent::start_with(self.config(), seam)))
            .ok()
            .map(|started| started.unwrap())
    }

    /// An agent that has all objects, and its order.
    pub(crate) async fn ordered(&self, agent: &LocalAgent) -> UpdateRequest {
        tree(agent).await;
        let objects = [self.conf, "news"].map(|contents| self.machine.offer(contents));
        agent.fetch(fetch(&objects)).await.unwrap();
        let request = order(agent, self.required.as_ref().unwrap(), &self.triggers).await;
        UpdateRequest { health: self.health.clone(), ..request }
    }

    pub(crate) fn revive(&self) {
        self.world.revive();
    }

    pub(crate) fn lives(&self) -> bool {
        !self.world.is_dead()
    }

    pub(crate) fn dies(&self, death: Death) {
        match death {
            Death::AtDisk(calls) => self.world.disk.store(calls, Ordering::SeqCst),
            Death::Before(calls) => self.world.before.store(calls, Ordering::SeqCst),
            Death::After(calls) => self.world.after.store(calls, Ordering::SeqCst),
        }
    }

    /// The machine is started anew, with what services it has.
    pub(crate) fn boot(&self) {
        self.boot.fetch_add(1, Ordering::SeqCst);
        *self.world.kernel.lock().unwrap() = self.world.file("kernel");
        for service in ["web", "db"] {
            self.world.running.lock().unwrap().insert(service.to_owned(), None);
            // One that does not come up is down.
            drop(self.world.start(service));
        }
    }

    /// What became of a restart that was ordered: it comes.
    pub(crate) fn restarts(&self) -> bool {
        match self.world.ordered.lock().unwrap().take() {
            None => return false,
            Some(TrialReason::Reboot) => self.boot(),
            Some(TrialReason::AgentRestart) => {}
        }
        true
    }

    /// Agents come and go, as often as they die or are restarted, until one of them has nothing more to do.
    pub(crate) async fn settled(&self) -> LocalAgent {
        for _ in 0..10 {
            self.world.revive();
            let Some(agent) = self.start() else { continue };
            agent.is_served();
            agent.idle().await;
            if self.world.is_dead() || self.restarts() {
                continue;
            }
            tree(&agent).await;
            return agent;
        }
        panic!("agents come and go without end: {:?}", self.calls());
    }

    /// What the machine and the agent were started with.
    pub(crate) fn runs(&self) -> [String; 2] {
        [&self.world.kernel, &self.world.program].map(|what| what.lock().unwrap().clone())
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is(self.conf, "news")
    }

    pub(crate) fn is_old(&self) -> bool {
        self.is("old", "old")
    }

    fn is(&self, conf: &str, data: &str) -> bool {
        self.machine.read("conf").as_deref() == Some(conf)
            && self.machine.read("data").as_deref() == Some(data)
    }

    /// What services were asked for since this was asked last.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.world.calls.lock().unwrap())
    }

    pub(crate) fn answers(&self) -> [Option<String>; 2] {
        ["web", "db"].map(|service| self.world.answer(service))
    }
}

/// What the last record says.
pub(crate) async fn last(agent: &LocalAgent) -> UpdateRecord {
    agent.history(1).await.unwrap().remove(0)
}

/// Why, if it was taken back as a whole.
pub(crate) fn undone_for(outcome: &UpdateOutcome) -> Option<UndoReason> {
    match outcome {
        UpdateOutcome::Undone { why, failures, .. } => {
            assert_eq!(failures, &[]);
            Some(*why)
        }
        UpdateOutcome::Made | UpdateOutcome::OnTrial { .. } | UpdateOutcome::NotMade { .. } => None,
    }
}

/// What services answer.
pub(crate) fn some(conf: &str, data: &str) -> [Option<String>; 2] {
    [Some(conf.to_owned()), Some(data.to_owned())]
}

pub(crate) async fn image(agent: &LocalAgent) -> Option<String> {
    poll(agent).await.details.last_image.as_ref().map(ToString::to_string)
}

/// The machine is what it was, and says why.
pub(crate) async fn is_back(case: &Case, agent: &LocalAgent, why: UndoReason) {
    assert!(case.is_old());
    assert_eq!(case.answers(), some("old", "old"), "services answer as before");
    tree(agent).await;
    let details = poll(agent).await.details;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "old/1");
    let [bad] = &details.bad_images[..] else { panic!("{details:?}") };
    assert_eq!((bad.image.as_str(), &details.trial), ("web/1", &None));
    let record = last(agent).await;
    assert_eq!((undone_for(&record.outcome), record.image), (Some(why), Some(bad.image.clone())));
    assert!(record.ended.is_some());
}

/// The machine is what it was to be.
pub(crate) async fn is_made(case: &Case, agent: &LocalAgent) {
    assert!(case.is_new());
    assert_eq!(case.answers(), some(case.conf, "news"));
    let details = poll(agent).await.details;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    assert_eq!((&details.last_update_error, &details.trial), (&None, &None));
    assert_eq!(details.bad_images, []);
    let record = last(agent).await;
    assert_eq!((record.outcome, record.ended.is_some()), (UpdateOutcome::Made, true));
}

//! What an agent does about an update that was cut off, and what it tells of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::*;
use dominator_core::tree::Snapshot;
use dominator_fs::agent::{LocalAgent, UndoBudget};
use dominator_fs::root::Root;
use dominator_fs::seam::{Kernel, Rename, Seam};
use dominator_fs::update::{Reason, Recovery, Updater};
use dominator_fs_testkit::{Call, CallKind, Fault, Faults, Lasting, Tap, Tapped};
use rustix::io::Errno;

use super::support::*;

const TRIGGERS: &str = r#"[
    {"MatchLines": ["/conf"], "Service": "web"},
    {"MatchLines": ["/data"], "Service": "db", "DoReload": true},
    {"MatchLines": ["/other"], "Service": "other"}
]"#;
/// What only the image before knew.
const BEFORE: &str = r#"[{"MatchLines": ["/conf"], "Service": "old"}]"#;
const OLD: [(&str, &str); 3] = [("conf", "old"), ("data", "old"), ("gone", "old")];
const NEW: [(&str, &str); 3] = [("conf", "new"), ("data", "news"), ("added", "a")];

/// The process is gone from a call on: nothing is changed any more, by nobody in it.
struct Death {
    /// How many calls are made before that; for ever, until it is said.
    left: AtomicUsize,
    of: Counted,
}

enum Counted {
    Calls,
    Exchanges,
}

impl Death {
    fn at(of: Counted) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(usize::MAX), of })
    }

    fn comes_after(&self, calls: usize) {
        self.left.store(calls, Ordering::Relaxed);
    }
}

impl Tap for Death {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let counts = match self.of {
            Counted::Calls => true,
            Counted::Exchanges => matches!(call, Call::Rename(_, _, Rename::Exchange)),
        };
        match self.left.load(Ordering::Relaxed) {
            0 if counts => {
                self.left.store(usize::MAX - 1, Ordering::Relaxed);
                panic!("the end of the agent");
            }
            left if left == usize::MAX - 1 => Err(Errno::IO.into()),
            left if counts && left != usize::MAX => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A machine that was made to be an image with the service `old`, and must be another one now.
struct Case {
    machine: Machine,
    required: Snapshot,
}

impl Case {
    async fn new() -> Self {
        let machine = Machine::new();
        for (name, contents) in OLD {
            machine.write(name, contents);
        }
        let agent = machine.ready().await;
        let view = view(&agent).await;
        let before = required(&view, &machine, &OLD);
        let image = Some("old/1".parse().unwrap());
        let request = UpdateRequest { image, ..order(&agent, &before, BEFORE).await };
        assert!(agent.update(request).await.unwrap().is_success());
        tree(&agent).await;
        machine.calls();
        let required = required(&view, &machine, &NEW);
        Self { machine, required }
    }

    fn start(&self, seam: Arc<dyn Seam>) -> LocalAgent {
        LocalAgent::start_with(self.machine.config(), seam).unwrap()
    }

    /// An agent that has all objects, and its order.
    async fn ordered(&self, seam: Arc<dyn Seam>) -> (LocalAgent, UpdateRequest) {
        let agent = self.start(seam);
        let objects = ["new", "news", "a"].map(|contents| self.machine.offer(contents));
        tree(&agent).await;
        agent.fetch(fetch(&objects)).await.unwrap();
        let request = order(&agent, &self.required, TRIGGERS).await;
        (agent, request)
    }

    /// The agent dies when one path of two is changed.
    async fn cut_off() -> Self {
        let case = Self::new().await;
        let death = Death::at(Counted::Exchanges);
        let (agent, request) = case.ordered(Arc::new(Tapped(Arc::clone(&death)))).await;
        death.comes_after(1);
        agent.update(request).await.unwrap_err();
        drop(agent);
        assert_eq!(case.machine.calls(), ["stop old", "stop web"]);
        assert!(!case.is(&OLD) && !case.is(&NEW), "half of it is made");
        case
    }

    /// The next agent has brought it to its end before it answered.
    async fn is_made(&self, agent: &LocalAgent) {
        assert!(self.is(&NEW));
        assert_eq!(tree(agent).await.id(), self.required.id());
        let details = poll(agent).await.details;
        assert_eq!((&details.last_update_error, &details.write_error), (&None, &None));
        assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    }

    fn is(&self, files: &[(&str, &str)]) -> bool {
        let all = ["conf", "data", "gone", "added"];
        all.iter().all(|name| {
            let wanted = files.iter().find(|(file, _)| file == name).map(|(_, contents)| *contents);
            self.machine.read(name).as_deref() == wanted
        })
    }
}

#[tokio::test]
async fn an_update_that_was_cut_off_is_finished_before_there_is_an_answer_and_remembered() {
    let case = Case::cut_off().await;
    let agent = case.start(Arc::new(Kernel));
    assert!(case.is(&NEW), "before anything else");
    case.is_made(&agent).await;
    // Nothing is known of when they were started: perhaps when only half of it was there. One that must go stays stopped.
    assert_eq!(case.machine.calls(), ["stop web", "start web", "reload db"]);
    drop(agent);
    let agent = case.start(Arc::new(Kernel));
    case.is_made(&agent).await;
    assert_eq!(case.machine.calls(), <[String; 0]>::default(), "once is enough");
    // It was recorded as any other: nothing is left of the image before.
    let old = required(&view(&agent).await, &case.machine, &OLD);
    agent.fetch(fetch(&[case.machine.offer("old")])).await.unwrap();
    assert!(agent.update(order(&agent, &old, BEFORE).await).await.unwrap().is_success());
    assert_eq!(case.machine.calls(), ["stop old", "stop web", "start old"]);
}

#[tokio::test]
async fn wherever_an_agent_dies_the_machine_and_its_services_become_right() {
    let mut ends = [0, 0];
    // Each point is played elsewhere, without an agent.
    for point in (0..).step_by(3) {
        let case = Case::new().await;
        let death = Death::at(Counted::Calls);
        let (agent, request) = case.ordered(Arc::new(Tapped(Arc::clone(&death)))).await;
        death.comes_after(point);
        let over = agent.update(request).await.is_ok();
        drop(agent);
        let mut calls = case.machine.calls();
        let agent = case.start(Arc::new(Kernel));
        let made = case.is(&NEW);
        assert!(made || case.is(&OLD), "neither old nor new after {point} calls");
        tree(&agent).await;
        agent.idle().await;
        calls.extend(case.machine.calls());
        let last = |service: &str| calls.iter().rfind(|call| call.ends_with(service)).map(String::as_str);
        if made {
            case.is_made(&agent).await;
            let services = [last(" web"), last(" db"), last(" old")];
            assert_eq!(
                services,
                [Some("start web"), Some("reload db"), Some("stop old")],
                "after {point} calls"
            );
        } else {
            // Nobody had looked whether they run.
            let stopped = |service: &str| last(service).is_some_and(|call| call.starts_with("stop"));
            assert!(
                !stopped(" web") && !stopped(" old") && last(" db").is_none(),
                "{calls:?} after {point} calls"
            );
            let (agent, request) = {
                drop(agent);
                case.ordered(Arc::new(Kernel)).await
            };
            assert!(agent.update(request).await.unwrap().is_success(), "after {point} calls");
            case.is_made(&agent).await;
        }
        ends[usize::from(made)] += 1;
        if over {
            break;
        }
    }
    assert!(ends[0] > 5 && ends[1] > 3, "before and after the swap began: {ends:?}");
}

#[tokio::test]
async fn services_that_may_run_with_files_of_both_kinds_are_stopped_also_when_another_death_comes_in_between()
{
    for undone in [false, true] {
        let case = Case::cut_off().await;
        let faults = Faults::none();
        let kind = Some(CallKind::Rename);
        if undone {
            faults.breaks(Fault { kind, nth: 1, errno: Errno::IO, lasting: Lasting::Once });
        }
        // Brings the files to their end, and is gone.
        let (_, recovery) =
            Updater::open(Root::open(case.machine.root.path()).unwrap(), faults.disk()).unwrap();
        assert!(
            matches!(
                (undone, &recovery),
                (false, Recovery::Finished { .. }) | (true, Recovery::Undone { .. })
            ),
            "{recovery:?}"
        );
        let agent = case.start(Arc::new(Kernel));
        tree(&agent).await;
        agent.idle().await;
        let calls = case.machine.calls();
        match undone {
            false => assert_eq!(calls, ["stop web", "start web", "reload db"]),
            true => assert_eq!(calls, ["stop web", "stop old", "start old", "start web", "reload db"]),
        }
        drop(agent);
        tree(&case.start(Arc::new(Kernel))).await;
        assert_eq!(case.machine.calls(), <[String; 0]>::default(), "once is enough");
    }
}

#[tokio::test]
async fn an_agent_does_not_say_that_the_machine_is_an_image_that_somebody_undid_meanwhile() {
    let image = async |agent: &LocalAgent| {
        poll(agent).await.details.last_image.as_ref().map(|image| image.as_str().to_owned())
    };
    let case = Case::new().await;
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    drop(agent);
    let agent = case.start(Arc::new(Kernel));
    assert_eq!(image(&agent).await.as_deref(), Some("web/1"), "nothing was undone");
    drop(agent);
    let open = || Updater::open(Root::open(case.machine.root.path()).unwrap(), Arc::new(Kernel)).unwrap().0;
    open().undo(Reason::Asked).unwrap();
    assert!(case.is(&OLD));
    for _ in 0..2 {
        let agent = case.start(Arc::new(Kernel));
        tree(&agent).await;
        assert_eq!(image(&agent).await, None);
    }
    // A journal that the agent removes itself says nothing of the kind.
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    tree(&agent).await;
    agent.clean_up(None).await.unwrap();
    drop(agent);
    let agent = case.start(Arc::new(Kernel));
    case.is_made(&agent).await;
    drop(agent);
    // Neither does one that makes room for an update that comes to nothing.
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    case.is_made(&agent).await;
    let old = required(&view(&agent).await, &case.machine, &OLD);
    agent.update(order(&agent, &old, BEFORE).await).await.unwrap_err();
    drop(agent);
    assert_eq!(image(&case.start(Arc::new(Kernel))).await.as_deref(), Some("web/1"));
}

#[tokio::test]
async fn an_update_that_was_cut_off_and_can_not_be_finished_is_undone_and_told_of() {
    let case = Case::cut_off().await;
    let faults = Faults::none();
    let kind = Some(CallKind::Rename);
    faults.breaks(Fault { kind, nth: 1, errno: Errno::IO, lasting: Lasting::Once });
    let agent = case.start(faults.disk());
    assert_eq!(faults.mend(), 1);
    assert!(case.is(&OLD));
    tree(&agent).await;
    agent.idle().await;
    let details = poll(&agent).await.details;
    let error = details.last_update_error.as_ref().unwrap();
    assert!(error.contains("the update to web/1 was cut off and was undone: it stopped at /"), "{error}");
    assert_eq!((details.last_image.as_ref().unwrap().as_str(), &details.write_error), ("old/1", &None));
    let calls = case.machine.calls();
    for service in ["old", "web"] {
        assert!(calls.contains(&format!("start {service}")), "{calls:?}");
    }
    // The controller still wants it.
    drop(agent);
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    case.is_made(&agent).await;
}

#[tokio::test]
async fn an_update_that_can_be_neither_finished_nor_undone_waits_for_the_disk_and_nothing_is_done_meanwhile()
{
    for by_order in [true, false] {
        let mut case = Case::cut_off().await;
        if !by_order {
            case.machine.interval = std::time::Duration::from_millis(20);
        }
        let faults = Faults::none();
        faults.breaks(Fault { kind: None, nth: 1, errno: Errno::ROFS, lasting: Lasting::Everything });
        let agent = case.start(faults.disk());
        let half = tree(&agent).await;
        assert_ne!(half.id(), case.required.id());
        let details = poll(&agent).await.details;
        let error = details.write_error.as_ref().unwrap();
        assert!(error.contains("cut off could be neither finished nor undone"), "{error}");
        assert_eq!(details.last_image.as_ref().unwrap().as_str(), "old/1");
        let request = order(&agent, &case.required, TRIGGERS).await;
        let refused = Chain(&agent.update(request.clone()).await.unwrap_err()).to_string();
        assert!(refused.contains("neither finished nor undone"), "{refused}");
        assert_eq!(case.machine.calls(), <[String; 0]>::default(), "no service runs with half of it");
        faults.mend();
        if by_order {
            let refused = agent.update(request).await.unwrap_err();
            assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
        }
        // What was told of the disk stays told until it is looked at again, after the record.
        let mut known = None;
        loop {
            let wait = std::time::Duration::from_secs(60);
            let reply = agent.poll(PollRequest { known, wait, view: None }).await.unwrap();
            let details = reply.details;
            if details.last_image.as_ref().unwrap().as_str() == "web/1" && details.write_error.is_none() {
                break;
            }
            known = Some(reply.status.generation);
        }
        case.is_made(&agent).await;
        assert_eq!(case.machine.calls(), ["stop web", "start web", "reload db"]);
    }
}

#[tokio::test]
async fn a_journal_nobody_can_go_by_is_told_of_until_somebody_has_removed_it() {
    for restarted in [true, false] {
        let case = Case::cut_off().await;
        let work = case.machine.root.path().join(".subd");
        let mut bytes = std::fs::read(work.join("journal")).unwrap();
        bytes[40] ^= 1;
        std::fs::write(work.join("journal"), bytes).unwrap();
        let mut agent = case.start(Arc::new(Kernel));
        tree(&agent).await;
        let error = poll(&agent).await.details.write_error.clone().unwrap();
        assert!(error.contains("/.subd/journal") && error.contains("damaged"), "{error}");
        let request = order(&agent, &case.required, TRIGGERS).await;
        let refused = Chain(&agent.update(request).await.unwrap_err()).to_string();
        assert!(refused.contains("/.subd/journal"), "{refused}");
        assert_eq!(case.machine.calls(), <[String; 0]>::default());
        std::fs::remove_file(work.join("journal")).unwrap();
        std::fs::remove_dir_all(work.join("slots")).unwrap();
        if restarted {
            drop(agent);
            agent = case.start(Arc::new(Kernel));
            tree(&agent).await;
            agent.idle().await;
        } else {
            // Who sees to it is this order, or the agent, if it looks at the disk just now: nothing is left for the order then.
            drop(agent.clean_up(None).await);
            agent.idle().await;
        }
        let calls = case.machine.calls();
        let last = |service: &str| calls.iter().rfind(|call| call.ends_with(service)).map(String::as_str);
        assert_eq!([last(" old"), last(" web")], [Some("start old"), Some("start web")], "what was stopped");
        agent.fetch(fetch(&NEW.map(|(_, contents)| case.machine.offer(contents)))).await.unwrap();
        let request = order(&agent, &case.required, TRIGGERS).await;
        assert!(agent.update(request).await.unwrap().is_success());
        case.is_made(&agent).await;
    }
}

#[tokio::test]
async fn a_scan_after_an_update_opens_nothing_that_was_put_in_place_and_sees_what_was_changed_since() {
    let case = Case::new().await;
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    assert_eq!(tree(&agent).await.id(), case.required.id());
    let scans = poll(&agent).await.status.scans;
    assert_eq!((scans.files_opened, scans.bytes_hashed), (0, 0));
    drop(agent);
    // Another agent knows it from the one before.
    case.machine.write("added", "b");
    let agent = case.start(Arc::new(Kernel));
    assert_ne!(tree(&agent).await.id(), case.required.id());
    assert_eq!(poll(&agent).await.status.scans.files_opened, 1);
}

#[tokio::test]
async fn what_an_update_could_not_do_is_told_path_by_path_and_counted() {
    let mut machine = Machine::new();
    machine.protected.push(machine.root.path().join("mine"));
    let agent = machine.ready().await;
    let base = tree(&agent).await;
    let delete = |number: u32| Operation::Delete {
        path: ImagePath::parse(format!("/mine/{number:03}").as_bytes()).unwrap(),
        directory: false,
    };
    let plan = Plan { operations: (0..150).map(delete).collect() };
    let request = UpdateRequest::new(base.id(), base.view, plan);
    let report = agent.update(request).await.unwrap();
    assert_eq!((report.failures.len(), report.more_failures), (150, 0));
    let details = poll(&agent).await.details;
    let told: Vec<_> = details.update_failures.iter().map(|failure| failure.path.to_string()).collect();
    let first: Vec<_> = (0..100).map(|number| format!("/mine/{number:03}")).collect();
    assert_eq!((told, details.more_update_failures), (first, 50));
    assert!(details.update_failures[99].reason.contains("not in view"), "{:?}", details.update_failures[99]);
    assert!(details.last_update_error.as_ref().unwrap().contains("and 149 more"));
}

#[tokio::test]
async fn what_is_kept_to_undo_an_update_is_there_until_it_is_over_the_budget() {
    let case = Case::new().await;
    let (agent, request) = case.ordered(Arc::new(Kernel)).await;
    assert!(agent.update(request).await.unwrap().is_success());
    tree(&agent).await;
    let journal = case.machine.root.path().join(".subd/journal");
    let undoable = poll(&agent).await.details.undoable.clone().unwrap();
    assert_eq!(undoable.image.unwrap().as_str(), "old/1");
    agent.clean_up(None).await.unwrap();
    assert!(journal.exists(), "a controller that is content orders a clean-up at once");
    drop(agent);
    let mut config = case.machine.config();
    config.undo = UndoBudget::NOTHING;
    let agent = LocalAgent::start(config).unwrap();
    assert!(!journal.exists() && poll(&agent).await.details.undoable.is_none());
    let refused = agent.undo(UndoRequest::default()).await.unwrap_err();
    assert!(matches!(refused, AgentError::Refused(Refusal::NothingToUndo)), "{refused}");
    drop(agent);
    case.is_made(&case.start(Arc::new(Kernel))).await;
    assert!(case.is(&NEW));
}

//! The disk breaks in the midst of an update, or takes no note of what comes of it.

use std::sync::Arc;
use std::time::Duration;

use dominator_core::health::Probe;
use dominator_core::port::*;
use dominator_fs::agent::LocalAgent;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Recovery, Updater};
use dominator_fs_testkit::{CallKind, Fault, Faults, Lasting};
use rustix::io::Errno;

use super::support::*;
use super::world::*;

/// The disk breaks while a machine is judged, the first time.
struct Breaking {
    world: Arc<World>,
    faults: Arc<Faults>,
    fault: std::sync::Mutex<Option<Fault>>,
}

impl Prober for Breaking {
    fn probe(&self, probe: &Probe, limit: Duration) -> Result<(), Unhealthy> {
        if let Some(fault) = self.fault.lock().unwrap().take() {
            self.faults.breaks(fault);
        }
        self.world.probe(probe, limit)
    }
}

/// An agent on a disk that breaks so.
fn breaking(case: &Case, nth: usize, lasting: Lasting) -> (LocalAgent, Arc<Faults>) {
    let faults = Faults::none();
    let fault = Fault { kind: Some(CallKind::Write), nth, errno: Errno::ROFS, lasting };
    let (world, theirs) = (Arc::clone(&case.world), Arc::clone(&faults));
    let mut config = case.config();
    config.prober = Arc::new(Breaking { world, faults: theirs, fault: std::sync::Mutex::new(Some(fault)) });
    (LocalAgent::start_with(config, faults.disk()).unwrap(), faults)
}

#[tokio::test]
async fn an_update_that_can_not_be_taken_back_leaves_services_as_they_are_until_it_can() {
    // The disk takes nothing at all, or the first note of it not.
    for nth in [1, 2] {
        let case = Case::new(SICK, "", CHECK).await;
        let (agent, faults) = breaking(&case, nth, Lasting::ThisKind);
        let request = case.ordered(&agent).await;
        case.calls();
        agent.update(request).await.unwrap_err();
        agent.idle().await;
        let stops = case.calls().iter().filter(|call| *call == "stop web").count();
        assert_eq!(stops, nth, "once, unless the disk seems well");
        assert_eq!(case.answers(), some(SICK, "news"), "better that than nothing");
        assert_eq!(poll(&agent).await.details.bad_images.len(), 1);
        faults.mend();
        // Whoever orders something has it tried again at once.
        let refused = agent.undo(UndoRequest::default()).await.unwrap_err();
        assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
        is_back(&case, &agent, UndoReason::Unhealthy).await;
    }
}

#[tokio::test]
async fn an_update_is_taken_back_as_soon_as_the_disk_takes_note_of_that() {
    let case = Case::new(SICK, "", CHECK).await;
    let (agent, _) = breaking(&case, 2, Lasting::Once);
    let request = case.ordered(&agent).await;
    agent.update(request).await.unwrap_err();
    agent.idle().await;
    is_back(&case, &agent, UndoReason::Unhealthy).await;
}

#[tokio::test]
async fn an_update_that_stays_is_on_trial_no_longer_than_until_that_can_be_noted() {
    let case = Case::new("new", "", CHECK).await;
    let (agent, _) = breaking(&case, 1, Lasting::Once);
    let request = case.ordered(&agent).await;
    case.calls();
    agent.update(request).await.unwrap_err();
    agent.idle().await;
    is_made(&case, &agent).await;
    let calls = case.calls();
    assert_eq!(calls.iter().filter(|call| *call == "stop web").count(), 1, "{calls:?}");
    drop(agent);
    let root = Root::open(case.machine.root.path()).unwrap();
    let (_, recovery) = Updater::open(root, Arc::new(Kernel)).unwrap();
    assert!(matches!(recovery, Recovery::Kept { .. }), "two starts of the machine would take it back");
}

#[tokio::test]
async fn nothing_is_started_with_half_of_the_files_until_they_are_all_of_one_kind() {
    let case = Case::new("new", "", CHECK).await;
    let faults = Faults::none();
    let agent = LocalAgent::start_with(case.config(), faults.disk()).unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    // Those of the objects and of the journal, and then the second path.
    faults.breaks(Fault {
        kind: Some(CallKind::Rename),
        nth: 5,
        errno: Errno::IO,
        lasting: Lasting::Everything,
    });
    agent.update(request).await.unwrap_err();
    agent.idle().await;
    assert!(!case.is_old() && !case.is_new(), "half of it is there");
    assert_eq!(case.calls(), ["stop web"]);
    faults.mend();
    let refused = agent.undo(UndoRequest::default()).await.unwrap_err();
    assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
    is_made(&case, &agent).await;
}

//! An update stays when the machine is well with it, and goes when it is not; whoever dies, and whenever.

use dominator_core::port::*;
use dominator_fs::agent::LocalAgent;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Reason, Recovery, Updater};
use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use super::world::*;

#[tokio::test]
async fn an_update_whose_service_does_not_start_or_whose_checks_fail_is_undone_with_its_services_and_not_tried_again()
 {
    for (conf, health) in [(BAD, "{}"), (SICK, CHECK)] {
        let case = Case::new(conf, "", health).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        case.calls();
        let report = agent.update(request).await.unwrap();
        assert_eq!(undone_for(&report.outcome), Some(UndoReason::Unhealthy), "{report:?}");
        assert_eq!(report.health.len(), usize::from(conf == SICK));
        is_back(&case, &agent, UndoReason::Unhealthy).await;
        let error = poll(&agent).await.details.last_update_error.clone().unwrap();
        assert!(
            error.starts_with("the update to web/1 was taken back: the machine was not well with it: "),
            "{error}"
        );
        let mut calls = case.calls();
        calls.retain(|call| call != "probe");
        let expected =
            ["stop web", "start web", "reload db", "stop web", "start web", "reload db"].map(str::to_owned);
        // In order of their names, or of their triggers.
        calls.sort();
        let mut sorted = expected.to_vec();
        sorted.sort();
        assert_eq!(calls, sorted);
        // Also not by the next agent, until somebody forgives it.
        let mut agent = Some(agent);
        for _ in 0..2 {
            let agent = agent.take().unwrap_or_else(|| case.start().unwrap());
            let again = case.ordered(&agent).await;
            let refused = agent.update(again).await.unwrap_err();
            let AgentError::Refused(Refusal::BadImage { image, .. }) = &refused else { panic!("{refused}") };
            assert_eq!(image.as_str(), "web/1");
            assert_eq!(case.calls(), <[String; 0]>::default());
        }
        let agent = case.start().unwrap();
        agent.forgive(ForgiveRequest { image: Some("web/1".parse().unwrap()), lock: None }).await.unwrap();
        let again = case.ordered(&agent).await;
        let report = agent.update(again).await.unwrap();
        assert_eq!(undone_for(&report.outcome), Some(UndoReason::Unhealthy));
    }
}

#[tokio::test]
async fn a_sparse_image_with_which_the_machine_was_not_well_is_not_tried_again_either() {
    let case = Case::new(BAD, "", "{}").await;
    let agent = case.start().unwrap();
    let sparse = async |agent: &LocalAgent| {
        let sparse = Some("keys/1".parse().unwrap());
        UpdateRequest { image: None, sparse, ..case.ordered(agent).await }
    };
    let report = agent.update(sparse(&agent).await).await.unwrap();
    assert_eq!(undone_for(&report.outcome), Some(UndoReason::Unhealthy), "{report:?}");
    drop(agent);
    let agent = case.settled().await;
    case.calls();
    let refused = agent.update(sparse(&agent).await).await.unwrap_err();
    let AgentError::Refused(Refusal::BadImage { image, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(image.as_str(), "keys/1");
    assert_eq!(case.calls(), <[String; 0]>::default());
}

#[tokio::test]
async fn an_update_with_which_the_machine_is_well_stays_and_says_what_was_checked() {
    let case = Case::new("new", "", CHECK).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    let report = agent.update(request).await.unwrap();
    assert_eq!((&report.outcome, report.is_success()), (&UpdateOutcome::Made, true));
    let [health] = &report.health[..] else { panic!("{report:?}") };
    assert_eq!((health.name.as_str(), health.attempts, &health.error), ("answers", 1, &None));
    is_made(&case, &agent).await;
    let record = last(&agent).await;
    assert_eq!(record.plan.kept, [], "all that is held has its place in the image");
    assert_eq!((record.plan.files, record.services.len(), record.health.len()), (2, 3, 1));
    assert_eq!(record.previous.unwrap().as_str(), "old/1");
    drop(agent);
    case.calls();
    is_made(&case, &case.settled().await).await;
    assert_eq!(case.calls(), <[String; 0]>::default(), "once is enough");
}

#[tokio::test]
async fn an_update_that_restarts_the_machine_is_judged_after_that_and_undone_across_it() {
    for (conf, health, reboots) in [("new", CHECK, 1), (SICK, CHECK, 2), (BAD, "{}", 0)] {
        let case = Case::new(conf, REBOOT, health).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        case.calls();
        let report = agent.update(request.clone()).await.unwrap();
        if reboots > 0 {
            let why = TrialReason::Reboot;
            assert_eq!(report.outcome, UpdateOutcome::OnTrial { why });
            assert!(report.health.is_empty() && poll(&agent).await.details.trial.is_some());
            assert!(last(&agent).await.ended.is_none());
            tree(&agent).await;
            let again = UpdateRequest { base: tree(&agent).await.id(), ..request };
            let refused = agent.update(again).await.unwrap_err();
            assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
            drop(agent);
            case.restarts();
        } else {
            drop(agent);
        }
        let agent = case.settled().await;
        match conf {
            "new" => is_made(&case, &agent).await,
            _ => is_back(&case, &agent, UndoReason::Unhealthy).await,
        }
        let ordered = case.calls().iter().filter(|call| *call == "reboot reboot").count();
        assert_eq!(ordered, reboots, "{conf}");
    }
}

#[tokio::test]
async fn a_machine_that_was_restarted_is_judged_once_it_is_up() {
    let case = Case::new("new", REBOOT, CHECK).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    agent.update(request).await.unwrap();
    drop(agent);
    case.restarts();
    case.calls();
    case.world.coming_up.store(2, std::sync::atomic::Ordering::SeqCst);
    is_made(&case, &case.settled().await).await;
    assert_eq!(case.calls(), ["coming up", "coming up", "probe"]);
}

#[tokio::test]
async fn a_restart_that_can_not_be_noted_is_not_ordered() {
    for more in [REBOOT, AGENT] {
        let case = Case::new("new", more, "{}").await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        // Nothing takes the place of a directory that holds something.
        let place = case.machine.state.path().join("update.progress");
        drop(std::fs::remove_file(&place));
        std::fs::create_dir_all(place.join("x")).unwrap();
        let report = agent.update(request).await.unwrap();
        assert_eq!(undone_for(&report.outcome), Some(UndoReason::Unhealthy), "{report:?}");
        assert!(!case.restarts(), "it would come again and again");
        is_back(&case, &agent, UndoReason::Unhealthy).await;
    }
}

#[tokio::test]
async fn an_agent_that_replaces_itself_is_watched_over_and_judged_by_the_one_that_comes() {
    for (conf, restarts) in [("new", 1), (SICK, 2)] {
        let mut case = Case::new(conf, AGENT, CHECK).await;
        case.guard = Some("subd-guard".parse().unwrap());
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        case.calls();
        let report = agent.update(request).await.unwrap();
        let why = TrialReason::AgentRestart;
        assert_eq!(report.outcome, UpdateOutcome::OnTrial { why });
        let calls = case.calls();
        assert_eq!(calls[calls.len() - 2..], ["start subd-guard", "start subd"], "{calls:?}");
        assert!(!calls.contains(&"probe".to_owned()), "the old agent judges nothing");
        drop(agent);
        case.restarts();
        let agent = case.settled().await;
        match conf {
            "new" => is_made(&case, &agent).await,
            _ => is_back(&case, &agent, UndoReason::Unhealthy).await,
        }
        let again = case.calls().iter().filter(|call| *call == "start subd").count();
        assert_eq!(1 + again, restarts, "the old one runs again in the end");
    }
}

#[tokio::test]
async fn an_agent_nobody_can_reach_takes_back_the_update_that_brought_it() {
    let case = Case::new("new", AGENT, r#"{"Deadline": "50ms"}"#).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    agent.update(request).await.unwrap();
    drop(agent);
    case.restarts();
    let agent = case.start().unwrap();
    // Nobody polls.
    agent.idle().await;
    is_back(&case, &agent, UndoReason::Overdue).await;
}

#[tokio::test]
async fn without_somebody_to_watch_over_it_an_agent_does_not_replace_itself() {
    let mut case = Case::new("new", AGENT, "{}").await;
    case.guard = Some("guard-that-is-broken".parse().unwrap());
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    let report = agent.update(request).await.unwrap();
    assert_eq!(undone_for(&report.outcome), Some(UndoReason::Unhealthy), "{report:?}");
    is_back(&case, &agent, UndoReason::Unhealthy).await;
    assert!(!case.restarts(), "it runs on");
}

#[tokio::test]
async fn what_the_recovery_program_undid_is_seen_to_by_the_agent_that_comes() {
    for (reason, why) in
        [(Reason::Overdue, UndoReason::Overdue), (Reason::NeverHealthy, UndoReason::NeverHealthy)]
    {
        let case = Case::new("new", AGENT, CHECK).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        agent.update(request).await.unwrap();
        drop(agent);
        assert_eq!(case.answers(), some("new", "news"));
        let open = || Updater::open(Root::open(case.machine.root.path()).unwrap(), Arc::new(Kernel)).unwrap();
        let (mut updater, recovery) = open();
        assert!(matches!(recovery, Recovery::OnTrial { .. }), "{recovery:?}");
        updater.undo_on_record(reason).unwrap();
        drop(updater);
        if reason == Reason::NeverHealthy {
            case.boot();
        }
        let agent = case.settled().await;
        is_back(&case, &agent, why).await;
        assert!(
            matches!(
                {
                    drop(agent);
                    open().1
                },
                Recovery::Clean
            ),
            "it is told once"
        );
    }
}

#[tokio::test]
async fn a_service_that_does_not_stay_up_until_the_update_is_judged_has_it_undone() {
    // At the second look of those that are made for want of checks; and by the end of checks that themselves are well.
    for (health, looks, settle) in [("{}", 1, Duration::from_secs(600)), (CHECK, 0, Duration::ZERO)] {
        let mut case = Case::new("new", "", health).await;
        case.settle = settle;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        *case.world.dies.lock().unwrap() = Some((looks, 1));
        let report = agent.update(request).await.unwrap();
        let UpdateOutcome::Undone { why: UndoReason::Unhealthy, detail, .. } = &report.outcome else {
            panic!("{report:?}")
        };
        assert_eq!(detail, "web did not stay up");
        assert!(report.health.iter().all(|check| check.error.is_none()));
        is_back(&case, &agent, UndoReason::Unhealthy).await;
    }
}

#[tokio::test]
async fn a_service_that_fails_while_the_machine_starts_is_given_the_time_that_checks_have() {
    for (deadline, comes_up) in [("600s", true), ("300ms", false)] {
        let health = format!(r#"{{"Deadline": "{deadline}"}}"#);
        let case = Case::new("new", REBOOT, &health).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        agent.update(request).await.unwrap();
        drop(agent);
        case.restarts();
        *case.world.dies.lock().unwrap() = Some((0, if comes_up { 2 } else { usize::MAX }));
        let agent = case.settled().await;
        match comes_up {
            true => is_made(&case, &agent).await,
            false => is_back(&case, &agent, UndoReason::Unhealthy).await,
        }
    }
}

#[tokio::test]
async fn what_had_failed_before_an_update_counts_neither_against_it_nor_against_its_undoing() {
    for health in ["{}", CHECK] {
        let case = Case::new(if health == CHECK { SICK } else { "new" }, MAIL, health).await;
        case.world.failed.lock().unwrap().push("mail");
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        let report = agent.update(request).await.unwrap();
        let mail: Vec<_> = report.services.iter().filter(|outcome| outcome.service == "mail").collect();
        assert!(mail.iter().all(|outcome| outcome.before == ServiceState::Failed), "{report:?}");
        let failed = mail.iter().filter(|outcome| outcome.error.is_some()).count();
        assert!(failed > 0 && !mail.iter().any(|outcome| outcome.is_failure()), "{report:?}");
        match health {
            CHECK => is_back(&case, &agent, UndoReason::Unhealthy).await,
            _ => is_made(&case, &agent).await,
        }
        drop(agent);
        case.calls();
        drop(case.settled().await);
        assert_eq!(case.calls(), <[String; 0]>::default(), "nothing is owed to it");
    }
}

#[tokio::test]
async fn a_restart_is_ordered_once_by_an_agent_that_went_wrong_just_then() {
    for (more, order, calls) in [(REBOOT, "reboot reboot", 3), (AGENT, "start subd", 3)] {
        let case = Case::new("new", more, CHECK).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        case.calls();
        case.dies(Death::After(calls));
        agent.update(request).await.unwrap_err();
        assert_eq!(case.calls().last().map(String::as_str), Some(order));
        // The same process goes on: only that order had gone wrong.
        case.revive();
        let refused = agent.clean_up(None).await.unwrap_err();
        assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
        let refused = agent.clean_up(None).await.unwrap_err();
        assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
        assert!(!case.calls().contains(&order.to_owned()), "it was ordered, and did not come yet");
        drop(agent);
        assert!(case.restarts());
        is_made(&case, &case.settled().await).await;
    }
}

#[tokio::test]
async fn a_restart_that_is_owed_to_what_was_taken_back_comes_once_whenever_an_agent_dies() {
    let mut deaths = 0;
    for (more, order) in [(REBOOT, "reboot reboot"), (AGENT, "start subd")] {
        for death in (0..12).flat_map(|call| [Death::Before(call), Death::After(call)]) {
            let case = Case::new(SICK, more, CHECK).await;
            let agent = case.start().unwrap();
            let request = case.ordered(&agent).await;
            agent.update(request).await.unwrap();
            drop(agent);
            assert!(case.restarts());
            case.calls();
            case.dies(death);
            if let Some(agent) = case.start() {
                agent.is_served();
                agent.idle().await;
            }
            deaths += usize::from(!case.lives());
            case.revive();
            // Only what was ordered comes: an agent that died is started by whoever supervises it.
            let mut came = usize::from(case.restarts());
            let agent = loop {
                let agent = case.start().unwrap();
                agent.is_served();
                agent.idle().await;
                match case.restarts() {
                    true => came += 1,
                    false => break agent,
                }
            };
            is_back(&case, &agent, UndoReason::Unhealthy).await;
            assert_eq!(case.runs(), ["old", "old"], "{death:?}");
            assert!(came <= 1 && (came == 1 || more == AGENT), "{death:?}: {came} of {order}");
        }
    }
    assert!(deaths > 20, "{deaths}");
}

#[tokio::test]
async fn an_update_that_kills_whoever_judges_it_is_undone_for_that_by_the_fourth() {
    let case = Case::new("new", "", CHECK).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    // Stop, start, reload: and then the check.
    case.dies(Death::Before(3));
    agent.update(request).await.unwrap_err();
    drop(agent);
    for _ in 0..2 {
        case.revive();
        case.dies(Death::Before(0));
        let agent = case.start().unwrap();
        agent.idle().await;
        assert!(!case.lives() && case.is_new());
    }
    let agent = case.settled().await;
    is_back(&case, &agent, UndoReason::Unjudged).await;
}

#[tokio::test]
async fn an_update_whose_judgement_went_wrong_is_judged_again_by_the_same_agent() {
    let mut case = Case::new("new", "", CHECK).await;
    case.machine.interval = Duration::from_millis(20);
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    // Once in the order, and once in the thread that looks at the disk, and scans.
    case.dies(Death::Before(3));
    agent.update(request).await.unwrap_err();
    assert!(case.is_new() && !case.lives());
    case.revive();
    case.dies(Death::Before(0));
    while case.lives() {
        tokio::task::yield_now().await;
    }
    agent.idle().await;
    case.revive();
    let refused = agent.clean_up(None).await.unwrap_err();
    assert!(matches!(refused, AgentError::NotNow(_)), "{refused}");
    is_made(&case, &agent).await;
    let scanned = tokio::time::timeout(Duration::from_secs(60), tree(&agent)).await;
    scanned.expect("nobody scans any more");
}

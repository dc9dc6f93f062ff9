use dominator_core::port::*;

use super::support::*;
use super::world::*;

/// How an update is cut off, and what it must come to.
struct Cut {
    conf: &'static str,
    more: &'static str,
    health: &'static str,
    /// The most often the machine, or the agent, may be restarted by order.
    restarts: usize,
}

const CUTS: [Cut; 6] = [
    Cut { conf: "new", more: "", health: CHECK, restarts: 0 },
    Cut { conf: BAD, more: "", health: "{}", restarts: 0 },
    Cut { conf: SICK, more: REBOOT, health: CHECK, restarts: 2 },
    Cut { conf: "new", more: REBOOT, health: CHECK, restarts: 1 },
    Cut { conf: "new", more: AGENT, health: CHECK, restarts: 2 },
    Cut { conf: SICK, more: AGENT, health: CHECK, restarts: 3 },
];

/// The agent dies once, then another, and the machine becomes right. Whether the first death came at all.
async fn dies(cut: &Cut, first: Death, second: Option<Death>) -> bool {
    let case = Case::new(cut.conf, cut.more, cut.health).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    case.dies(first);
    let ended = agent.update(request).await.is_ok();
    drop(agent);
    case.restarts();
    if let Some(second) = second {
        case.revive();
        case.dies(second);
        if let Some(agent) = case.start() {
            agent.is_served();
            agent.idle().await;
        }
        case.restarts();
    }
    let agent = case.settled().await;
    let calls = case.calls();
    let restarts =
        calls.iter().filter(|call| ["start subd", "reboot reboot"].contains(&call.as_str())).count();
    assert!(restarts <= cut.restarts, "{first:?} {second:?}: {calls:?}");
    let swapped = calls.iter().filter(|call| *call == "start web").count() > 0 || case.is_new();
    match cut.conf {
        "new" if case.is_new() => is_made(&case, &agent).await,
        "new" => {
            assert!(case.is_old(), "neither old nor new: {first:?} {second:?}");
            assert_eq!(case.answers(), some("old", "old"), "{first:?} {second:?}: {calls:?}");
            assert_eq!(image(&agent).await.as_deref(), Some("old/1"));
            assert_eq!(poll(&agent).await.details.bad_images, [], "nothing was wrong with it");
        }
        _ => {
            assert!(case.is_old(), "{first:?} {second:?} {swapped}: {calls:?}");
            assert_eq!(case.answers(), some("old", "old"), "{first:?} {second:?}: {calls:?}");
            assert_eq!(image(&agent).await.as_deref(), Some("old/1"));
            let bad = poll(&agent).await.details.bad_images.clone();
            let record = last(&agent).await;
            match undone_for(&record.outcome) {
                Some(_) => assert_eq!(bad.len(), 1, "{first:?} {second:?}: {record:?}"),
                None => assert_eq!(bad, [], "{first:?} {second:?}: {record:?}"),
            }
        }
    }
    let [kernel, program] = case.runs();
    let conf = case.machine.read("conf").unwrap();
    if cut.more == REBOOT {
        assert_eq!(kernel, conf, "{first:?} {second:?}: what the machine runs is on its disk: {calls:?}");
    }
    if cut.more == AGENT {
        assert_eq!(program, conf, "{first:?} {second:?}: what the agent is is on the disk: {calls:?}");
    }
    drop(agent);
    drop(case.settled().await);
    assert_eq!(case.calls(), <[String; 0]>::default(), "once is enough: {first:?} {second:?}");
    !ended
}

#[tokio::test]
async fn whatever_service_or_check_an_agent_dies_at_the_right_services_run_and_the_record_is_true() {
    for cut in &CUTS {
        for death in [Death::Before, Death::After] {
            for call in 0.. {
                if !dies(cut, death(call), None).await {
                    assert!(call > 3, "{call} calls");
                    break;
                }
                // And so does the next one, a little later.
                dies(cut, death(call), Some(Death::After(call % 3))).await;
            }
        }
    }
}

#[tokio::test]
async fn wherever_on_the_disk_an_agent_dies_the_right_services_run_and_the_record_is_true() {
    for (number, cut) in CUTS.iter().enumerate() {
        let mut cuts = 0;
        for call in (number..).step_by(5) {
            if !dies(cut, Death::AtDisk(call), None).await {
                break;
            }
            cuts += 1;
            dies(cut, Death::AtDisk(call), Some(Death::AtDisk(call % 23))).await;
        }
        assert!(cuts > 4, "{cuts} cuts");
    }
}

#[tokio::test]
async fn wherever_an_agent_dies_while_it_takes_an_update_back_that_is_done_by_the_next() {
    let deaths = (0..8).flat_map(|call| [Death::Before(call), Death::After(call)]);
    let deaths: Vec<_> = deaths.chain((0..60).step_by(3).map(Death::AtDisk)).collect();
    let rebooted = deaths.iter().step_by(3).map(|death| (REBOOT, *death));
    for (more, death) in deaths.iter().map(|death| ("", *death)).chain(rebooted) {
        let case = Case::new("new", more, "{}").await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        assert!(agent.update(request).await.unwrap().is_success());
        drop(agent);
        case.restarts();
        let agent = case.settled().await;
        is_made(&case, &agent).await;
        case.calls();
        case.dies(death);
        drop(agent.undo(UndoRequest::default()).await);
        drop(agent);
        let mut restarts = usize::from(case.restarts());
        let agent = case.settled().await;
        restarts += case.calls().iter().filter(|call| *call == "reboot reboot").count();
        let image = poll(&agent).await.details.last_image.as_ref().unwrap().to_string();
        let text = |text: &str| Some(text.to_owned());
        if case.is_new() {
            assert_eq!((image.as_str(), case.answers()), ("web/1", [text("new"), text("news")]), "{death:?}");
            assert_eq!(restarts, 0, "{death:?}: nothing was taken back");
        } else {
            assert!(case.is_old(), "{death:?}");
            assert_eq!((image.as_str(), case.answers()), ("old/1", [text("old"), text("old")]), "{death:?}");
            assert!(
                more.is_empty() || case.runs()[0] == "old",
                "{death:?}: what the machine runs is on its disk"
            );
        }
    }
}

//! Somebody wants the last update back.

use dominator_core::port::*;
use dominator_fs::agent::LocalAgent;

use super::support::*;
use super::world::*;

#[tokio::test]
async fn an_update_is_taken_back_with_its_services_when_somebody_wants_it_and_the_machine_says_what_it_is() {
    for blame in [Blame::Nobody, Blame::Image] {
        let case = Case::new("new", "", CHECK).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        assert!(agent.update(request).await.unwrap().is_success());
        tree(&agent).await;
        // By this agent or the next.
        let agent = match blame {
            Blame::Nobody => agent,
            Blame::Image => {
                drop(agent);
                case.settled().await
            }
        };
        let undoable = poll(&agent).await.details.undoable.clone().unwrap();
        assert_eq!(undoable.image.unwrap().as_str(), "old/1");
        let report = agent.undo(UndoRequest { blame, lock: None }).await.unwrap();
        let UpdateOutcome::Undone { why: UndoReason::Asked, failures, .. } = &report.outcome else {
            panic!("{report:?}")
        };
        assert_eq!(failures, &[]);
        assert!(case.is_old());
        assert_eq!(case.answers(), ["old", "old"].map(|text| Some(text.to_owned())));
        drop(agent);
        let agent = case.settled().await;
        let details = poll(&agent).await.details;
        assert_eq!(details.last_image.as_ref().unwrap().as_str(), "old/1");
        assert_eq!(
            (details.bad_images.len(), &details.undoable),
            (usize::from(blame == Blame::Image), &None)
        );
        assert!(matches!(last(&agent).await.outcome, UpdateOutcome::Undone { why: UndoReason::Asked, .. }));
        let request = case.ordered(&agent).await;
        assert_eq!(agent.update(request).await.is_ok(), blame == Blame::Nobody);
    }
}

#[tokio::test]
async fn what_undoing_moved_out_of_the_way_is_told_of_with_the_room_it_takes_until_a_person_removes_it() {
    let case = Case::new("new", "", CHECK).await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    assert!(agent.update(request).await.unwrap().is_success());
    tree(&agent).await;
    assert_eq!((&poll(&agent).await.details.conflicts[..], told(&agent, 0).await), (&[][..], 0));
    case.machine.write("conf", &"theirs\n".repeat(10_000));
    agent.undo(UndoRequest { blame: Blame::Nobody, lock: None }).await.unwrap();
    assert!(told(&agent, 1).await >= 70_000);
    let kept = poll(&agent).await.details.conflicts[0].to_string();
    assert!(kept.starts_with("/.subd/conflicts/"), "{kept}");
    drop(agent);
    let agent = case.settled().await;
    assert!(told(&agent, 1).await >= 70_000, "the next agent tells it as well");
    drop(agent);
    std::fs::remove_file(case.machine.root.path().join(&kept[1..])).unwrap();
    let agent = case.settled().await;
    assert_eq!(told(&agent, 0).await, 0);
}

/// How many bytes so many conflicts take, once they are told.
async fn told(agent: &LocalAgent, conflicts: usize) -> u64 {
    let mut known = None;
    loop {
        let wait = std::time::Duration::from_secs(60);
        let reply = agent.poll(PollRequest { known, wait, view: None }).await.unwrap();
        if reply.details.conflicts.len() == conflicts {
            return reply.details.conflict_bytes;
        }
        known = Some(reply.status.generation);
    }
}

#[tokio::test]
async fn when_an_update_that_restarted_the_machine_or_the_agent_is_wanted_back_that_is_restarted_once_more() {
    for more in [REBOOT, AGENT] {
        let case = Case::new("new", more, CHECK).await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        agent.update(request).await.unwrap();
        drop(agent);
        assert!(case.restarts());
        let agent = case.settled().await;
        is_made(&case, &agent).await;
        agent.undo(UndoRequest::default()).await.unwrap();
        drop(agent);
        assert!(case.is_old() && case.restarts(), "what runs is no longer on the disk");
        drop(case.settled().await);
        assert_eq!(case.runs(), ["old", "old"]);
        assert!(!case.restarts(), "once is enough");
    }
}

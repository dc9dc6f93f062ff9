//! Machines under control become what they must be and stay it, through failures, in virtual time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod controlled;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controlled::{Fault, IMAGE, Network, World};
use dominator_core::filter::Filter;
use dominator_core::herd::{Action, Event, Moment, Settings, Status, Updates, Wanted};
use dominator_core::port::PollRequest;
use model::{model, path};
use proptest::prelude::*;

#[test]
fn a_machine_becomes_its_image_and_costs_nothing_after_that() {
    let mut world = World::new(&[], IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/1");
    let once = |call| world.machine.calls.iter().filter(|c| **c == call).count();
    assert_eq!([once("compare"), once("fetch"), once("update"), once("clean up")], [1, 1, 1, 1]);
    world.machine.calls.clear();
    world.run(world.want(), Duration::from_secs(3600));
    assert!(world.machine.calls.iter().all(|call| *call == "poll"));
    assert!(world.machine.calls.len() <= 121, "{} polls in an hour", world.machine.calls.len());
}

#[test]
fn an_image_that_is_met_already_is_only_recorded() {
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert_eq!(
        world.machine.calls,
        ["dial", "poll", "poll", "set view", "poll", "poll", "update", "poll", "poll"]
            .iter()
            .copied()
            .chain(world.machine.calls[9..].iter().copied())
            .collect::<Vec<_>>()
    );
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/1");
}

#[test]
fn a_sparse_image_deletes_nothing_and_is_not_recorded() {
    let mut world = World::new(&[("/srv", "1", "x", 0o644)], IMAGE, "sparse");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(
        world.machine.root.at(&path("/srv")).is_some() && world.machine.root.at(&path("/etc/c")).is_some()
    );
    assert_eq!(world.machine.last_image, None);
}

#[test]
fn an_image_that_was_bad_on_a_machine_is_not_tried_again_until_it_is_forgiven() {
    for filter in ["", "sparse"] {
        let mut world = World::new(&[], IMAGE, filter);
        world.machine.fault = Fault::Unwell;
        world.settle();
        assert_eq!(world.sub.status(), Status::BadImage);
        assert!(world.sub.detail().unwrap().ends_with("web does not answer"), "{:?}", world.sub.detail());
        let updates = |world: &World| world.machine.calls.iter().filter(|call| **call == "update").count();
        assert_eq!(updates(&world), 1);
        // A machine that waits costs little: it is asked as often as one that is in sync.
        world.machine.calls.clear();
        world.run(world.want(), Duration::from_secs(3600));
        assert_eq!(updates(&world), 0);
        let polls = world.machine.calls.iter().filter(|call| **call == "poll").count();
        assert!(polls <= 125, "{polls} polls in an hour");
        (world.machine.bad, world.machine.fault) = (None, Fault::None);
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
        assert!(world.is_as_required());
    }
}

#[test]
fn a_machine_that_won_t_have_updates_is_looked_at_and_left_alone() {
    for (fault, status, said) in [
        (Fault::Stopped, Status::UpdatesDisabled, "do not touch"),
        (Fault::OnTrial, Status::Updating, "the machine is restarted"),
    ] {
        let mut world = World::new(&[], IMAGE, "");
        world.machine.fault = fault;
        world.settle();
        assert_eq!(world.sub.status(), status);
        assert!(world.sub.detail().unwrap().ends_with(said), "{:?}", world.sub.detail());
        assert!(world.machine.calls.iter().all(|call| !["fetch", "update"].contains(call)));
        assert!(world.machine.calls.len() <= 60, "{}", world.machine.calls.len());
        world.machine.fault = Fault::None;
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
    }
}

#[test]
fn a_machine_whose_service_would_not_start_is_never_called_synced() {
    for filter in ["", "sparse"] {
        let mut world = World::new(IMAGE, IMAGE, filter);
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
        // Somebody changes what the image says; the update that mends it can't start the service again.
        world.machine.root = model(&IMAGE[..3]);
        world.machine.fault = Fault::Owing;
        world.settle();
        assert!(world.is_as_required(), "but for the service");
        assert_eq!(world.sub.status(), Status::FailedToUpdate);
        assert_eq!(world.sub.info().detail.unwrap(), "start web: no licence");
        world.machine.fault = Fault::None;
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
    }
}

#[test]
fn a_machine_whose_traits_changed_is_looked_at_anew_at_once() {
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    world.machine.traits.exclusions = Filter::parse("/etc/c").unwrap();
    let reply = world.machine.poll(&PollRequest::default());
    // A poll that waits would not be over in that time.
    world.run(Event::Polled(Ok(Box::new(reply))), Settings::default().poll_wait / 2);
    let view = world.machine.view.as_ref().unwrap();
    assert!(view.filters.contains(&world.machine.traits.exclusions));
}

#[test]
fn filtered_paths_are_left_alone_and_the_directory_that_holds_them_is_told_of() {
    let mut machine = IMAGE.to_vec();
    machine.extend([("/opt", "", "/", 0o755), ("/opt/keep", "8", "k", 0o600), ("/opt/go", "9", "g", 0o600)]);
    let mut world = World::new(&machine, IMAGE, "/opt/keep$");
    world.machine.held = BTreeSet::from([path("/opt")]);
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert_eq!(world.sub.info().kept, BTreeSet::from([path("/opt")]));
    assert!(world.machine.root.at(&path("/opt/keep")).is_some());
    assert!(world.machine.root.at(&path("/opt/go")).is_none());
    assert_eq!(world.machine.calls.iter().filter(|call| **call == "update").count(), 1);
}

#[test]
fn a_machine_that_would_lose_most_of_itself_waits_for_a_person() {
    let files: Vec<String> = (0..20).map(|n| format!("/f{n}")).collect();
    let machine: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_str(), "x", 0o644)).collect();
    let mut world = World::new(&machine, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::UnsafeUpdate);
    assert!(!world.machine.calls.contains(&"update"));
    world.run(Event::ClearSafetyShutoff, Duration::from_secs(600));
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
}

#[test]
fn a_machine_is_only_looked_at_while_updates_are_disabled() {
    let mut world = World::new(&[], IMAGE, "");
    world.updates = Updates::Disabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UpdatesDisabled);
    assert!(!world.machine.calls.contains(&"fetch") && !world.machine.calls.contains(&"update"));
    world.updates = Updates::Enabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn disabled_updates_are_told_of_before_unsafe_ones() {
    let files: Vec<String> = (0..20).map(|n| format!("/f{n}")).collect();
    let machine: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_str(), "x", 0o644)).collect();
    let mut world = World::new(&machine, IMAGE, "");
    world.updates = Updates::Disabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UpdatesDisabled);
    world.updates = Updates::Enabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UnsafeUpdate);
}

#[test]
fn a_machine_without_room_is_not_begun_with() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.free_space = 1;
    world.settle();
    assert_eq!(world.sub.status(), Status::NotEnoughFreeSpace);
    assert!(!world.machine.calls.contains(&"fetch"));
    world.machine.free_space = 1 << 20;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn what_an_earlier_attempt_fetched_needs_no_room_again() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.objects = world.image.2.objects().into_keys().collect();
    world.machine.free_space = 0;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced, "{:?}", world.sub.info());
}

#[test]
fn an_agent_that_never_comes_to_rest_is_asked_no_more_often_than_another() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Forgetful;
    world.settle();
    let polls = world.machine.calls.iter().filter(|call| **call == "poll").count();
    assert!(polls <= 620, "{polls} polls in 600 seconds");
    world.machine.fault = Fault::None;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn whoever_waits_for_leave_to_disturb_is_told_so() {
    let cases = [
        ("disruption pending", Status::DisruptionRequested),
        ("disruption denied: at night", Status::DisruptionDenied),
        ("it is fetching objects", Status::Locked),
    ];
    for (why, expected) in cases {
        let mut world = World::new(&[], IMAGE, "");
        world.machine.fault = Fault::Refusing(why);
        world.settle();
        assert_eq!(world.sub.status(), expected);
        assert_eq!(world.sub.info().detail.as_deref(), Some(why));
    }
}

#[test]
fn a_machine_that_somebody_has_for_themselves_keeps_the_view_they_look_through() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Locked;
    world.settle();
    assert_eq!(world.sub.status(), Status::Locked);
    let words = "locked by ann, for another 9 s unless they take it again";
    assert_eq!(world.sub.info().detail.as_deref(), Some(words));
    world.machine.fault = Fault::None;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn a_machine_in_sync_says_what_could_not_be_looked_at() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::ShortSighted;
    world.settle();
    let info = world.sub.info();
    assert_eq!((info.status, info.unknown), (Status::Synced, 1));
    assert_eq!(info.detail.as_deref(), Some("not looked at: 1, first /: input/output error"));
}

#[test]
fn a_machine_that_can_not_be_scanned_says_why() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Blind;
    world.settle();
    assert_eq!(world.sub.status(), Status::SubNotReady);
    assert_eq!(world.sub.info().detail.as_deref(), Some("/: out of handles"));
}

#[test]
fn a_machine_that_is_down_is_tried_ever_more_rarely_and_taken_up_again() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.network = Network::Refusing;
    world.settle();
    assert_eq!(world.sub.status(), Status::ConnectionRefused);
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::Wake, &mut actions);
    assert!(matches!(actions[..], [Action::Dial]));
    world.machine.network = Network::Up;
    world.run(Event::Dialed(Ok(())), Duration::from_secs(600));
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn the_wish_may_change_at_any_time() {
    let mut world = World::new(&[], IMAGE, "");
    world.settle();
    let other = [("/etc", "", "/", 0o755), ("/etc/a", "1", "z", 0o644), ("/etc/d", "2", "y", 0o600)];
    world.image = World::image("test/2", model(&other), Filter::Empty);
    // Told in the middle of a compare: the plan for the old image is not sent.
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/2");
}

#[test]
fn an_update_for_a_wish_that_is_over_is_not_sent() {
    let mut world = World::new(&[], IMAGE, "");
    let compare = world.drive_to(|action| matches!(action, Action::Compare(..)));
    let compared = world.machine.perform(&compare).unwrap();
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::Wanted(Wanted::Undefined, Updates::Enabled), &mut actions);
    assert!(actions.is_empty());
    world.sub.step(world.now, compared, &mut actions);
    assert!(matches!(actions[..], [Action::Poll(_)]), "{actions:?}");
}

#[test]
fn what_a_machine_sees_after_an_order_is_waited_for_without_a_pause() {
    let mut world = World::new(&[], IMAGE, "");
    world.drive_to(|action| matches!(action, Action::CleanUp));
    assert_eq!(world.now, Moment::default(), "from nothing to synced: {:?}", world.machine.calls);
}

#[test]
fn a_machine_that_never_sees_anything_is_not_asked_again_and_again() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Blind;
    // It answers every poll at once, also one that may wait.
    let mut action = world.drive_to(|action| matches!(action, Action::WakeAt(_)));
    assert!(world.machine.calls.len() < 20, "{:?}", world.machine.calls);
    // Nor does it get more of that by being made to pause.
    let mut actions = Vec::new();
    let end = world.now.after(Duration::from_secs(600));
    while world.now < end {
        assert!(world.machine.calls.len() < 640, "the controller spins");
        let event = match &action {
            Action::WakeAt(moment) => {
                world.now = *moment;
                Event::Wake
            }
            _ => world.machine.perform(&action).unwrap(),
        };
        world.sub.step(world.now, event, &mut actions);
        action = actions.pop().unwrap();
    }
}

#[test]
fn a_wish_that_changes_during_a_call_is_not_slept_over() {
    for pause in [Duration::ZERO, Duration::from_secs(60)] {
        let mut world = World::new(&[], IMAGE, "");
        let clean_up = world.drive_to(|action| matches!(action, Action::CleanUp));
        let mut actions = Vec::new();
        world.image = World::image("test/2", model(IMAGE), Filter::Empty);
        world.sub.step(world.now, world.want(), &mut actions);
        assert!(actions.is_empty(), "one call at a time: {actions:?}");
        world.now = world.now.after(pause);
        let cleaned_up = world.machine.perform(&clean_up).unwrap();
        world.sub.step(world.now, cleaned_up, &mut actions);
        if let [Action::WakeAt(moment)] = actions[..] {
            actions.clear();
            world.sub.step(moment, Event::Wake, &mut actions);
        }
        assert!(matches!(&actions[..], [Action::Poll(request)] if request.wait.is_zero()), "{actions:?}");
    }
}

#[test]
fn what_another_image_needed_is_fetched_no_further() {
    let mut world = World::new(&[], IMAGE, "");
    world.drive_to(|action| matches!(action, Action::Fetch(_)));
    let mut actions = Vec::new();
    world.sub.step(world.now, world.want(), &mut actions);
    assert!(actions.is_empty(), "the same is still wanted: {actions:?}");
    world.image = World::image("test/2", model(IMAGE), Filter::Empty);
    world.sub.step(world.now, world.want(), &mut actions);
    assert!(matches!(&actions[..], [Action::Poll(request)] if request.wait.is_zero()), "{actions:?}");
}

proptest! {
    #[test]
    fn calls_may_be_lost_at_any_time(losses in prop::collection::vec(any::<bool>(), 0..60)) {
        let mut world = World::new(&[("/etc", "5", "was a file", 0o644)], IMAGE, "");
        world.machine.network = Network::Lossy(losses);
        let event = world.want();
        world.run(event, Duration::from_secs(4 * 3600));
        prop_assert_eq!(world.sub.status(), Status::Synced, "{:?}", world.sub.info());
        prop_assert!(world.is_as_required());
        prop_assert!(BTreeMap::from_iter(world.machine.objects.iter().map(|o| (o, ()))).is_empty());
    }
}

//! What operators may want of one machine: it is done at once, once, and no more than they want.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod controlled;
mod model;

use std::time::Duration;

use controlled::{Fault, IMAGE, Machine, Network, World};
use dominator_core::filter::Filter;
use dominator_core::herd::{Action, Event, FastUpdate, Leave, Safety, Settings, Status, Updates, Wanted};
use dominator_core::port::{AgentError, Disruption, Reboot};
use model::{model, path};

const PLAIN: FastUpdate = FastUpdate {
    leave: Leave { disruption: Disruption::Ask, reboot: Reboot::Allowed },
    safety: Safety::Guarded,
};

/// Time for a scan, of which these agents tell at the end of a poll.
const SOON: Duration = Duration::from_secs(60);

/// Nobody waits before or after the time is over.
fn fast(world: &mut World, order: FastUpdate, time: Duration) -> Status {
    assert!(!world.sub.is_hurried());
    world.run(Event::FastUpdate(order), time);
    world.sub.status()
}

/// What is said when nobody waits any more.
fn end_of_hurry(world: &mut World, event: Event) -> Option<Status> {
    let mut seen = None;
    world.watch(event, SOON, |sub| {
        if !sub.is_hurried() && seen.is_none() {
            seen = Some(sub.status());
        }
    });
    seen
}

#[test]
fn a_machine_somebody_waits_for_is_tried_again_at_once_and_more_often_than_others() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.network = Network::Refusing;
    world.settle();
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::FastUpdate(PLAIN), &mut actions);
    assert!(matches!(actions[..], [Action::Dial]), "{actions:?}");
    let dialed = world.machine.perform(&actions[0]).unwrap();
    world.run(dialed, Duration::from_secs(600));
    assert!(world.sub.is_hurried(), "it may come back");
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        actions.clear();
        world.sub.step(world.now, Event::Wake, &mut actions);
        let dialed = world.machine.perform(&actions.pop().unwrap()).unwrap();
        world.sub.step(world.now, dialed, &mut actions);
        let [Action::WakeAt(moment)] = actions[..] else { panic!("{actions:?}") };
        longest = longest.max(moment.0 - world.now.0);
        world.now = moment;
    }
    assert!(
        longest <= Duration::from_secs(5),
        "{longest:?}, where others wait {:?}",
        Settings::default().retry_max
    );
    world.machine.network = Network::Up;
    world.run(Event::Wake, SOON);
    assert_eq!((world.sub.status(), world.sub.is_hurried()), (Status::Synced, false));
}

#[test]
fn what_was_found_before_somebody_waited_is_no_answer() {
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    world.machine.root = model(&IMAGE[..2]);
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::FastUpdate(PLAIN), &mut actions);
    assert!(world.sub.is_hurried(), "it was synced when it was last looked at");
    assert!(matches!(&actions[..], [Action::Poll(request)] if request.wait.is_zero()), "{actions:?}");
    let polled = world.machine.perform(&actions[0]).unwrap();
    world.run(polled, SOON);
    assert!(!world.sub.is_hurried() && world.is_as_required());
}

#[test]
fn a_comparison_that_waits_for_its_turn_is_made_anew_for_who_waits() {
    let mut world = World::new(&[], IMAGE, "");
    let compare = world.drive_to(|action| matches!(action, Action::Compare(..)));
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::FastUpdate(PLAIN), &mut actions);
    assert!(matches!(&actions[..], [Action::Poll(request)] if request.wait.is_zero()), "{actions:?}");
    drop(compare);
    let polled = world.machine.perform(&actions[0]).unwrap();
    world.run(polled, SOON);
    assert_eq!((world.sub.status(), world.sub.is_hurried()), (Status::Synced, false));
}

#[test]
fn nobody_waits_for_what_won_t_come() {
    type Spoil = fn(&mut World);
    let cases: [(Status, Spoil); 5] = [
        (Status::UpdatesDisabled, |world| world.updates = Updates::Disabled),
        (Status::UpdatesDisabled, |world| world.machine.fault = Fault::Stopped),
        (Status::BadImage, |world| {
            world.machine.fault = Fault::Unwell;
            world.settle();
        }),
        (Status::FailedToUpdate, |world| world.machine.fault = Fault::Owing),
        (Status::FailedToUpdate, |world| world.machine.fault = Fault::Unwell),
    ];
    for (expected, spoil) in cases {
        let mut world = World::new(&[], IMAGE, "");
        world.machine.network = Network::Refusing;
        world.settle();
        world.machine.network = Network::Up;
        spoil(&mut world);
        let wanted = world.want();
        let mut actions = Vec::new();
        world.sub.step(world.now, wanted, &mut actions);
        let seen = end_of_hurry(&mut world, Event::FastUpdate(PLAIN));
        assert_eq!(seen, Some(expected));
    }
    let mut world = World::new(&[], IMAGE, "");
    world.run(Event::Wanted(Wanted::Undefined, Updates::Enabled), SOON);
    assert_eq!(fast(&mut world, PLAIN, SOON), Status::ImageUndefined);
    assert!(!world.sub.is_hurried());
}

#[test]
fn an_update_that_was_under_way_is_no_answer_to_who_waits_afterwards() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Owing;
    let update = world.drive_to(|action| matches!(action, Action::Update(..)));
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::FastUpdate(PLAIN), &mut actions);
    assert!(actions.is_empty(), "one call at a time: {actions:?}");
    let failed = world.machine.perform(&update).unwrap();
    world.machine.fault = Fault::None;
    world.sub.step(world.now, failed, &mut actions);
    assert!(world.sub.is_hurried(), "{:?}", world.sub.status());
    assert_eq!(end_of_hurry(&mut world, Event::Wake), Some(Status::Synced));
}

#[test]
fn a_restart_that_is_not_wanted_does_not_come_until_somebody_wants_it() {
    let refused = FastUpdate { leave: Leave { reboot: Reboot::Refused, ..Leave::default() }, ..PLAIN };
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    world.machine.fault = Fault::Restarting;
    world.machine.root = model(&IMAGE[..2]);
    world.machine.calls.clear();
    assert_eq!(fast(&mut world, refused, Duration::from_secs(600)), Status::RebootBlocked);
    assert!(!world.sub.is_hurried());
    assert!(!world.machine.calls.contains(&"update"), "not ten minutes later either");
    assert_eq!(fast(&mut world, PLAIN, Duration::from_secs(600)), Status::Synced);
    assert_eq!(world.machine.leaves.last().unwrap().reboot, Reboot::Allowed);
    // It is what it must be: the refusal is over with the order it came with.
    assert_eq!(fast(&mut world, refused, SOON), Status::Synced);
    world.machine.root = model(&IMAGE[..2]);
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    // Another image is another question.
    world.machine.root = model(&IMAGE[..2]);
    assert_eq!(fast(&mut world, refused, SOON), Status::RebootBlocked);
    world.image = World::image("test/2", model(IMAGE), Filter::Empty);
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn users_are_disturbed_without_being_asked_once_and_only_when_an_operator_says_so() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Undisturbed;
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::ForceDisruption, &mut actions);
    assert!(actions.is_empty());
    world.settle();
    assert_eq!(world.sub.status(), Status::DisruptionDenied, "nobody waited for leave then");
    let update = |action: &Action| matches!(action, Action::Update(..));
    let forced = world.drive_from(Event::ForceDisruption, update);
    assert!(matches!(&forced, Action::Update(.., leave) if leave.disruption == Disruption::Force));
    let lost = Event::Updated(Err(AgentError::NotNow("it is fetching objects".into())));
    let next = world.drive_from(lost, update);
    assert!(matches!(&next, Action::Update(.., leave) if leave.disruption == Disruption::Ask), "once");
    let refused = world.machine.perform(&next).unwrap();
    world.run(refused, Duration::from_secs(600));
    world.run(Event::ForceDisruption, SOON);
    assert_eq!(world.sub.status(), Status::Synced);
    assert_eq!(world.machine.leaves.last().unwrap().disruption, Disruption::Force);
    world.machine.root = model(&IMAGE[..2]);
    world.settle();
    assert_eq!(world.sub.status(), Status::DisruptionDenied, "once");
    let forced = FastUpdate { leave: Leave { disruption: Disruption::Force, ..Leave::default() }, ..PLAIN };
    world.machine.calls.clear();
    world.run(Event::FastUpdate(PLAIN), Duration::from_secs(600));
    assert!(world.sub.is_hurried(), "leave may come");
    world.sub.step(world.now, Event::NoHurry, &mut actions);
    assert!(actions.is_empty());
    assert_eq!(fast(&mut world, forced, SOON), Status::Synced);
    assert!(world.machine.root.at(&path("/etc/c")).is_some());
}

#[test]
fn a_plan_that_deletes_much_waits_for_a_person_also_when_somebody_is_in_a_hurry() {
    let files: Vec<String> = (0..20).map(|n| format!("/f{n}")).collect();
    let machine: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_str(), "x", 0o644)).collect();
    let mut world = World::new(&machine, IMAGE, "");
    world.settle();
    assert_eq!(fast(&mut world, PLAIN, SOON), Status::UnsafeUpdate);
    let cleared = FastUpdate { safety: Safety::ClearedOnce, ..PLAIN };
    assert_eq!(fast(&mut world, cleared, SOON), Status::Synced);
    world.machine = Machine::new(model(&machine));
    world.settle();
    assert_eq!(world.sub.status(), Status::UnsafeUpdate, "once");
}

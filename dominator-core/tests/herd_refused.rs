//! Machines that a certificate stands between: they are not asked again and again, and at once when it is another.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

use std::time::Duration;

use dominator_core::herd::{Action, Event, Moment, Settings, Status, Sub, Updates, Wanted};
use dominator_core::port::{AgentError, Cause, Unreachable};

fn unreachable(why: Unreachable) -> AgentError {
    AgentError::Unreachable { why, cause: Cause::new("so it is") }
}

/// What a machine does when it is told of that.
fn told(sub: &mut Sub, now: Moment, event: Event) -> Action {
    let mut actions = Vec::new();
    sub.step(now, event, &mut actions);
    actions.pop().unwrap()
}

fn pause(action: &Action, now: Moment) -> Duration {
    match action {
        Action::WakeAt(moment) => moment.0 - now.0,
        other => panic!("{other:?}"),
    }
}

/// A machine that is being connected to.
fn dialing() -> Sub {
    let mut sub = Sub::new(Settings::default()).named("web1");
    let action = told(&mut sub, Moment::default(), Event::Wanted(Wanted::Undefined, Updates::Enabled));
    assert!(matches!(action, Action::Dial), "{action:?}");
    sub
}

#[test]
fn who_is_refused_waits_long_from_the_first_time_on_and_says_so() {
    let refused = Settings::default().refused;
    for (why, status) in [
        (Unreachable::BadCertificate, Status::BadCertificate),
        (Unreachable::MissingCertificate, Status::MissingCertificate),
    ] {
        let (mut sub, mut now) = (dialing(), Moment::default());
        for _ in 0..5 {
            let action = told(&mut sub, now, Event::Dialed(Err(unreachable(why))));
            let pause = pause(&action, now);
            assert!(pause >= refused / 2 && pause <= refused, "{pause:?}");
            assert_eq!((sub.status(), sub.status().is_refused()), (status, true));
            now = now.after(pause);
            assert!(matches!(told(&mut sub, now, Event::Wake), Action::Dial));
        }
    }
    // The same over a connection that stands.
    let (mut sub, now) = (dialing(), Moment::default());
    assert!(matches!(told(&mut sub, now, Event::Dialed(Ok(()))), Action::Poll(_)));
    let denied = AgentError::Denied("access to method denied".into());
    let action = told(&mut sub, now, Event::Polled(Err(denied)));
    assert!(pause(&action, now) >= refused / 2);
    assert_eq!(sub.status(), Status::PollDenied);
    // Who is not there is soon looked for again.
    let (mut sub, now) = (dialing(), Moment::default());
    let action = told(&mut sub, now, Event::Dialed(Err(unreachable(Unreachable::Refused))));
    assert!(pause(&action, now) <= Duration::from_secs(1));
}

#[test]
fn who_was_refused_tries_again_at_once_with_another_certificate() {
    let (mut sub, now) = (dialing(), Moment::default());
    told(&mut sub, now, Event::Dialed(Err(unreachable(Unreachable::BadCertificate))));
    assert!(matches!(told(&mut sub, now, Event::Renewed), Action::Dial));
    // One that comes while the one before is being refused counts for the next attempt.
    let mut actions = Vec::new();
    sub.step(now, Event::Renewed, &mut actions);
    assert!(actions.is_empty(), "{actions:?}");
    let refusal = || Event::Dialed(Err(unreachable(Unreachable::BadCertificate)));
    let action = told(&mut sub, now, refusal());
    assert!(pause(&action, now) <= Settings::default().retry_max);
    assert!(matches!(told(&mut sub, now, Event::Wake), Action::Dial));
    let action = told(&mut sub, now, refusal());
    assert!(pause(&action, now) >= Settings::default().refused / 2, "once");
}

#[test]
fn a_certificate_that_stood_in_nobodys_way_changes_nothing() {
    let (mut sub, now) = (dialing(), Moment::default());
    told(&mut sub, now, Event::Dialed(Err(unreachable(Unreachable::Refused))));
    let mut actions = Vec::new();
    sub.step(now, Event::Renewed, &mut actions);
    assert!(actions.is_empty(), "{actions:?}");
}

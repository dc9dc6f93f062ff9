//! When a machine's users are asked for leave to disturb them: the timers of an external program that answers `check`,
//! `request` and `cancel`, as a state machine without a clock. Whoever runs it performs what [`Disruption::step`] says and
//! tells what came of it.
//!
//! Time is how long after the beginning. An order is answered from what is known; the program runs afterwards.

use std::time::Duration;

use crate::port::DisruptionState;

/// What the program is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// How does it stand?
    Check,
    /// Users are to be disturbed.
    Request,
    /// They need not be, or were.
    Cancel,
}

impl Command {
    /// The argument.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Request => "request",
            Self::Cancel => "cancel",
        }
    }
}

/// What the program's exit status says; nothing, when it is none of those agreed upon.
pub const fn answer(exit_status: i32) -> Option<DisruptionState> {
    match exit_status {
        0 => Some(DisruptionState::Permitted),
        1 => Some(DisruptionState::Requested),
        2 => Some(DisruptionState::Denied),
        _ => None,
    }
}

/// Whether users are to be disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// There is no need.
    #[default]
    Rest,
    /// An update waits for it.
    Disturb,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked for leave, or gave it back.
    Wished(Wish),
    /// The program ended; nothing, when it failed.
    Answered(Option<DisruptionState>),
    /// The time has come, or anything else.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the program, and tell [`Event::Answered`].
    Run(Command),
    /// Tell [`Event::Tick`] at that time, unless something else is told before.
    WakeAt(Duration),
}

/// One machine's leave to disturb its users.
#[derive(Clone, Debug)]
pub struct Disruption {
    wish: Wish,
    state: DisruptionState,
    /// The command that runs, and when it was started.
    running: Option<Command>,
    /// When the next check is due, and how long after that the next.
    check: Duration,
    interval: Duration,
    /// When anything was started last, and each of those that change something.
    last: Option<Duration>,
    last_request: Option<Duration>,
    last_cancel: Option<Duration>,
    /// Nothing but checks before that: the program failed.
    troubled_until: Duration,
}

impl Disruption {
    /// The first interval between checks; each is half as long again as the one before.
    pub const FIRST_CHECK: Duration = Duration::from_secs(10);
    /// The longest while users are to be disturbed.
    pub const MAX_CHECK_WANTED: Duration = Duration::from_secs(15);
    /// The longest while they are not.
    pub const MAX_CHECK: Duration = Duration::from_secs(5 * 60);
    /// How soon a check follows a wish to disturb.
    pub const CHECK_AFTER_WISH: Duration = Duration::from_secs(1);
    /// How soon it follows the end of that wish.
    pub const CHECK_AFTER_REST: Duration = Duration::from_secs(5);
    /// How often a request that is pending is made again.
    pub const REQUEST_AGAIN: Duration = Duration::from_secs(15 * 60);
    /// How often one that was denied is.
    pub const REQUEST_DENIED: Duration = Duration::from_secs(60);
    /// How often leave nobody needs is given back.
    pub const CANCEL_PERMITTED: Duration = Duration::from_secs(31 * 60);
    /// How often a request nobody needs is taken back.
    pub const CANCEL_REQUESTED: Duration = Duration::from_secs(15 * 60);
    /// How long after the start nothing is cancelled: what was permitted before a reboot was permitted for what comes after.
    pub const GRACE: Duration = Duration::from_secs(31 * 60);
    /// The least time between two commands of one kind that change something, and after one that failed.
    pub const SAME: Duration = Duration::from_secs(60);
    /// The least time between any two commands.
    pub const ANY: Duration = Duration::from_secs(1);

    /// Nothing is known. It is asked at once.
    pub fn new() -> Self {
        Self {
            wish: Wish::Rest,
            state: DisruptionState::Denied,
            running: None,
            check: Duration::ZERO,
            interval: Self::FIRST_CHECK,
            last: None,
            last_request: None,
            last_cancel: None,
            troubled_until: Duration::ZERO,
        }
    }

    /// How it stands. Denied, until the program has said anything.
    pub fn state(&self) -> DisruptionState {
        self.state
    }

    /// Takes in what happened at `now`, and says what to do.
    pub fn step(&mut self, now: Duration, event: Event) -> Action {
        match event {
            Event::Wished(wish) => self.wished(now, wish),
            Event::Answered(answer) => self.answered(now, answer),
            Event::Tick => {}
        }
        // Whoever runs the program tells when it ends; nobody waits for more than a check's time for that.
        if self.running.is_some() {
            return Action::WakeAt(now.saturating_add(Self::MAX_CHECK));
        }
        let next = [self.mutation(), Some((self.check, Command::Check))];
        let pause = self.last.map_or(Duration::ZERO, |last| last.saturating_add(Self::ANY));
        let due = |(at, command): (Duration, Command)| (at.max(pause), command);
        // What changes something says how it stands as well, and comes first.
        match next.into_iter().flatten().map(due).min_by_key(|(at, _)| *at) {
            Some((at, command)) if at <= now => self.start(now, command),
            Some((at, _)) => Action::WakeAt(at),
            None => Action::WakeAt(now.saturating_add(Self::MAX_CHECK)),
        }
    }

    fn wished(&mut self, now: Duration, wish: Wish) {
        if wish == self.wish {
            return;
        }
        self.wish = wish;
        self.interval = Self::FIRST_CHECK;
        if wish == Wish::Disturb && self.state == DisruptionState::Permitted {
            // It was left over. Since it was seen somebody else may have got it: it is asked for again.
            self.state = DisruptionState::Denied;
        }
        let soon = match wish {
            Wish::Disturb => Self::CHECK_AFTER_WISH,
            Wish::Rest => Self::CHECK_AFTER_REST,
        };
        self.check = self.check.min(now.saturating_add(soon)).max(self.troubled_until);
    }

    fn answered(&mut self, now: Duration, answer: Option<DisruptionState>) {
        let Some(_) = self.running.take() else { return };
        match answer {
            Some(state) => {
                self.state = state;
                self.check = now.saturating_add(self.interval);
                let longest = match self.wish {
                    Wish::Disturb => Self::MAX_CHECK_WANTED,
                    Wish::Rest => Self::MAX_CHECK,
                };
                self.interval = (self.interval + self.interval / 2).min(longest);
            }
            None => {
                // What can't be confirmed is no leave.
                self.state = DisruptionState::Denied;
                self.check = now.saturating_add(Self::SAME);
                self.troubled_until = self.check;
            }
        }
    }

    /// The next command that changes something, and when it is due.
    fn mutation(&self) -> Option<(Duration, Command)> {
        let after = |last: Option<Duration>, pause: Duration| {
            let due = last.map_or(Duration::ZERO, |last| last.saturating_add(pause.max(Self::SAME)));
            due.max(self.troubled_until)
        };
        let cancel = |pause| Some((after(self.last_cancel, pause).max(Self::GRACE), Command::Cancel));
        match (self.wish, self.state) {
            (Wish::Disturb, DisruptionState::Permitted | DisruptionState::Anytime) => None,
            (Wish::Disturb, DisruptionState::Requested) => {
                Some((after(self.last_request, Self::REQUEST_AGAIN), Command::Request))
            }
            (Wish::Disturb, DisruptionState::Denied) => {
                Some((after(self.last_request, Self::REQUEST_DENIED), Command::Request))
            }
            (Wish::Rest, DisruptionState::Permitted) => cancel(Self::CANCEL_PERMITTED),
            (Wish::Rest, DisruptionState::Requested) => cancel(Self::CANCEL_REQUESTED),
            (Wish::Rest, DisruptionState::Denied | DisruptionState::Anytime) => None,
        }
    }

    fn start(&mut self, now: Duration, command: Command) -> Action {
        self.running = Some(command);
        self.last = Some(now);
        match command {
            Command::Check => {}
            Command::Request => self.last_request = Some(now),
            Command::Cancel => self.last_cancel = Some(now),
        }
        Action::Run(command)
    }
}

impl Default for Disruption {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A clock, a program that answers at once, and what was done when.
    struct World {
        disruption: Disruption,
        now: Duration,
        answer: Option<DisruptionState>,
        next: Action,
        done: Vec<(u64, Command)>,
    }

    impl World {
        fn new(answer: DisruptionState) -> Self {
            let mut disruption = Disruption::new();
            let next = disruption.step(Duration::ZERO, Event::Tick);
            Self { disruption, now: Duration::ZERO, answer: Some(answer), next, done: Vec::new() }
        }

        fn wish(&mut self, wish: Wish) {
            self.next = self.disruption.step(self.now, Event::Wished(wish));
        }

        fn run(&mut self, until: u64) {
            let until = Duration::from_secs(until);
            loop {
                self.next = match self.next {
                    Action::Run(command) => {
                        self.done.push((self.now.as_secs(), command));
                        self.disruption.step(self.now, Event::Answered(self.answer))
                    }
                    Action::WakeAt(at) if at <= until => {
                        assert!(at > self.now, "it spins");
                        self.now = at;
                        self.disruption.step(self.now, Event::Tick)
                    }
                    Action::WakeAt(_) => {
                        self.now = until;
                        return;
                    }
                };
            }
        }

        fn times(&self, wanted: Command) -> Vec<u64> {
            self.done.iter().filter(|(_, command)| *command == wanted).map(|(at, _)| *at).collect()
        }
    }

    #[test]
    fn checks_become_rarer_up_to_five_minutes() {
        let mut world = World::new(DisruptionState::Denied);
        world.run(3600);
        let times = world.times(Command::Check);
        assert_eq!(times[..5], [0, 10, 25, 47, 81]);
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!((295..=300).contains(&longest), "{longest}");
        assert_eq!(world.done.len(), times.len(), "nobody wants anything");
    }

    #[test]
    fn leave_is_asked_for_at_once_and_again_and_checked_every_15_seconds() {
        let mut world = World::new(DisruptionState::Requested);
        world.run(600);
        world.wish(Wish::Disturb);
        world.run(3600);
        assert_eq!(world.times(Command::Request), [600, 1500, 2400, 3300]);
        // The answer to a request is as good as that to a check.
        let late: Vec<_> = world.done.iter().map(|(at, _)| *at).filter(|at| *at > 700).collect();
        assert!(late.windows(2).all(|pair| pair[1] - pair[0] <= 16), "{late:?}");
        assert_eq!(world.disruption.state(), DisruptionState::Requested);
    }

    #[test]
    fn leave_that_was_denied_is_asked_for_every_minute() {
        let mut world = World::new(DisruptionState::Denied);
        world.run(0);
        world.wish(Wish::Disturb);
        world.run(300);
        let requests = world.times(Command::Request);
        assert!(
            requests.len() >= 4 && requests.windows(2).all(|pair| pair[1] - pair[0] == 60),
            "{requests:?}"
        );
    }

    #[test]
    fn leave_nobody_needs_is_given_back_but_not_soon_after_the_start() {
        let mut world = World::new(DisruptionState::Permitted);
        world.run(3 * 3600);
        assert_eq!(world.times(Command::Cancel)[..3], [31 * 60, 62 * 60, 93 * 60]);
        assert!(world.times(Command::Request).is_empty());
    }

    #[test]
    fn a_program_that_fails_is_left_alone_for_a_minute_and_nothing_is_permitted_by_it() {
        let mut world = World::new(DisruptionState::Denied);
        world.answer = None;
        world.run(0);
        world.wish(Wish::Disturb);
        world.run(600);
        let times: Vec<_> = world.done.iter().map(|(at, _)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{times:?}");
        assert_eq!(world.disruption.state(), DisruptionState::Denied);
    }

    #[test]
    fn leave_that_can_not_be_confirmed_is_none() {
        let mut world = World::new(DisruptionState::Permitted);
        world.run(0);
        world.wish(Wish::Disturb);
        world.run(10);
        assert_eq!(world.disruption.state(), DisruptionState::Permitted);
        world.answer = None;
        world.run(60);
        assert_eq!(world.disruption.state(), DisruptionState::Denied);
    }

    proptest! {
        /// Whatever is wished and answered, and however long the program takes: one command at a time, a second apart, those
        /// that change something a minute; leave is never asked for that nobody wants, nor cancelled while it is wanted or
        /// within the grace.
        #[test]
        fn no_command_comes_too_soon_or_without_reason(
            events in proptest::collection::vec((0_u64..120_000, 0_u8..7), 1..200),
        ) {
            let mut disruption = Disruption::new();
            let (mut now, mut wish, mut running) = (Duration::ZERO, Wish::Rest, false);
            let mut started: Vec<(Duration, Command)> = Vec::new();
            for (pause, event) in events {
                now += Duration::from_millis(pause);
                let event = match event {
                    0 => Event::Wished(Wish::Rest),
                    1 => Event::Wished(Wish::Disturb),
                    2 => Event::Tick,
                    status if running => Event::Answered(answer(i32::from(status) - 3)),
                    _ => Event::Tick,
                };
                if let Event::Wished(new) = event {
                    wish = new;
                }
                running &= !matches!(event, Event::Answered(_));
                match disruption.step(now, event) {
                    Action::WakeAt(at) => prop_assert!(at > now),
                    Action::Run(command) => {
                        prop_assert!(!running, "two at a time");
                        running = true;
                        if let Some((last, _)) = started.last() {
                            prop_assert!(now - *last >= Disruption::ANY);
                        }
                        let same = started.iter().rev().find(|(_, other)| *other == command);
                        match command {
                            Command::Check => {}
                            Command::Request => prop_assert_eq!(wish, Wish::Disturb),
                            Command::Cancel => {
                                prop_assert_eq!(wish, Wish::Rest);
                                prop_assert!(now >= Disruption::GRACE);
                            }
                        }
                        if let Some((last, _)) = same.filter(|_| command != Command::Check) {
                            prop_assert!(now - *last >= Disruption::SAME);
                        }
                        started.push((now, command));
                    }
                }
            }
        }
    }
}

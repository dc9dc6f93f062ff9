//! What the next agent does about an update that is in place and not decided, or taken back and not seen to.

use std::time::{Duration, Instant};

use dominator_core::port::{
    ServiceOutcome, TrialReason, TrialStatus, UndoReason, UpdateOutcome, UpdateReport,
};

use super::super::Shared;
use super::super::progress::Reached;
use super::record::now;
use super::withdraw::{self, Cause, Runs, Undone, withdraw};
use super::{COMING_UP, Course, Started, Unmade, decide, judge, settle, try_it};
use crate::service::{Conclusion, Debt, Due, Withdrawal};
use crate::update::{Reason, UndoReport, UpdateError, Updater, When};

/// How long a restart that was ordered may take to come before the update that wanted it is taken back.
const RESTART_LIMIT: Duration = Duration::from_secs(900);

/// An update that was found when the root was opened.
#[derive(Debug)]
pub(in crate::agent) struct Found {
    course: Course,
    stands: Stands,
}

#[derive(Debug)]
enum Stands {
    /// It is in place, and nobody has decided whether it stays.
    OnTrial { booted: Booted, report: UpdateReport },
    /// Somebody took it back: an agent before, or the program that watches over it.
    Undone { reason: Reason, when: When, detail: String, report: UndoReport },
}

/// Whether the machine was started since paths had changed, as far as the journal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Booted {
    Since,
    NotKnown,
}

/// How the restart stands that comes before an update is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    /// There is none, or it is to be ordered first.
    NotYet,
    /// This process has ordered it.
    Ordered,
    /// What runs now is new.
    Over,
}

impl Found {
    pub(in crate::agent) fn on_trial(course: Course, booted: Booted, report: UpdateReport) -> Self {
        Self { course, stands: Stands::OnTrial { booted, report } }
    }

    pub(in crate::agent) fn undone(
        course: Course,
        (reason, when): (Reason, When),
        detail: String,
        report: UndoReport,
    ) -> Self {
        Self { course, stands: Stands::Undone { reason, when, detail, report } }
    }

    /// Whether it is to be judged.
    pub(in crate::agent) fn is_on_trial(&self) -> bool {
        matches!(self.stands, Stands::OnTrial { .. })
    }

    /// Brings it to its end, or to the restart before that. To be called while an order is under way.
    pub(in crate::agent) fn carry_out(self, shared: &Shared) {
        let Self { course, stands } = self;
        let outcome = shared.with_updater(|updater| match stands {
            Stands::OnTrial { booted, report } => {
                if !updater.is_on_trial() {
                    return Err(UpdateError::NotOnTrial.into());
                }
                let restart = Restart::of(shared, &course, booted);
                go_on(shared, updater, &course, restart, report)
            }
            Stands::Undone { reason, when, detail, report } => {
                let why = withdraw::why(reason);
                // Whoever begins to undo it notes what he was started with; he died, and we may have been as well.
                let is_over = || Restart::of(shared, &course, Booted::NotKnown) == Restart::Over;
                if when == When::Now && reason != Reason::Halted && is_over() {
                    shared.owe_restart(&course);
                }
                let undone = Undone { why, detail, undone: report };
                Ok(see_to(shared, updater, &course, undone))
            }
        });
        // What it came to is in the log and in the answers.
        drop(settle(shared, &course, outcome.map_err(Unmade::from).flatten()));
    }
}

impl Restart {
    fn of(shared: &Shared, course: &Course, booted: Booted) -> Self {
        let progress = shared.memory.progress(course.digest());
        let was_ours = progress.as_ref().map(|progress| progress.instance == shared.lock().instance());
        let is_over = match &course.note.conclusion {
            None => return Self::NotYet,
            Some(Conclusion::Reboot { .. }) => {
                booted == Booted::Since
                    || progress.as_ref().is_some_and(|progress| progress.boot != shared.boot)
            }
            // The process that started services is gone, and this one came from the new files.
            Some(Conclusion::RestartAgent) => was_ours == Some(false),
        };
        let is_ordered = progress.is_some_and(|progress| progress.reached == Reached::Restarting);
        match (is_over, is_ordered, was_ours) {
            (true, ..) => Self::Over,
            (false, true, Some(true)) => Self::Ordered,
            (false, ..) => Self::NotYet,
        }
    }
}

fn go_on(
    shared: &Shared,
    updater: &mut Updater,
    course: &Course,
    restart: Restart,
    mut report: UpdateReport,
) -> Result<UpdateReport, Unmade> {
    let note = &course.note;
    let runs = if restart == Restart::Over { Runs::New } else { Runs::Before };
    let unhealthy = |detail| Cause { why: UndoReason::Unhealthy, detail, runs };
    if course.is_blank() {
        let why = "this agent can't read what was noted of it".to_owned();
        return withdraw(shared, updater, course, unhealthy(why), report);
    }
    // Who marked it had decided, and died before that was done.
    if let Some(why) = note.blamed().and_then(|image| shared.lock().why_bad(image)) {
        let (why, detail) = withdraw::read_blame(&why);
        return withdraw(shared, updater, course, Cause { why, detail, runs }, report);
    }
    if shared.memory.progress(course.digest()).is_none() {
        report.services.extend(start(shared, course));
        shared.owe_or_warn(&Debt::unpaid(&report.services));
        shared.reached(course, Reached::Started);
    }
    match restart {
        Restart::NotYet => decide(shared, updater, course, report),
        Restart::Ordered => Ok(UpdateReport { outcome: course.on_trial(), ..report }),
        Restart::Over => {
            shared.change(|state| state.condition().trial = course.status());
            if let Some(why) = judge::starts(note, &report.services) {
                return withdraw(shared, updater, course, unhealthy(why), report);
            }
            match shared.served.wait(note.health.deadline()) {
                Some(true) => match course.started() {
                    // It ends: the next one judges.
                    Started::ByMachine if !shared.comes_up() => {
                        Ok(UpdateReport { outcome: course.on_trial(), ..report })
                    }
                    started @ (Started::ByMachine | Started::ByUs) => {
                        try_it(shared, updater, course, started, report)
                    }
                },
                Some(false) => {
                    let detail = "the agent could not be reached".to_owned();
                    withdraw(
                        shared,
                        updater,
                        course,
                        Cause { why: UndoReason::Overdue, detail, runs },
                        report,
                    )
                }
                // It ends: the next one judges.
                None => Ok(UpdateReport { outcome: course.on_trial(), ..report }),
            }
        }
    }
}

/// How often it is looked whether the machine is up.
const LOOK: Duration = Duration::from_millis(200);

impl Shared {
    /// Waits until the services have been started that the machine starts by itself: what they must be is judged from then on.
    /// No longer than [`COMING_UP`]; false, if the agent ends meanwhile.
    fn comes_up(&self) -> bool {
        let until = Instant::now() + COMING_UP;
        while self.services.is_coming_up() && Instant::now() < until {
            if !self.served.rest(LOOK) {
                return false;
            }
        }
        true
    }
}

/// Services of an update that nobody knows to have started any. Perhaps the machine itself did, while only some paths had
/// changed.
fn start(shared: &Shared, course: &Course) -> Vec<ServiceOutcome> {
    course.note.known(course.note.after.iter().map(|debt| debt.pay_anew(&*shared.services)).collect())
}

/// Services, and what is remembered, of an update that was taken back.
fn see_to(shared: &Shared, updater: &mut Updater, course: &Course, undone: Undone) -> UpdateReport {
    withdraw::blame(shared, course, undone.why, &undone.detail);
    let services = match undone.why {
        // The machine was started with what was there before.
        UndoReason::NeverHealthy => Vec::new(),
        UndoReason::Halted
        | UndoReason::Unhealthy
        | UndoReason::Overdue
        | UndoReason::Asked
        | UndoReason::Unjudged => {
            shared.owe_or_warn(&course.note.back.start);
            stop_all(shared, course)
        }
    };
    withdraw::finish(shared, updater, course, undone, UpdateReport { services, ..UpdateReport::default() })
}

/// All that may run with files as the update had made them, or with some of them. One that does not run is none the worse.
fn stop_all(shared: &Shared, course: &Course) -> Vec<ServiceOutcome> {
    let Withdrawal { mut stop, start } = course.note.back.clone();
    for debt in start {
        if debt.due == Due::Start && !stop.contains(&debt.service) {
            stop.push(debt.service);
        }
    }
    let stopped = Withdrawal { stop, start: Vec::new() }.stop(&*shared.services);
    stopped.into_iter().filter(|outcome| outcome.error.is_none()).collect()
}

impl Course {
    fn awaits(&self) -> Option<TrialReason> {
        self.note.conclusion.as_ref().map(|conclusion| match conclusion {
            Conclusion::Reboot { .. } => TrialReason::Reboot,
            Conclusion::RestartAgent => TrialReason::AgentRestart,
        })
    }

    pub(super) fn on_trial(&self) -> UpdateOutcome {
        self.awaits().map_or(UpdateOutcome::Made, |why| UpdateOutcome::OnTrial { why })
    }

    pub(in crate::agent) fn status(&self) -> Option<TrialStatus> {
        let (image, deadline) = (self.note.image.clone(), self.note.health.deadline());
        self.awaits().map(|why| TrialStatus { image, why, since: now(), deadline })
    }

    /// Who started its services, once the restart is over.
    fn started(&self) -> Started {
        match self.note.conclusion {
            Some(Conclusion::Reboot { .. }) => Started::ByMachine,
            Some(Conclusion::RestartAgent) | None => Started::ByUs,
        }
    }
}

/// An update whose restart was ordered by this process, which should be gone soon.
#[derive(Debug)]
pub(in crate::agent) struct Waiting {
    course: Course,
    until: Instant,
}

impl Waiting {
    pub(super) fn of(course: Course) -> Self {
        Self { course, until: Instant::now() + RESTART_LIMIT }
    }

    pub(in crate::agent) fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }

    /// The restart did not come.
    pub(in crate::agent) fn give_up(self, shared: &Shared) {
        let Self { course, .. } = self;
        let detail = "the restart did not come".to_owned();
        let cause = Cause { why: UndoReason::Overdue, detail, runs: Runs::Before };
        let undone =
            shared.with_updater(|updater| withdraw(shared, updater, &course, cause, UpdateReport::default()));
        // What it came to is in the log and in the answers.
        drop(settle(shared, &course, undone.map_err(Unmade::from).flatten()));
    }
}

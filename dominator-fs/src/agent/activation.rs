//! An update of this machine, from the order to the decision whether it stays.
//!
//! Each phase leaves on the disk what an agent needs that comes after a crash in it:
//!
//! | phase | what is done | after a crash the next agent |
//! |---|---|---|
//! | prepare | everything new is made beside the tree, and the journal says how to go on, how to go back, and for whom | gives it up: nothing had changed |
//! | stop | what must run again is noted, then services stop | starts them |
//! | swap | paths change, and that is durable | makes the rest, or undoes all; then goes on with services |
//! | start | services run with the new files, which is noted | starts them all, and goes on |
//! | restart | the machine, or the agent, is restarted if it must be | restarts it if that was not done, and goes on |
//! | judge | starts, checks of the image's health, and whether services still run say whether it stays | judges anew, three times at most |
//! | accept | that it stays is noted in the journal, then the image is recorded | records it |
//! | withdraw | the image is bad here; services stop, paths change back, services of before start; only then the journal goes; what was restarted is once more | does what is left of that, once |
//!
//! Nothing is asked of the memory of a process that may be gone: whoever comes goes by [the note](super::note) in the
//! journal, by its phase, and by [how far services are](super::progress).

mod judge;
mod record;
mod trial;
mod withdraw;

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use dominator_core::object::ObjectId;
use dominator_core::port::{
    AgentError, Chain, PathFailure, Refusal, Rules, UndoReason, UpdateOutcome, UpdateReport, UpdateRequest,
};
use dominator_core::view::View;

use super::Shared;
use super::note::Note;
use super::order::failed;
use super::progress::{Progress, Reached};
use crate::scan::Scan;
use crate::service::{Activation, Conclusion, Debt, Due, Withdrawal};
use crate::update::{
    ActivatedError, Journalled, Judged, Ledger, Trial, Update, UpdateError, Updater, WorkError, activate,
};

use judge::Started;
use record::settle;
use withdraw::{Cause, Runs};

pub(super) use record::{Before, of_clock};
pub(super) use trial::{Booted, Found, Waiting};
pub(super) use withdraw::undo;

/// What a trial lasts beyond the deadline of the image's checks: for an agent to start and services to come up.
const GRACE: Duration = Duration::from_secs(120);
/// How long a machine that was restarted may take to start its services, before they are judged whatever they do.
const COMING_UP: Duration = Duration::from_secs(300);
/// How often it is begun to judge an update before it is taken back: it may be the update that kills whoever judges it.
const MAX_JUDGEMENTS: u32 = 3;

/// Everything about an update of this machine that is in place, or is about to be.
#[derive(Clone, Debug)]
pub(super) struct Course {
    pub(super) note: Note,
    /// As it is in the journal.
    encoded: Vec<u8>,
    /// Whether it has one: an update of nothing leaves the one before as it is.
    is_journalled: bool,
}

/// An update that is not in place, or may not be.
#[derive(Debug)]
pub(super) enum Unmade {
    Update(ActivatedError),
    Work(WorkError),
    Refused(Refusal),
}

impl From<ActivatedError> for Unmade {
    fn from(error: ActivatedError) -> Self {
        Self::Update(error)
    }
}

impl From<UpdateError> for Unmade {
    fn from(error: UpdateError) -> Self {
        Self::Update(error.into())
    }
}

impl From<WorkError> for Unmade {
    fn from(error: WorkError) -> Self {
        Self::Work(error)
    }
}

impl Unmade {
    /// Objects that were neither fetched nor found.
    pub(super) fn missing(&self) -> Option<&BTreeSet<ObjectId>> {
        match self {
            Self::Update(ActivatedError { error: UpdateError::Missing(missing), .. }) => Some(missing),
            Self::Update(_) | Self::Work(_) | Self::Refused(_) => None,
        }
    }

    /// What is not as before.
    pub(super) fn failures(&self) -> Vec<PathFailure> {
        match self {
            Self::Update(error) => error.error.not_undone().to_vec(),
            Self::Work(_) | Self::Refused(_) => Vec::new(),
        }
    }

    pub(super) fn into_error(self) -> AgentError {
        match self {
            Self::Update(error) => failed("update", error),
            Self::Work(error) => failed("update", error),
            Self::Refused(refusal) => refusal.into(),
        }
    }
}

impl Course {
    fn new(note: Note, is_journalled: bool) -> Self {
        Self { encoded: note.encode(), note, is_journalled }
    }

    /// Of what an agent before this one had noted; nothing when that can't be read.
    pub(super) fn read(encoded: Vec<u8>) -> Option<Self> {
        let note = Note::decode(&encoded).inspect_err(|error| {
            tracing::warn!(error = %Chain(error), "what was noted of an update can't be read");
        });
        note.ok().map(|note| Self { note, encoded, is_journalled: true })
    }

    /// The same of one that must be seen to all the same: it names no image, and of services only what is owed to them.
    pub(super) fn read_or_blank(encoded: Vec<u8>, owed: Vec<Debt>) -> Self {
        let blank = Self {
            note: Note { back: Withdrawal { stop: Vec::new(), start: owed }, ..Note::default() },
            encoded: encoded.clone(),
            is_journalled: true,
        };
        Self::read(encoded).unwrap_or(blank)
    }

    /// Whether nobody can judge it.
    fn is_blank(&self) -> bool {
        self.note.number == 0
    }

    pub(super) fn digest(&self) -> ObjectId {
        Note::digest(&self.encoded)
    }

    /// What the update must prove once it is in place; nothing when it touches no service and no check is made.
    fn trial(&self, activation: &Activation) -> Option<Trial> {
        let is_nothing_to_judge = self.note.health.is_empty() && activation.actions().is_empty();
        let (judged, grace) = match self.note.conclusion {
            Some(Conclusion::Reboot { .. }) => (Judged::AfterReboot, GRACE + COMING_UP),
            Some(Conclusion::RestartAgent) | None => (Judged::AfterServices, GRACE),
        };
        (!is_nothing_to_judge).then(|| Trial { deadline: self.note.health.deadline() + grace, judged })
    }
}

/// All of it, of an order that nothing stands against.
pub(super) fn carry_out(
    shared: &Shared,
    request: &UpdateRequest,
    before: Before,
    (view, scan): (&View, &Scan),
    activation: &Activation,
) -> Result<UpdateReport, AgentError> {
    let course = record::begin(shared, request, before, activation, scan);
    let made = shared.with_updater(|updater| {
        updater.probe().map_err(UpdateError::Work)?;
        if !request.plan.is_empty() {
            shared.let_go();
        }
        let mut make = |updater: &mut Updater| make(shared, updater, request, view, activation, &course);
        let made = super::fetch::with_local(shared, scan, &request.plan, updater, &mut make);
        made.map(|report| (report, updater.take_installed()))
    });
    let outcome = made.map_err(Unmade::from).flatten();
    let outcome = outcome.map(|(report, installed)| {
        shared.installed(installed);
        report
    });
    settle(shared, &course, outcome)
}

fn make(
    shared: &Shared,
    updater: &mut Updater,
    request: &UpdateRequest,
    view: &View,
    activation: &Activation,
    course: &Course,
) -> Result<UpdateReport, Unmade> {
    if updater.is_on_trial() {
        // Also an update of nothing would have the machine recorded to be what nobody has judged.
        return Err(UpdateError::OnTrial.into());
    }
    let trial = course.trial(activation);
    let prepared = match request.plan.is_empty() && !updater.is_unfinished() {
        true => None,
        false => Some(updater.begin(&request.plan, view)?.stage()?.journal(&course.encoded, trial)?),
    };
    // That takes long on a large update: somebody may have stopped it meanwhile.
    if let Some(words) = shared.look_at_the_switch() {
        prepared.map_or(Ok(()), Update::<Journalled>::abandon)?;
        return Err(Unmade::Refused(Refusal::Stopped(words)));
    }
    let is_tried = prepared.is_some() && trial.is_some();
    let report = activate(prepared, activation, &*shared.services, shared)?;
    match is_tried {
        true => {
            shared.reached(course, Reached::Started);
            decide(shared, updater, course, report)
        }
        false => Ok(report),
    }
}

/// Services were started with an update that is on trial: restarts what comes before it is judged, or judges it.
fn decide(
    shared: &Shared,
    updater: &mut Updater,
    course: &Course,
    mut report: UpdateReport,
) -> Result<UpdateReport, Unmade> {
    let unhealthy = |detail| Cause { why: UndoReason::Unhealthy, detail, runs: Runs::Before };
    if let Some(why) = judge::starts(&course.note, &report.services) {
        return withdraw::withdraw(shared, updater, course, unhealthy(why), report);
    }
    let ruled = shared.services.rules() == Rules::Services;
    let Some(conclusion) = course.note.conclusion.as_ref().filter(|_| ruled) else {
        return try_it(shared, updater, course, Started::ByUs, report);
    };
    match restart(shared, course, conclusion, &mut report) {
        Ok(()) => Ok(UpdateReport { outcome: course.on_trial(), ..report }),
        Err(why) => withdraw::withdraw(shared, updater, course, unhealthy(why), report),
    }
}

/// Orders the restart of the machine or of the agent, which is noted before: it must not come twice. The agent has somebody
/// watch over it, who takes the update back if the new one does not come up.
fn restart(
    shared: &Shared,
    course: &Course,
    conclusion: &Conclusion,
    report: &mut UpdateReport,
) -> Result<(), String> {
    if let (Conclusion::RestartAgent, Some(guard)) = (conclusion, &shared.guard) {
        let watched = Debt { service: guard.to_string(), due: Due::Start }.pay(&*shared.services);
        let error = watched.error.clone();
        report.services.push(watched);
        if let Some(error) = error {
            return Err(format!("nobody would watch over the new agent: {error}"));
        }
    }
    let noted = shared.note_reached(course, Reached::Restarting);
    noted.map_err(|error| format!("that it is restarted can't be noted: {}", Chain(&error)))?;
    shared.change(|state| state.condition().trial = course.status());
    let outcome = conclusion.carry_out(&*shared.services);
    let error = outcome.error.clone();
    report.services.push(outcome);
    error.map_or(Ok(()), Err)
}

/// Judges an update, and keeps it or takes it back. That it is judged is counted before: whoever dies of that must not do
/// so for ever.
fn try_it(
    shared: &Shared,
    updater: &mut Updater,
    course: &Course,
    started: Started,
    mut report: UpdateReport,
) -> Result<UpdateReport, Unmade> {
    let began = Instant::now();
    let runs = Runs::New;
    if shared.judgements(course) >= MAX_JUDGEMENTS {
        let detail = format!("it was begun {MAX_JUDGEMENTS} times to judge it");
        let cause = Cause { why: UndoReason::Unjudged, detail, runs };
        return withdraw::withdraw(shared, updater, course, cause, report);
    }
    shared.count_judgement(course);
    report.health = judge::health(&*shared.prober, &course.note.health);
    let unhealthy = judge::unhealthy(&report.health)
        .or_else(|| judge::services(&*shared.services, &course.note, started, began, shared.settle));
    match unhealthy {
        None => {
            updater.accept().inspect_err(|_| shared.judged(course))?;
            Ok(UpdateReport { outcome: UpdateOutcome::Made, ..report })
        }
        Some(detail) => {
            let cause = Cause { why: UndoReason::Unhealthy, detail, runs };
            withdraw::withdraw(shared, updater, course, cause, report)
        }
    }
}

impl Ledger for Shared {
    fn note(&self, owed: &[Debt]) -> io::Result<()> {
        self.owe(owed).map_err(io::Error::other)
    }
}

impl Shared {
    /// Notes what is owed to services, before it is.
    fn owe(&self, owed: &[Debt]) -> Result<(), super::MemoryError> {
        // What others owe is not paid by somebody who rules no services.
        if self.services.rules() == Rules::Nothing {
            return Ok(());
        }
        // Nothing is written for nothing, as after a look that found all well.
        if owed.is_empty() && self.memory.owed().is_ok_and(|noted| noted.is_empty()) {
            return Ok(());
        }
        self.memory.remember_owed(owed)
    }

    fn owe_or_warn(&self, owed: &[Debt]) {
        if let Err(error) = self.owe(owed) {
            tracing::warn!(error = %Chain(&error), "what is owed to services can't be noted; some may be started once more, or never");
        }
    }

    /// Notes how far an update is that is in place. Should that fail, the next agent does more than is left.
    fn reached(&self, course: &Course, reached: Reached) {
        if let Err(error) = self.note_reached(course, reached) {
            tracing::warn!(error = %Chain(&error), "services may be started once more with the next agent");
        }
    }

    fn note_reached(&self, course: &Course, reached: Reached) -> Result<(), super::MemoryError> {
        let instance = self.lock().instance();
        let judgements = self.judgements(course);
        let progress = Progress { update: course.digest(), reached, boot: self.boot, instance, judgements };
        self.memory.remember_progress(&progress)
    }

    /// How often it was begun to judge an update.
    fn judgements(&self, course: &Course) -> u32 {
        self.memory.progress(course.digest()).map_or(0, |progress| progress.judgements)
    }

    fn count_judgement(&self, course: &Course) {
        self.remember_judgements(course, self.judgements(course).saturating_add(1));
    }

    /// It was judged to the end, though what came of it can't be noted: it is not the update that keeps anybody from it.
    fn judged(&self, course: &Course) {
        self.remember_judgements(course, 0);
    }

    fn remember_judgements(&self, course: &Course, judgements: u32) {
        let Some(progress) = self.memory.progress(course.digest()) else { return };
        if let Err(error) = self.memory.remember_progress(&Progress { judgements, ..progress }) {
            tracing::warn!(error = %Chain(&error), "that the update is judged can't be counted");
        }
    }
}

//! What an agent does about an update that was cut off, by its own death or by a disk that failed.
//!
//! Files first: they are finished or undone when the root's work directory is opened, at the start, before anything else,
//! and else whenever the disk is looked at or an order comes. Then services: what they are owed depends on which of the two it
//! was. Then the record: an update that was finished is remembered exactly as one that was never cut off.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{Activity, AgentError, Chain, PathFailure, Rules, UpdateReport};
use dominator_core::trigger::Triggers;

use super::activation::{Booted, Course, Found, Waiting};
use super::memory::{Concluded, Journal};
use super::note::Note;
use super::order::{Order, failed};
use super::state::Shortfall;
use super::{MemoryError, Shared};
use crate::service::Debt;
use crate::update::{Reason, Recovery, Totals, UndoReport, When, WorkError};

/// What became of an update that was cut off, and what is still to be done about it.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    due: Mutex<Due>,
    /// What an attempt left to be done is not tried again by itself before.
    pause: Mutex<Option<Instant>>,
}

/// How long after an attempt that came to nothing the next is made.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
enum Due {
    #[default]
    Nothing,
    /// The files are neither all old nor all new: no service is started with them.
    Files,
    /// Services that must run, or read their files again.
    Services(Rest),
    /// An update that is not decided, or not seen to.
    Course(Box<Found>),
    /// An update that is judged after a restart, which was ordered.
    Awaited(Box<Waiting>),
    /// A restart that is owed since an update was taken back.
    Restart,
}

/// What can be done now.
enum Ready {
    Services(Rest),
    Course(Box<Found>),
    Overdue(Box<Waiting>),
    /// A restart that is owed.
    Restart,
}

/// What is left to be done once files are as they must be.
#[derive(Debug)]
struct Rest {
    owed: Vec<Debt>,
    /// Whether services may run with files of the one kind and of the other.
    running: Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    /// They were stopped, or what they use did not change since they were started.
    Rightly,
    /// The machine may have been started half-way through.
    PerhapsMixed,
}

impl Shared {
    /// Takes in what was found when the work directory was opened, or why it could not be.
    pub(super) fn recovered(&self, recovery: Result<Recovery, &WorkError>) {
        let rest = match recovery {
            Ok(Recovery::Clean) => match self.aftermath.is_about_files() {
                // Somebody looked at a journal that nobody could go by, and removed it.
                true => self.owed(Running::PerhapsMixed),
                false => {
                    self.notice_undoing();
                    return;
                }
            },
            Ok(Recovery::Abandoned { note }) => {
                let image = named(&note);
                tracing::warn!(image, "an update that was cut off had not begun; nothing changed");
                self.owed(Running::Rightly)
            }
            Ok(Recovery::Finished { note, report, trial }) => {
                let image = named(&note);
                tracing::warn!(image, applied = report.applied, "an update that was cut off was finished");
                self.changed_by(&report.kept, Shortfall::of(None, &report));
                match trial {
                    Some(_) => self.on_trial(note, Booted::NotKnown, report),
                    None => self.in_place(note, report),
                }
            }
            Ok(Recovery::OnTrial { note, totals, booted, .. }) => {
                let image = named(&note);
                tracing::warn!(image, "an update is in place that nobody has judged");
                let booted = if booted.is_some() { Booted::Since } else { Booted::NotKnown };
                self.on_trial(note, booted, told(totals))
            }
            Ok(Recovery::Undone { note, reason, report, stopped, when, .. }) => {
                self.undone(note, (reason, when), stopped.as_ref(), report)
            }
            Ok(Recovery::Kept { note, totals }) => self.in_place(note, told(totals)),
            Err(WorkError::Journal(_) | WorkError::Recovery(_)) => Due::Files,
            Err(_) => return,
        };
        self.aftermath.set(rest);
    }

    /// What was or is being scanned is no longer true, and the next scan is waited for.
    fn changed_by(&self, kept: &[ImagePath], shortfall: Option<Shortfall>) {
        self.throttle.hurry();
        self.change(|state| state.updated(kept.iter().cloned(), shortfall));
        self.remember_kept();
    }

    fn owed(&self, running: Running) -> Due {
        let owed = self.noted_as_owed();
        if owed.is_empty() || !self.may_pay() {
            return Due::Nothing;
        }
        Due::Services(Rest { owed, running })
    }

    /// Whether services may be touched: what is owed to them is owed until an agent comes that does. One that only looks
    /// does not know either whether files are as they must be.
    fn may_pay(&self) -> bool {
        self.services.rules() == Rules::Services && self.may_write().is_ok()
    }

    fn noted_as_owed(&self) -> Vec<Debt> {
        self.memory.owed().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "what is owed to services can't be read");
            Vec::new()
        })
    }

    /// An update that stays: what services are owed was seen to before that was noted. The machine is recorded to be the
    /// image, if that was not done yet.
    fn in_place(&self, note: Vec<u8>, report: UpdateReport) -> Due {
        let Some(course) = Course::read(note) else {
            // The machine does not claim to be the image, and so another update comes, which records it.
            self.forget_image();
            return self.owed(Running::PerhapsMixed);
        };
        self.owe_no_restart_for(&course);
        if self.is_concluded(course.digest()) {
            // The agent before may have died just before it removed the journal.
            self.remember_journal(Journal::Kept);
            self.keep(Some(course));
            return Due::Nothing;
        }
        course.record_made(self, &report);
        self.owed(Running::Rightly)
    }

    fn on_trial(&self, note: Vec<u8>, booted: Booted, report: UpdateReport) -> Due {
        // Nobody can judge what can't be read: the update goes, and with it perhaps the agent that can't read it.
        let course = Course::read_or_blank(note, self.noted_as_owed());
        self.owe_no_restart_for(&course);
        self.change(|state| state.condition().trial = course.status());
        Due::Course(Box::new(Found::on_trial(course, booted, report)))
    }

    fn undone(
        &self,
        note: Vec<u8>,
        (reason, when): (Reason, When),
        stopped: Option<&PathFailure>,
        report: UndoReport,
    ) -> Due {
        let failures = report.not_as_before();
        let error = undone(&note, reason, stopped, &failures);
        tracing::error!(error);
        self.changed_by(&[], Some(Shortfall::new(error.clone(), failures)));
        Due::Course(Box::new(Found::undone(
            Course::read_or_blank(note, self.noted_as_owed()),
            (reason, when),
            error,
            report,
        )))
    }

    /// The restart of an update that is judged after it was ordered.
    pub(super) fn wait_for(&self, restart: Waiting) {
        self.aftermath.set(Due::Awaited(Box::new(restart)));
    }

    /// Sees to it, before an order is carried out, that nothing is left of an update that was cut off. To be called while
    /// the order is under way, where it may block.
    ///
    /// # Errors
    /// The order must wait: something was done just now, so that the machine is no longer what the order was made for; or
    /// it can't be done.
    pub(super) fn make_ready(&self, what: &str) -> Result<(), AgentError> {
        self.with_updater(|_| ()).map_err(|error| failed(what, error))?;
        if self.aftermath.is_about_a_restart() {
            return Err(AgentError::NotNow(
                "an update is judged when the restart it needs is over".to_owned(),
            ));
        }
        match self.aftermath.take() {
            None => Ok(()),
            // Whoever orders need not wait for the next attempt.
            Some(ready) => {
                ready.carry_out(self);
                Err(AgentError::NotNow(
                    "an update that was cut off had to be brought to an end first".to_owned(),
                ))
            }
        }
    }

    /// Does what is left, if it can be done now, and is not what has just been tried. To be called while an order is under way.
    pub(super) fn see_to_the_rest(&self) {
        if !self.must_wait()
            && let Some(ready) = self.aftermath.take_in_time()
        {
            ready.carry_out(self);
        }
    }

    /// Nobody judges what can neither be kept nor taken back, as that can't be noted.
    fn must_wait(&self) -> bool {
        self.aftermath.is_about_a_trial() && !self.lock().is_writable()
    }

    /// What is remembered of an image is written only when all of it was made, so that services only the image before knew
    /// are still stopped by a later attempt.
    pub(super) fn remember(&self, image: Option<&ImageName>, triggers: &Triggers) -> Result<(), AgentError> {
        let memory = &self.memory;
        memory.remember_triggers(triggers).map_err(|error| failed("remember the triggers", error))?;
        let Some(image) = image else { return Ok(()) };
        memory.remember_image(image).map_err(|error| failed("remember the image", error))?;
        self.change(|state| state.made(Some(image.clone())));
        Ok(())
    }

    /// All was done about an update that is in place, or tried.
    pub(super) fn remember_concluded(&self, note: ObjectId) {
        let concluded = Concluded { note, journal: Journal::Kept };
        if let Err(error) = self.memory.remember_concluded(concluded) {
            tracing::warn!(%error, "services may be started once more with the next agent");
        }
    }

    /// The journal of the last update goes, and not because somebody undid it.
    pub(super) fn let_go(&self) {
        self.remember_journal(Journal::LetGo);
    }

    fn remember_journal(&self, journal: Journal) {
        let Some(concluded) = self.memory.concluded().filter(|concluded| concluded.journal != journal) else {
            return;
        };
        if let Err(error) = self.memory.remember_concluded(Concluded { journal, ..concluded }) {
            tracing::warn!(%error, "the next agent may not know which image the machine is");
        }
    }

    fn is_concluded(&self, note: ObjectId) -> bool {
        self.memory.concluded().is_some_and(|concluded| concluded.note == note)
    }

    /// A journal that this agent left and that is gone was used by somebody else to undo the update, as `dominate undo` does.
    fn notice_undoing(&self) {
        if self.memory.concluded().is_some_and(|concluded| concluded.journal == Journal::Kept) {
            tracing::warn!(
                "the last update was undone, and not by an agent; which image the machine is is not known"
            );
            self.forget_image();
            self.let_go();
        }
    }

    fn forget_image(&self) {
        if let Err(error) = self.memory.forget_image() {
            tracing::warn!(error = %Chain(&error), "the image the machine was last made to be can't be forgotten");
        }
        self.change(|state| state.made(None));
    }
}

impl Aftermath {
    fn set(&self, due: Due) {
        *self.lock() = due;
    }

    /// What can be done now, unless that has just been tried.
    fn take_in_time(&self) -> Option<Ready> {
        self.is_in_time().then(|| self.take()).flatten()
    }

    fn is_in_time(&self) -> bool {
        self.pause().is_none_or(|until| until <= Instant::now())
    }

    /// An attempt begins. Should it fail, it is not made again from within itself, nor without a pause.
    fn try_once(&self, attempt: impl FnOnce()) {
        *self.pause() = Some(Instant::now() + PAUSE);
        attempt();
        if matches!(*self.lock(), Due::Nothing) {
            *self.pause() = None;
        }
    }

    fn pause(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be done now.
    fn take(&self) -> Option<Ready> {
        let mut due = self.lock();
        match std::mem::take(&mut *due) {
            Due::Services(rest) => Some(Ready::Services(rest)),
            Due::Course(found) => Some(Ready::Course(found)),
            Due::Awaited(waiting) if waiting.is_over() => Some(Ready::Overdue(waiting)),
            Due::Restart => Some(Ready::Restart),
            later @ (Due::Nothing | Due::Files | Due::Awaited(_)) => {
                *due = later;
                None
            }
        }
    }

    fn is_about_a_restart(&self) -> bool {
        matches!(&*self.lock(), Due::Awaited(waiting) if !waiting.is_over())
    }

    fn is_ready(&self) -> bool {
        match &*self.lock() {
            Due::Services(_) | Due::Course(_) | Due::Restart => true,
            Due::Awaited(waiting) => waiting.is_over(),
            Due::Nothing | Due::Files => false,
        }
    }

    fn is_about_a_trial(&self) -> bool {
        matches!(&*self.lock(), Due::Course(found) if found.is_on_trial())
    }

    /// Whether nothing is left.
    fn is_over(&self) -> bool {
        matches!(*self.lock(), Due::Nothing)
    }

    fn is_about_files(&self) -> bool {
        matches!(*self.lock(), Due::Files)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ready {
    fn carry_out(self, shared: &Shared) {
        shared.aftermath.try_once(|| match self {
            Self::Services(rest) => rest.carry_out(shared),
            Self::Course(found) => found.carry_out(shared),
            Self::Overdue(waiting) => waiting.give_up(shared),
            Self::Restart => {}
        });
        if shared.aftermath.is_over() {
            shared.restart_if_owed();
        }
    }
}

impl Rest {
    /// What can't be done stays owed, and the agent says so until an update has done it.
    fn carry_out(self, shared: &Shared) {
        let Self { owed, running } = self;
        let pay = |debt: &Debt| match running {
            Running::Rightly => debt.pay(&*shared.services),
            Running::PerhapsMixed => debt.pay_anew(&*shared.services),
        };
        let services: Vec<_> = owed.iter().map(pay).collect();
        let unpaid = Debt::unpaid(&services);
        if unpaid != owed
            && let Err(error) = shared.memory.remember_owed(&unpaid)
        {
            tracing::warn!(%error, "services that run may be started once more with the next agent");
        }
        if let Some(shortfall) = Shortfall::of(None, &UpdateReport { services, ..UpdateReport::default() }) {
            shared.change(|state| state.inherited(shortfall));
        }
    }
}

/// What the agent before left to be done: it died between stopping and starting services, or they would not start. No
/// order comes before that is tried again.
pub(super) struct Inherited {
    order: Order,
    ready: Ready,
}

impl Inherited {
    /// At the start of an agent.
    pub(super) fn of(shared: &Arc<Shared>) -> Result<Option<Self>, MemoryError> {
        let owed = shared.memory.owed()?;
        if shared.aftermath.is_over() && !owed.is_empty() && shared.may_pay() {
            // An agent before this one may have undone what had been cut off, and died before it saw to services.
            let running = Running::PerhapsMixed;
            shared.aftermath.set(Due::Services(Rest { owed, running }));
        }
        if shared.aftermath.is_over() && shared.may_pay() && shared.owes_restart() {
            shared.aftermath.set(Due::Restart);
        }
        Ok(Self::found(shared))
    }

    /// Of an update that could not be brought to its end before; nothing, while an order is under way, which sees to it.
    pub(super) fn found(shared: &Arc<Shared>) -> Option<Self> {
        if !shared.aftermath.is_ready() || !shared.aftermath.is_in_time() || shared.must_wait() {
            return None;
        }
        let order = Order::begin(Arc::clone(shared), Activity::Updating).ok()?;
        let ready = shared.aftermath.take()?;
        Some(Self { order, ready })
    }

    /// A panic must not take the thread with it that scans. What is left then is found on the disk when that is looked at
    /// next.
    pub(super) fn repay(self) {
        let Self { order, ready } = self;
        if std::panic::catch_unwind(AssertUnwindSafe(|| ready.carry_out(&order.shared))).is_err() {
            tracing::error!("what was left of an update was not brought to its end, by a bug of the agent");
        }
    }
}

/// What is known of an update that a process before this one made.
fn told(totals: Totals) -> UpdateReport {
    let report = UpdateReport { applied: totals.applied, ..UpdateReport::default() };
    match totals.failed {
        0 => report,
        failed => {
            let reason = format!("{failed} paths could not be made, by an agent before this one");
            UpdateReport { failures: vec![PathFailure { path: ImagePath::root(), reason }], ..report }
        }
    }
}

/// The image an update was to make, for people.
fn named(note: &[u8]) -> Option<String> {
    Note::decode(note).ok()?.image.map(|image| image.to_string())
}

fn undone(note: &[u8], reason: Reason, stopped: Option<&PathFailure>, failures: &[PathFailure]) -> String {
    let image = named(note).map(|image| format!(" to {image}")).unwrap_or_default();
    let why = stopped.map(|at| format!(": it stopped at {} ({})", at.path, at.reason)).unwrap_or_default();
    let but = match failures.len() {
        0 => String::new(),
        count => format!("; {count} paths are not as before"),
    };
    match reason {
        Reason::Halted => format!("the update{image} was cut off and was undone{why}{but}"),
        Reason::Unhealthy | Reason::NeverHealthy | Reason::Overdue | Reason::Asked | Reason::Unjudged => {
            format!("the update{image} was taken back: {reason}{why}{but}")
        }
    }
}

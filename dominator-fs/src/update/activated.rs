use std::cell::RefCell;
use std::fmt;
use std::io;

use dominator_core::plan::Plan;
use dominator_core::port::{Chain, ServiceOutcome, ServiceRunner, UpdateReport};
use dominator_core::view::View;

use super::{Journalled, Update, UpdateError, Updater};
use crate::service::{Activation, Debt};

/// Where it is noted what is owed to services, for whoever comes after this process.
pub trait Ledger {
    /// Replaces what was noted before.
    ///
    /// # Errors
    /// When it could not be noted; then no service is touched.
    fn note(&self, owed: &[Debt]) -> io::Result<()>;
}

/// For as long as the process lives.
impl Ledger for RefCell<Vec<Debt>> {
    fn note(&self, owed: &[Debt]) -> io::Result<()> {
        self.replace(owed.to_vec());
        Ok(())
    }
}

/// An update that was not made, and what became of services meanwhile.
#[derive(Debug)]
pub struct ActivatedError {
    /// Why.
    pub error: UpdateError,
    /// What was done to services: those that were stopped were started again, if that was possible, and right.
    pub services: Vec<ServiceOutcome>,
}

/// The causes are part of the text: what it says of services comes after them.
impl fmt::Display for ActivatedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Chain(&self.error))?;
        let failed = self.services.iter().filter_map(|s| s.error.as_ref().map(|error| (s, error)));
        for (outcome, error) in failed {
            write!(f, "; besides, {} {}: {error}", outcome.action, outcome.service)?;
        }
        Ok(())
    }
}

impl std::error::Error for ActivatedError {}

impl From<UpdateError> for ActivatedError {
    fn from(error: UpdateError) -> Self {
        Self { error, services: Vec::new() }
    }
}

impl Updater {
    /// Stages, journals, stops services, swaps, commits, and starts services. Those that were stopped run again however it
    /// ends, as far as they can, unless only some of the paths are changed: what is owed to them is in `ledger` from before
    /// the first is stopped, and stays there. `note` is for whoever opens the root next, should this process not come to the
    /// end.
    ///
    /// # Errors
    /// [`ActivatedError`].
    pub fn activate(
        &mut self,
        plan: &Plan,
        view: &View,
        note: &[u8],
        activation: &Activation,
        services: &dyn ServiceRunner,
        ledger: &dyn Ledger,
    ) -> Result<UpdateReport, ActivatedError> {
        let prepared = match plan.is_empty() && !self.is_unfinished() {
            true => None,
            false => Some(self.begin(plan, view)?.stage()?.journal(note, None)?),
        };
        activate(prepared, activation, services, ledger)
    }
}

/// Stops services, makes the update that was prepared, if there is one, and starts services again. What is owed to them is in
/// `ledger` before the first is stopped, and what still is when all were tried.
///
/// # Errors
/// [`ActivatedError`]: services run as before, as far as they can; but where only some of the paths are changed, none is
/// started.
pub(crate) fn activate(
    prepared: Option<Update<'_, Journalled>>,
    activation: &Activation,
    services: &dyn ServiceRunner,
    ledger: &dyn Ledger,
) -> Result<UpdateReport, ActivatedError> {
    let owed = activation.owed();
    if !owed.is_empty()
        && let Err(error) = ledger.note(&owed)
    {
        prepared.map_or(Ok(()), Update::<Journalled>::abandon)?;
        return Err(UpdateError::Work(error).into());
    }
    let mut outcomes = activation.stop(services);
    let made = prepared.map(|prepared| prepared.swap().and_then(Update::commit)).transpose();
    if let Err(error @ UpdateError::HalfMade { changed: 1.., .. }) = made {
        // Nothing is started with half of the files: it is owed, to be paid when they are of one kind again.
        return Err(ActivatedError { error, services: outcomes });
    }
    outcomes.extend(match &made {
        // For all anybody knows it is in place; the journal says so or not to whoever opens the root next.
        Ok(_) | Err(UpdateError::NotDurable(_)) => activation.start(services),
        Err(_) => activation.restore(services),
    });
    let unpaid = Debt::unpaid(&outcomes);
    if owed != unpaid
        && let Err(error) = ledger.note(&unpaid)
    {
        tracing::warn!(error = %Chain(&error), "what is owed to services can't be noted; some may be started once more, or never");
    }
    match made {
        Ok(committed) => {
            let report = committed.map(|committed| committed.report).unwrap_or_default();
            Ok(UpdateReport { services: outcomes, ..report })
        }
        Err(error) => Err(ActivatedError { error, services: outcomes }),
    }
}

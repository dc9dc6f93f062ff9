//! Whether an update may stay.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use dominator_core::health::{HealthChecks, HealthOutcome, Judgement, Next};
use dominator_core::port::{Prober, Rules, ServiceAction, ServiceOutcome, ServiceRunner, ServiceState};

use super::super::note::Note;

/// What would not come up and counts against the update: neither what had failed before it, nor what only earlier ones owe.
pub(super) fn starts(note: &Note, services: &[ServiceOutcome]) -> Option<String> {
    let is_start = |outcome: &ServiceOutcome| outcome.action != ServiceAction::Stop.verb();
    let counts = |outcome: &&ServiceOutcome| {
        is_start(outcome) && outcome.is_failure() && !note.inherited.contains(&outcome.service)
    };
    let said = |outcome: &ServiceOutcome| {
        let error = outcome.error.as_deref().unwrap_or_default();
        format!("{} {}: {error}", outcome.action, outcome.service)
    };
    all(services.iter().filter(counts).map(said))
}

/// Which checks failed.
pub(super) fn unhealthy(health: &[HealthOutcome]) -> Option<String> {
    let said =
        |outcome: &HealthOutcome| outcome.error.as_ref().map(|error| format!("{}: {error}", outcome.name));
    all(health.iter().filter_map(said))
}

/// Who started the services that an update is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// The agent, one after the other: what fails then has failed.
    ByUs,
    /// The machine, as it came up, all at once: what fails at first may come up yet, and what does not run at all may be
    /// none that it starts by itself.
    ByMachine,
}

/// How often services are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What ran before, or was started, and does not run any more when the update is judged: not before `settle` is over since
/// services were started, as some die of what they find only after they were started. Those that the machine started are
/// given until the image's deadline. What can't be told counts for nothing.
pub(super) fn services(
    runner: &dyn ServiceRunner,
    note: &Note,
    started: Started,
    began: Instant,
    settle: Duration,
) -> Option<String> {
    if runner.rules() == Rules::Nothing {
        return None;
    }
    let concerned: Vec<_> =
        note.after.iter().filter(|debt| !note.inherited.contains(&debt.service)).collect();
    let is_down = |service: &str| match (runner.state(service), note.before(service), started) {
        (ServiceState::Failed, before, _) => before != ServiceState::Failed,
        (ServiceState::Stopped, before, Started::ByUs) => before == ServiceState::Running,
        (ServiceState::Stopped, _, Started::ByMachine)
        | (ServiceState::Running | ServiceState::Unknown, ..) => false,
    };
    let patience = match started {
        Started::ByUs => Duration::ZERO,
        Started::ByMachine => note.health.deadline(),
    };
    while !concerned.is_empty() {
        let down = concerned.iter().map(|debt| &debt.service).find(|service| is_down(service));
        let passed = began.elapsed();
        match down {
            Some(service) if passed >= patience => return Some(format!("{service} did not stay up")),
            None if passed >= settle => break,
            Some(_) | None => {}
        }
        let until = if down.is_some() { patience } else { settle };
        std::thread::sleep(LOOK.min(until.saturating_sub(passed)));
    }
    None
}

fn all(mut said: impl Iterator<Item = String>) -> Option<String> {
    let first = said.next()?;
    Some(said.fold(first, |all, more| format!("{all}; {more}")))
}

/// What came of an attempt. It is told also when the prober panics, or it would be waited for until the deadline.
struct Answer {
    tell: Sender<(usize, Option<String>)>,
    check: usize,
    error: Option<String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody listens any more when it is decided already.
        drop(self.tell.send((self.check, self.error.take())));
    }
}

/// Makes the checks, beside each other, until it is decided. What is under way then is waited for.
pub(super) fn health(prober: &dyn Prober, checks: &HealthChecks) -> Vec<HealthOutcome> {
    let began = Instant::now();
    let mut judgement = Judgement::new(checks.clone());
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        loop {
            match judgement.next(began.elapsed()) {
                Next::Decided(outcomes) => return outcomes,
                Next::Try(attempt) => {
                    let tell = tell.clone();
                    let check = attempt.check;
                    let probe = move || {
                        let mut answer = Answer { tell, check, error: Some("it ended by a bug".to_owned()) };
                        answer.error =
                            prober.probe(&attempt.probe, attempt.limit).err().map(|error| error.to_string());
                    };
                    let thread = std::thread::Builder::new().name("health".to_owned());
                    if let Err(error) = thread.spawn_scoped(scope, probe) {
                        judgement.answered(
                            began.elapsed(),
                            check,
                            Some(format!("no thread for it: {error}")),
                        );
                    }
                }
                Next::Wait(until) => match told.recv_timeout(until.saturating_sub(began.elapsed())) {
                    Ok((check, error)) => judgement.answered(began.elapsed(), check, error),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                },
            }
        }
    })
}

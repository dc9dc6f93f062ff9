//! The gate that is a program: whoever operates the machine says when its users may be disturbed.
//!
//! It is called with one argument, `check`, `request` or `cancel`, and says with its exit status how it stands: 0 is
//! permitted, 1 requested, 2 denied. Anything else is an error, and no leave. When it is called and with what is decided
//! by [`Disruption`]; an order only ever learns what it said last.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::disruption::{Action, Command as Question, Disruption, Event, Wish, answer};
use dominator_core::port::{DisruptionGate, DisruptionState, GateAnswer};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::service::{Ended, Leftovers, run_limited};

/// A gate that is a program. It is called for as long as this lives.
#[derive(Debug)]
pub struct CommandGate {
    asked: Arc<Asked>,
    asking: JoinHandle<()>,
}

/// What orders and the one who calls the program share.
#[derive(Debug)]
struct Asked {
    program: PathBuf,
    began: Instant,
    standing: Mutex<Standing>,
    changed: Notify,
}

/// How it stands, and what is to be done about that.
#[derive(Debug)]
struct Standing {
    disruption: Disruption,
    next: Action,
}

impl CommandGate {
    /// How long the program may take to answer.
    pub const LIMIT: Duration = Duration::from_secs(30);

    /// Begins to ask `program`, on the runtime of whoever calls.
    pub fn start(program: impl Into<PathBuf>) -> Self {
        let mut disruption = Disruption::new();
        let next = disruption.step(Duration::ZERO, Event::Tick);
        let standing = Mutex::new(Standing { disruption, next });
        let (program, began) = (program.into(), Instant::now());
        let asked = Arc::new(Asked { program, began, standing, changed: Notify::new() });
        let asking = tokio::spawn(ask(Arc::clone(&asked)));
        Self { asked, asking }
    }
}

impl Drop for CommandGate {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

#[async_trait]
impl DisruptionGate for CommandGate {
    async fn request(&self) -> GateAnswer {
        match self.asked.step(Event::Wished(Wish::Disturb)) {
            DisruptionState::Anytime | DisruptionState::Permitted => GateAnswer::Permitted,
            DisruptionState::Requested => GateAnswer::Requested,
            DisruptionState::Denied => GateAnswer::Denied(format!("by {}", self.asked.program.display())),
        }
    }

    async fn release(&self) {
        self.asked.step(Event::Wished(Wish::Rest));
    }

    fn state(&self) -> DisruptionState {
        self.asked.standing().disruption.state()
    }
}

impl Asked {
    /// Each change of it is whole.
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what happened, and says how it stands then.
    fn step(&self, event: Event) -> DisruptionState {
        let mut standing = self.standing();
        let next = standing.disruption.step(self.began.elapsed(), event);
        // A call that is decided and not begun yet is not forgotten for what happens meanwhile.
        if !matches!(standing.next, Action::Run(_)) {
            standing.next = next;
        }
        self.changed.notify_one();
        standing.disruption.state()
    }

    /// What is to be done. A call is told of once, to whoever makes it.
    fn next(&self) -> Action {
        let mut standing = self.standing();
        let next = standing.next;
        if matches!(next, Action::Run(_)) {
            standing.next = Action::WakeAt(self.began.elapsed() + CommandGate::LIMIT);
        }
        next
    }
}

/// Calls the program when it is due, once at a time, for ever.
async fn ask(asked: Arc<Asked>) {
    loop {
        match asked.next() {
            Action::Run(question) => {
                let program = asked.program.clone();
                let called = tokio::task::spawn_blocking(move || call(&program, question)).await;
                let answer = called.unwrap_or_else(|error| Err(error.to_string()));
                if let Err(why) = &answer {
                    let program = asked.program.display();
                    tracing::warn!(%program, question = question.text(), why, "no leave to disturb could be had");
                }
                asked.step(Event::Answered(answer.ok()));
            }
            Action::WakeAt(at) => tokio::select! {
                () = asked.changed.notified() => {}
                () = tokio::time::sleep_until(asked.began + at) => drop(asked.step(Event::Tick)),
            },
        }
    }
}

/// What the program says.
fn call(program: &Path, question: Question) -> Result<DisruptionState, String> {
    let mut command = Command::new(program);
    command.arg(question.text());
    let state = match run_limited(command, CommandGate::LIMIT, Leftovers::Killed) {
        Ok(Ended::Exited { status, output }) => {
            status.code().and_then(answer).ok_or_else(|| format!("{status}: {output}"))
        }
        Ok(Ended::TooLate) => Err(format!("no answer within {} s", CommandGate::LIMIT.as_secs())),
        Err(error) => Err(error.to_string()),
    }?;
    tracing::info!(question = question.text(), %state, "asked whether users may be disturbed");
    Ok(state)
}

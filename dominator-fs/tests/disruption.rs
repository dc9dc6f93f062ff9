//! A program says when users may be disturbed.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};

use dominator_core::port::{DisruptionGate, DisruptionState, GateAnswer};
use dominator_fs::disruption::CommandGate;
use dominator_fs_testkit::write_script;

/// A program that writes down what it is asked and waits to be told its exit status.
struct Program {
    dir: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for pipe in ["asked", "answer"] {
            nix::unistd::mkfifo(&at(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let script = format!(
            "#!/bin/sh\necho $1 > {}\nread status < {}\nexit $status\n",
            at("asked").display(),
            at("answer").display()
        );
        write_script(&at("gate"), &script);
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    /// Waits for the next question, and answers it.
    async fn asked(&self, status: u8) -> String {
        let at = |name: &str| self.dir.path().join(name);
        let (asked, answer) = (at("asked"), at("answer"));
        let read = move |path: &Path| std::fs::read_to_string(path).unwrap();
        let question = tokio::task::spawn_blocking(move || {
            let question = read(&asked);
            std::fs::write(answer, format!("{status}\n")).unwrap();
            question
        });
        question.await.unwrap().trim().to_owned()
    }
}

/// Waits until the gate has taken the answer in.
async fn until(gate: &CommandGate, state: DisruptionState) {
    while gate.state() != state {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_order_waits_until_the_program_gives_leave() {
    let program = Program::new();
    let gate = CommandGate::start(program.path());
    assert_eq!(gate.state(), DisruptionState::Denied, "what is not known is no leave");
    assert!(matches!(gate.request().await, GateAnswer::Denied(why) if why.ends_with("/gate")));
    assert_eq!(program.asked(2).await, "check");
    assert_eq!(program.asked(0).await, "request");
    until(&gate, DisruptionState::Permitted).await;
    assert_eq!(gate.request().await, GateAnswer::Permitted);
}

#[tokio::test]
async fn what_was_asked_for_is_not_there_yet() {
    let program = Program::new();
    let gate = CommandGate::start(program.path());
    assert_eq!(program.asked(1).await, "check");
    until(&gate, DisruptionState::Requested).await;
    assert_eq!(gate.request().await, GateAnswer::Requested);
}

#[tokio::test]
async fn a_program_that_answers_with_nonsense_or_is_not_there_gives_no_leave() {
    let program = Program::new();
    let gate = CommandGate::start(program.path());
    assert_eq!(program.asked(0).await, "check");
    until(&gate, DisruptionState::Permitted).await;
    assert!(matches!(gate.request().await, GateAnswer::Denied(_)), "leave from before it was wanted is none");
    assert_eq!(program.asked(7).await, "request");
    assert!(matches!(gate.request().await, GateAnswer::Denied(_)));
    let gate = CommandGate::start("/nowhere/gate");
    assert!(matches!(gate.request().await, GateAnswer::Denied(_)));
    assert_eq!(gate.state(), DisruptionState::Denied);
}

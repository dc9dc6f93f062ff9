//! The `list-cert-expirations` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{CommandFactory, Parser};
use dominator_daemon::process::UNANSWERED;
use dominator_daemon::report::complain;
use list_cert_expirations::Options;

fn main() -> ExitCode {
    if let Some(answered) = dominator_manual::answer(Options::command) {
        return answered;
    }
    list_cert_expirations::run(&Options::parse(), SystemTime::now()).unwrap_or_else(|failure| {
        complain("list-cert-expirations", &failure);
        ExitCode::from(UNANSWERED)
    })
}

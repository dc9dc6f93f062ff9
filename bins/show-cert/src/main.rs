//! The command line of `show-cert`.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use show_cert::Report;

/// Shows whom certificates name, what they grant, and how long they live.
///
/// Nothing is verified: a certificate is shown as it claims to be. Exits with 1 when any has expired, and with 2 when a
/// file can't be read.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// PEM files; every certificate in them is shown
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON, as docs/schemas/show-cert.json describes it
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = Report::of(args.files.iter().map(PathBuf::as_path), SystemTime::now());
    let text = if args.json { report.to_json() + "\n" } else { report.to_text() };
    for failed in &report.errors {
        // There is nobody left to tell when standard error is gone.
        writeln!(io::stderr(), "show-cert: {}", failed.error).ok();
    }
    let printed = io::stdout().write_all(text.as_bytes()).is_ok();
    if !printed || !report.errors.is_empty() {
        return ExitCode::from(2);
    }
    if report.any_expired() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

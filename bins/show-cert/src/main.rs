//! The command line of `show-cert`.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{CommandFactory, Parser};
use dominator_pki::keystore::AUTHORITIES;
use show_cert::{Report, Revocations, with_causes};

/// Shows whom certificates name, what they grant, and how long they live; and which certificates a list takes back.
///
/// Nothing is verified: each is shown as it claims to be. Exits with 1 when any has expired or was taken back or a list is
/// overdue, and with 2 when a file can't be read.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// PEM files; every certificate in them is shown, and every list of revoked ones, which may be DER
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Tell whether the certificates are on this list of revoked ones; may be repeated
    #[arg(long = "crl", value_name = "FILE")]
    lists: Vec<PathBuf>,
    /// Tell whether this deny list denies the certificates
    #[arg(long, value_name = "FILE")]
    deny_list: Option<PathBuf>,
    /// The authorities that stand behind lists of revoked certificates, PEM
    #[arg(long, value_name = "FILE", default_value = AUTHORITIES)]
    ca_file: PathBuf,
    /// Print JSON, as docs/schemas/show-cert.json describes it
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    if let Some(answered) = dominator_manual::answer(Args::command) {
        return answered;
    }
    let args = Args::parse();
    let asked = !args.lists.is_empty() || args.deny_list.is_some();
    let revocations = asked.then(|| Revocations::read(&args.lists, args.deny_list.as_deref(), &args.ca_file));
    let revocations = match revocations.transpose() {
        Ok(revocations) => revocations,
        Err(error) => {
            complain(&with_causes(&error));
            return ExitCode::from(2);
        }
    };
    let report = Report::of(args.files.iter().map(PathBuf::as_path), revocations.as_ref(), SystemTime::now());
    let text = if args.json { report.to_json() + "\n" } else { report.to_text() };
    for failed in &report.errors {
        complain(&failed.error);
    }
    let printed = io::stdout().write_all(text.as_bytes()).is_ok();
    if !printed || !report.errors.is_empty() {
        return ExitCode::from(2);
    }
    if report.any_ended() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn complain(words: &str) {
    // There is nobody left to tell when standard error is gone.
    writeln!(io::stderr(), "show-cert: {words}").ok();
}

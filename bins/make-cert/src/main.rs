//! The command line of `make-cert`.
#![forbid(unsafe_code)]

mod args;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{CommandFactory, Parser};
use dominator_pki::{Certificate, rfc3339};
use make_cert::{KeyOrigin, Made, MakeCertError, Replaced, Taken, make, make_authority, request, revoke};

use args::{Args, Asked};

/// The exit status of a failure: 1 answers questions with no, and this tool asks none.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    if let Some(answered) = dominator_manual::answer(Args::command) {
        return answered;
    }
    let result = run(Args::parse().asked(), SystemTime::now());
    let (text, code) = match result {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("make-cert: {}", with_causes(&error)), ExitCode::from(FAILED)),
    };
    // There is nobody left to tell when standard error is gone.
    writeln!(io::stderr(), "{text}").ok();
    code
}

fn run(asked: Asked, now: SystemTime) -> Result<String, MakeCertError> {
    match asked {
        Asked::Certificate(order) => make(&order, now).map(|made| {
            let before =
                made.replaced.as_ref().map(|before| replaced_words(before, &made.path, &order.signer));
            made_words(&made, order.days, now) + &before.unwrap_or_default()
        }),
        Asked::Authority(order) => make_authority(&order, now).map(|made| made_words(&made, order.days, now)),
        Asked::Request { stem, common_name, kind } => {
            let (path, key) = request(&stem, &common_name, kind)?;
            Ok(format!("{}: {}", path.display(), key_words(&key)))
        }
        Asked::Revocation(order) => revoke(&order, now).map(|taken| taken_back(&taken)),
    }
}

fn made_words(made: &Made, days: u32, now: SystemTime) -> String {
    let mut text = String::new();
    for pattern in &made.unknown {
        text += &format!(
            "make-cert: warning: no service has a method {pattern}; if it is misspelt, make the certificate again\n"
        );
    }
    for pattern in &made.unlimited {
        text += &format!(
            "make-cert: warning: {pattern} is granted without the limit given: --scope-images ends at no machine, and --scope-tag at no image; if that is not meant, give both\n"
        );
    }
    let certificate = &made.certificate;
    let until = rfc3339(certificate.validity().not_after);
    let early = if ends_early(certificate, days, now) { ", as its authority" } else { "" };
    let (path, serial, key) = (made.path.display(), certificate.serial(), key_words(&made.key));
    text + &format!("{path}: serial {serial}, valid until {until}{early}, {key}")
}

/// Replacing takes nothing back: the holder of a copy, or of the key, has what he had.
fn replaced_words(before: &Replaced, path: &Path, signer: &Path) -> String {
    let path = path.display();
    let good = |one: &Certificate| {
        let until = rfc3339(one.validity().not_after);
        format!("the one before, serial {}, is good until {until}", one.serial())
    };
    let words = match before {
        Replaced::Own(one) => {
            let signer = quoted(&signer.display().to_string());
            let command = format!("make-cert revoke {signer} --serial {}", one.serial());
            format!("{}; this ends it, when the new one is in place: {command}", good(one))
        }
        Replaced::Foreign(one) => {
            format!("{}; only its own authority, {}, can revoke it, by that number", good(one), one.issuer())
        }
        Replaced::Unreadable => {
            format!(
                "what was in {path} before can't be read; if it was a certificate, it stays good until its end"
            )
        }
    };
    format!("\nmake-cert: note: {words}")
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%,=".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Whether its authority's end is why it ends before what was asked for.
fn ends_early(certificate: &Certificate, days: u32, now: SystemTime) -> bool {
    let asked = Duration::from_secs(u64::from(days) * 86_400);
    let left = certificate.validity().remaining(now).unwrap_or_default();
    left + Duration::from_secs(2) < asked
}

fn key_words(key: &KeyOrigin) -> String {
    match key {
        KeyOrigin::New(path) => format!("new key {}", path.display()),
        KeyOrigin::Reused(path) => format!("for the key that was in {} already", path.display()),
        KeyOrigin::Request(path) => format!("for the key of {}", path.display()),
    }
}

fn taken_back(taken: &Taken) -> String {
    let Taken { path, list, added } = taken;
    let first = if list.number() == 1 { " (a new list)" } else { "" };
    let (path, number, until) = (path.display(), list.number(), rfc3339(list.next()));
    let new: Vec<String> =
        list.revoked().iter().rev().take(*added).map(|one| one.serial.to_string()).collect();
    let new = if new.is_empty() { "nothing new".into() } else { new.join(", ") };
    let count = list.revoked().len();
    format!(
        "{path}: list {number}{first}, {new} revoked, {count} in all, current until {until}; copy it to every machine, as /etc/ssl/CRL.pem\n\
         make-cert: warning: where no newer list is by then, no machine can be changed, also not to bring it a new list: refresh it in time with make-cert refresh-crl, or run agents with --crl-stale open where lists travel in images"
    )
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

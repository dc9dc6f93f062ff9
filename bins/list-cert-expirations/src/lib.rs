//! Lists certificates by how long they are still valid: in files, in folders, and of running servers.
//!
//! Nothing is verified: a certificate is shown as it claims to be.
#![forbid(unsafe_code)]

mod look;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use dominator_daemon::Failure;
use dominator_daemon::process::UNANSWERED;
use dominator_daemon::report::{OutputOptions, Show, remark, show};
use dominator_daemon::value::{Duration, rfc3339};
use dominator_pki::keystore::AUTHORITIES;
use dominator_pki::{Certificate, ShownList};
use serde::Serialize;

const SECONDS_A_DAY: u64 = 86_400;

/// Lists certificates, and lists of revoked ones, the one that expires first on top.
///
/// Of a folder it looks at the files called *.pem, *.cert and *.crt, and at the cert.pem of each folder in it; of a server,
/// at what it shows in a handshake that is broken off then, and at the authority in the CA file that has signed that.
/// Nothing is verified.
#[derive(Clone, Debug, Parser)]
#[command(name = "list-cert-expirations", version, after_help = AFTER)]
pub struct Options {
    /// Files, folders, and servers as HOST:PORT [default: ~/.ssl and /etc/ssl, where they are]
    #[arg(value_name = "PLACE")]
    pub places: Vec<String>,
    /// Answer with 1 when a certificate expires within this time
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub within: Duration,
    /// The authorities of servers, PEM [default: ~/.ssl/CA.pem if it is there, else /etc/ssl/CA.pem]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
}

const AFTER: &str = "\
Examples:
  list-cert-expirations
  list-cert-expirations --within 90d /etc/ssl images.example.com:6971

Exit status:
  0  nothing expires within the time
  1  something does, or has expired
  2  something could not be looked at, or the command line is wrong";

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when the result can't be printed.
pub fn run(options: &Options, now: SystemTime) -> Result<ExitCode, Failure> {
    let report = Report::of(options, now);
    show(&report, options.output.format())?;
    for failed in &report.errors {
        remark(
            "list-cert-expirations",
            &format!("{}: {}", printable(&failed.place), printable(&failed.error)),
        );
    }
    let due = report.certificates.iter().any(|one| one.standing != Standing::Valid);
    Ok(match (report.errors.is_empty(), due) {
        (false, _) => ExitCode::from(UNANSWERED),
        (true, true) => ExitCode::FAILURE,
        (true, false) => ExitCode::SUCCESS,
    })
}

/// Everything found: what `--json` prints, and what `docs/schemas/list-cert-expirations.json` describes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What expires first comes first.
    pub certificates: Vec<Expiring>,
    /// What could not be looked at.
    pub errors: Vec<Failed>,
}

/// One certificate in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expiring {
    /// The file or the server.
    pub place: String,
    /// How it is there.
    pub kind: Kind,
    /// Whom it names; of a list, nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The issuer's name.
    pub issuer: String,
    /// Hexadecimal; of a list, its number, if it has one.
    pub serial: String,
    /// RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative since.
    pub days_left: i64,
    /// Whether that is soon.
    pub standing: Standing,
    #[serde(skip)]
    end: SystemTime,
}

/// How a certificate is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is in a file.
    File,
    /// A running server shows it.
    Server,
    /// It is a list of revoked certificates in a file, and a newer one must be there by then.
    RevocationList,
    /// It is in the CA file, and has signed what a running server shows.
    Authority,
}

/// Where a certificate stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It has expired.
    Expired,
    /// It expires within the time asked for.
    Expires,
    /// It does not.
    Valid,
}

/// A place that could not be looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The file, folder or server.
    pub place: String,
    /// Why, with causes.
    pub error: String,
}

impl Report {
    /// Looks everywhere.
    pub fn of(options: &Options, now: SystemTime) -> Self {
        let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        let usual = || {
            let places =
                [home.join(".ssl"), PathBuf::from("/etc/ssl")].into_iter().filter(|place| place.exists());
            places.map(|place| place.display().to_string()).collect()
        };
        let own = home.join(".ssl/CA.pem");
        let usual_authorities = if own.exists() { own } else { AUTHORITIES.into() };
        let authorities: &Path = options.ca_file.as_deref().unwrap_or(&usual_authorities);
        let places = if options.places.is_empty() { usual() } else { options.places.clone() };
        let mut report = Self { certificates: Vec::new(), errors: Vec::new() };
        for look::Found { place, kind, certificates, lists } in look::at(&places, authorities) {
            report
                .certificates
                .extend(lists.iter().map(|list| Expiring::of_list(list, &place, options.within, now)));
            match certificates {
                Ok(found) => {
                    let expiring = |one| Expiring::of(one, &place, kind, options.within, now);
                    report.certificates.extend(found.iter().map(expiring));
                }
                Err(error) => report.errors.push(Failed { place, error }),
            }
        }
        report.certificates.sort_by_key(|one| one.end);
        report
    }
}

impl Expiring {
    fn of(certificate: &Certificate, place: &str, kind: Kind, within: Duration, now: SystemTime) -> Self {
        let end = certificate.validity().not_after;
        let (standing, days_left) = standing(end, within, now);
        Self {
            place: place.into(),
            kind,
            user: Some(certificate.unverified_claims().user.clone()),
            issuer: certificate.issuer().into(),
            serial: certificate.serial().to_string(),
            not_after: rfc3339(end),
            days_left,
            standing,
            end,
        }
    }

    /// A list that does not say when the next one comes is overdue: servers take it for that, too.
    fn of_list(list: &ShownList, place: &str, within: Duration, now: SystemTime) -> Self {
        let end = list.next.unwrap_or(SystemTime::UNIX_EPOCH);
        let (standing, days_left) = standing(end, within, now);
        Self {
            place: place.into(),
            kind: Kind::RevocationList,
            user: None,
            issuer: list.issuer.clone(),
            serial: list.number.as_ref().map(ToString::to_string).unwrap_or_default(),
            not_after: rfc3339(end),
            days_left,
            standing,
            end,
        }
    }
}

fn standing(end: SystemTime, within: Duration, now: SystemTime) -> (Standing, i64) {
    let days = |seconds: u64| i64::try_from(seconds / SECONDS_A_DAY).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) if left <= within.get() => (Standing::Expires, days(left.as_secs())),
        Ok(left) => (Standing::Valid, days(left.as_secs())),
        Err(over) => (Standing::Expired, -1 - days(over.duration().as_secs())),
    }
}

impl Show for Report {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for one in &self.certificates {
            let left = match one.standing {
                Standing::Expired => "EXPIRED".into(),
                Standing::Expires | Standing::Valid => format!("{} days", one.days_left),
            };
            let of = match one.kind {
                Kind::File | Kind::Server => "",
                Kind::RevocationList => ", the list of revoked certificates",
                Kind::Authority => ", its authority",
            };
            let (user, place) = (printable(one.user.as_ref().unwrap_or(&one.issuer)), printable(&one.place));
            writeln!(out, "{left:>10}  {}  {user}  {place}{of}", one.not_after)?;
        }
        Ok(())
    }
}

/// A certificate's author must not get to write on the terminal whatever he likes.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

//! The command line of `make-cert`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use dominator_core::authorise::Role;
use dominator_pki::ca::{DEFAULT_DAYS, MAX_DAYS};
use dominator_pki::keystore::Existing;
use dominator_pki::{AlternativeName, rfc3339};
use make_cert::{KeyOrigin, Made, MakeCertError, Order, SerialChoice, make, make_authority};

/// Makes a certificate that says who its holder is and which methods it may call.
///
/// Writes NEWKEY.pem, for everybody to read, and NEWKEY.key.pem, for you alone. A NEWKEY.key.pem that exists is used
/// again, so that a certificate can be renewed for the same key (with --force, as NEWKEY.pem exists then, too).
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Args {
    /// The authority that signs: X for X.pem and X.key.pem, or X.cert and X.key
    #[arg(value_name = "SIGNING-KEY", required_unless_present = "new_ca")]
    signer: Option<PathBuf>,
    /// Where the certificate goes: Y for Y.pem and Y.key.pem
    #[arg(value_name = "NEWKEY", required_unless_present = "new_ca")]
    stem: Option<PathBuf>,
    /// The serial number, decimal; AUTO counts in SIGNING-KEY.serial
    #[arg(value_name = "SERIAL|AUTO", required_unless_present = "new_ca")]
    serial: Option<SerialChoice>,
    /// The user name. A daemon's name (subd, dominator, imageserver, imaginator, filegen-server, mdbd,
    /// disruption-manager) gives the certificate that role as a server
    #[arg(value_name = "USER", required_unless_present = "new_ca")]
    user: Option<String>,
    /// What it may call: a file with a method a line, or a comma-separated list, with shell patterns on both sides of
    /// the dot (Subd.Poll, ImageServer.*, *.*); '' or nothing grants nothing
    #[arg(default_value = "", hide_default_value = true)]
    methods: String,

    /// How many days it is valid
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    days: u32,
    /// A group the user belongs to; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A host name or address; may be repeated. A server with such a certificate is believed under these names only
    #[arg(long = "san", value_name = "DNS-OR-IP", value_parser = name)]
    names: Vec<AlternativeName>,
    /// The role to play as a server, when the user name is not already a daemon's
    #[arg(long, value_parser = role)]
    role: Option<Role>,
    /// Certify the public key of this signing request (PEM); nothing else is taken from it, and no key is written
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Replace NEWKEY.pem if it exists. Keys are never replaced
    #[arg(long)]
    force: bool,

    /// Make a new authority, NAME.pem and NAME.key.pem, valid for 1096 days, and no certificate
    #[arg(long, value_name = "NAME", conflicts_with_all = ["signer", "groups", "names", "role", "csr", "force"])]
    new_ca: Option<PathBuf>,
    /// The new authority's name; NAME's file name otherwise
    #[arg(long, value_name = "CN", requires = "new_ca")]
    common_name: Option<String>,
}

const EXAMPLES: &str = "Examples:
  make-cert --new-ca root --common-name Dominator     # copy root.pem to /etc/ssl/CA.pem everywhere
  make-cert root subd AUTO subd ObjectServer.GetObjects
  make-cert root alice AUTO alice 'ImageServer.*,Subd.Poll' --group operators
  make-cert root filegen-server AUTO filegen-server ''

Exit status:
  0  it was made
  2  it could not be made, or the command line is wrong";

/// The exit status of a failure: 1 answers questions with no, and this tool asks none.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let result = run(Args::parse(), SystemTime::now());
    let (text, code) = match result {
        Ok(made) => (report(&made), ExitCode::SUCCESS),
        Err(error) => (format!("make-cert: {}", with_causes(&error)), ExitCode::from(FAILED)),
    };
    // There is nobody left to tell when standard error is gone.
    writeln!(io::stderr(), "{text}").ok();
    code
}

fn run(args: Args, now: SystemTime) -> Result<Made, MakeCertError> {
    if let Some(stem) = args.new_ca {
        let file_name = || stem.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return make_authority(&stem, &args.common_name.unwrap_or_else(file_name), now);
    }
    let (Some(signer), Some(stem), Some(serial), Some(user)) =
        (args.signer, args.stem, args.serial, args.user)
    else {
        unreachable!("invariant: clap demands these unless --new-ca is given")
    };
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let Args { methods, groups, names, role, days, csr: request, .. } = args;
    let order = Order { signer, stem, serial, user, methods, groups, names, role, days, request, existing };
    make(&order, now)
}

fn report(made: &Made) -> String {
    let key = match &made.key {
        KeyOrigin::New(path) => format!("new key {}", path.display()),
        KeyOrigin::Reused(path) => format!("for the key that was in {} already", path.display()),
        KeyOrigin::Request(path) => format!("for the key of {}", path.display()),
    };
    let until = rfc3339(made.certificate.validity().not_after);
    format!("{}: serial 0x{}, valid until {until}, {key}", made.path.display(), made.certificate.serial())
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn name(text: &str) -> Result<AlternativeName, std::convert::Infallible> {
    Ok(text.parse::<IpAddr>().map_or_else(|_| AlternativeName::Dns(text.into()), AlternativeName::Ip))
}

fn role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| format!("the roles are {}", Role::ALL.map(Role::name).join(", ")))
}

//! Lists what may be called on a server, and by whom.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use dominator_core::auth::{Access, Role};
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::{OutputOptions, Show, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure, roles};
use dominator_rpc::client::{ServerMethods, list_methods};
use serde::Serialize;

/// Lists what may be called on a server: one Service.Method a line, as a certificate lists them.
#[derive(Clone, Debug, Parser)]
#[command(name = "list-methods", version, after_help = format!("{EXAMPLE}\n\n{EXIT_STATUS}"))]
pub struct Options {
    /// The server
    #[arg(value_name = "HOST:PORT")]
    pub server: HostPort,
    /// What it must prove to be: subd, dominator, imageserver, … [default: by its port]
    #[arg(long, value_parser = roles::role)]
    pub role: Option<Role>,
    /// Show those only that everybody with a certificate may call
    #[arg(long)]
    pub public: bool,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
    /// Whom to be and whom to believe.
    #[command(flatten)]
    pub tls: TlsOptions,
}

const EXAMPLE: &str = "\
Example:
  list-methods images.example.com:6971";

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when the server could not be asked.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let server = &options.server;
    let expected = roles::expected(options.role, server)?;
    let tls = options.tls.tool()?;
    let listed = list_methods(&tls, &server.to_string(), expected).await;
    let ServerMethods { version, methods } =
        listed.during(|| format!("can't list the methods of {server}"))?;
    let mut listing = Listing::of(version, &methods);
    if options.public {
        listing.methods.retain(|method| method.access != LISTED);
    }
    show(&listing, options.output.format())?;
    Ok(ExitCode::SUCCESS)
}

/// Of a method that a certificate must list.
const LISTED: &str = "listed";

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Listing {
    version: String,
    methods: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    access: &'static str,
}

impl Listing {
    fn of(version: String, methods: &[(String, Access)]) -> Self {
        let word = |access: &Access| match access {
            Access::Listed => LISTED,
            Access::Public => "public",
            Access::Unauthenticated => "unauthenticated",
        };
        let entry =
            |(method, access): &(String, Access)| Entry { name: method.clone(), access: word(access) };
        Self { version, methods: methods.iter().map(entry).collect() }
    }
}

impl Show for Listing {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.methods.iter().try_for_each(|method| writeln!(out, "{}", method.name))
    }
}

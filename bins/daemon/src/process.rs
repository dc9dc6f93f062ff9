//! The life of a process: options, runtime, signals, exit status.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};
use dominator_core::auth::AuditLog;
use dominator_rpc::auth::Audit;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit, umask};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::audit::AuditOptions;
use crate::config::{self, ConfigError};
use crate::exporter::Exporter;
use crate::failure::{During, Failure};
use crate::logging::{LogFormat, LogOptions};
use crate::notify;
use crate::people::PeopleOptions;
use crate::report::complain;
use crate::tls::TlsOptions;
use crate::vitals::Vitals;

/// How many threads do blocking work (files, hashing) at most. More than the stores admit at once, or readers that take
/// their time would keep everything else from a disk; threads are made only when they are needed.
pub const BLOCKING_THREADS: usize = 256;
/// How long blocking work may go on after the end of a daemon's own work.
const LAST_WORK: Duration = Duration::from_secs(30);
/// Exit status when a question could not be answered, as opposed to answered with no.
pub const UNANSWERED: u8 = 2;

/// What a daemon is called and where it lives, unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// Its name: that of its directory in `/etc/ssl`, too.
    pub name: &'static str,
    /// Where it listens.
    pub listen: &'static str,
    /// Where its state is.
    pub state_dir: &'static str,
}

/// The options every daemon has.
#[derive(Clone, Debug, Args)]
pub struct DaemonOptions {
    /// Read options from this TOML file, whose keys are the long flags; flags given here replace them
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Accept connections on this address
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Keep state in this directory
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Show what is counted at http://ADDR:PORT/metrics, and how the daemon is at /healthz and /readyz, to everybody who
    /// reaches it; nowhere, if not given
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Whom to be and whom to believe.
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Whom it trusts beyond what certificates list.
    #[command(flatten)]
    pub people: PeopleOptions,
    /// Which calls are recorded, and where.
    #[command(flatten)]
    pub audit: AuditOptions,
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,
    /// How the daemon is: no option, but what everybody who has these is to know.
    #[arg(skip)]
    pub vitals: Vitals,
}

impl DaemonOptions {
    /// Has `open` begin the audit log: at this path, so many bytes a file, so many full files kept. Blocks as long as that
    /// does. A log that can't be begun is tried again, unless there must be one.
    ///
    /// # Errors
    /// [`Failure`] when it can't, and must be.
    pub fn audit<L, E>(
        &self,
        open: impl Fn(&Path, u64, u32) -> Result<L, E> + Send + 'static,
    ) -> Result<Audit, Failure>
    where
        L: AuditLog + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        ensure_directory(&self.state_dir)?;
        self.audit.begin(&self.state_dir, open)
    }
}

impl Daemon {
    /// Fills in this daemon's defaults.
    pub fn adjust(self, command: Command) -> Command {
        TlsOptions::help_of_daemon(self.name, command)
            .mut_arg("listen", |argument| argument.required(false).default_value(self.listen))
            .mut_arg("state_dir", |argument| argument.required(false).default_value(self.state_dir))
    }
}

/// Runs a daemon until it is told to end (SIGTERM, SIGINT), from its options to its exit status.
pub fn daemon<O, F>(
    daemon: Daemon,
    common: impl Fn(&O) -> &DaemonOptions,
    serve: impl FnOnce(O, Shutdown) -> F,
) -> ExitCode
where
    O: CommandFactory + FromArgMatches,
    F: Future<Output = Result<(), Failure>>,
{
    if let Some(answered) = dominator_manual::answer(|| daemon.adjust(O::command())) {
        return answered;
    }
    let options: O = match config::parse(|command| daemon.adjust(command), std::env::args_os()) {
        Ok(options) => options,
        Err(error) => return refuse(daemon.name, error),
    };
    let run = || {
        let shared = common(&options);
        shared.log.start(shared.tls.proof())?;
        // Nothing a daemon writes is for others to read, unless it says so itself.
        umask(rustix::fs::Mode::from_raw_mode(0o027));
        raise_file_limit();
        let runtime = runtime()?;
        let shared = shared.clone();
        let result = runtime.block_on(async {
            // Shown as long as the daemon runs.
            let _showing = watched_over(&shared).await?;
            serve(options, Shutdown::on_signals()?).await
        });
        runtime.shutdown_timeout(LAST_WORK);
        result
    };
    finish(daemon.name, 1, run().map(|()| ExitCode::SUCCESS))
}

/// Has everybody see how the daemon is who watches over it, from before its stores are open until this is dropped.
async fn watched_over(options: &DaemonOptions) -> Result<JoinSet<()>, Failure> {
    let mut tasks = JoinSet::new();
    if let Some(address) = options.metrics_listen {
        let exporter = Exporter::bind(address, options.vitals.clone()).await?;
        tasks.spawn(async move { match exporter.run().await {} });
    }
    let vitals = options.vitals.clone();
    tasks.spawn(async move { match vitals.tell_manager().await {} });
    if let Some(every) = notify::watchdog() {
        tasks.spawn(async move {
            let mut ticks = interval(every);
            loop {
                ticks.tick().await;
                notify::tell("WATCHDOG=1");
            }
        });
    }
    Ok(tasks)
}

/// What the exit status of a tool says, for its help.
pub const EXIT_STATUS: &str = "\
Exit status:
  0  it was done
  2  it could not be done, or the command line is wrong";

/// The same for a tool that answers questions, too.
pub const EXIT_STATUS_OF_ANSWERS: &str = "\
Exit status:
  0  it was done; the answer is yes
  1  the answer is no
  2  it could not be done or found out, or the command line is wrong";

/// Runs a tool, from its options to its exit status: [`UNANSWERED`] when it could not do what it was to do. Logging is off
/// below warnings.
pub fn tool<O, F>(name: &str, work: impl FnOnce(O) -> F) -> ExitCode
where
    O: Parser,
    F: Future<Output = Result<ExitCode, Failure>>,
{
    if let Some(answered) = dominator_manual::answer(|| TlsOptions::help_of_tool(O::command())) {
        return answered;
    }
    let mut matches = TlsOptions::help_of_tool(O::command()).get_matches();
    let proof = TlsOptions::proof_of_tool(&matches);
    let options = O::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    let run = || {
        LogOptions { log_format: LogFormat::Text, log_level: "warn".into() }.start(proof)?;
        let runtime = runtime()?;
        let result = runtime.block_on(work(options));
        runtime.shutdown_timeout(LAST_WORK);
        result
    };
    finish(name, UNANSWERED, run())
}

/// The exit status of a question: 0 for yes, 1 for no, and [`UNANSWERED`] when it could not be answered, since "no" and
/// "don't know" must not be taken for each other.
pub fn answer(name: &str, answer: Result<bool, Failure>) -> ExitCode {
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            complain(name, &failure);
            ExitCode::from(UNANSWERED)
        }
    }
}

/// A multi-threaded runtime whose pool of blocking threads is bounded.
///
/// # Errors
/// [`Failure`] when the system has no threads left.
pub fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    built.during(|| "can't start the runtime".into())
}

/// Makes a directory and those above it, unless it is there.
///
/// # Errors
/// [`Failure`], naming it.
pub fn ensure_directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).during(|| format!("can't make the directory {}", path.display()))
}

/// Warns when a daemon that needs no privileges has them all.
pub fn warn_if_root(name: &str) {
    if geteuid().is_root() {
        tracing::warn!("{name} runs as root and needs not; run it as a user of its own");
    }
}

/// Tells every part of a daemon that it is time to end. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Resolves once the process was asked to end. Safe to cancel.
    pub async fn requested(mut self) {
        // A sender that is gone can't ask any more: the runtime is being torn down.
        drop(self.0.wait_for(|requested| *requested).await);
    }

    fn on_signals() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).during(|| "can't listen to signals".into());
        let (mut terminate, mut interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!("{name}: ending");
            sender.send_replace(true);
            // Kept until the process ends: a second signal must not end it halfway.
            std::future::pending::<()>().await;
        });
        Ok(Self(receiver))
    }
}

/// Orders to read certificates again (SIGHUP).
#[derive(Debug)]
pub struct Reload(Signal);

impl Reload {
    /// Listens to the signal from now on.
    ///
    /// # Errors
    /// [`Failure`] when signals can't be listened to.
    pub fn on_hangup() -> Result<Self, Failure> {
        signal(SignalKind::hangup()).map(Self).during(|| "can't listen to SIGHUP".into())
    }

    /// Resolves with the next order. Safe to cancel.
    pub async fn ordered(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn refuse(name: &str, error: ConfigError) -> ExitCode {
    if let ConfigError::CommandLine(error) = error {
        error.exit();
    }
    complain(name, &error);
    ExitCode::from(UNANSWERED)
}

fn finish(name: &str, failed: u8, result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        complain(name, &failure);
        ExitCode::from(failed)
    })
}

/// Connections and files are many; the hard limit is the operator's word, the soft one only a default.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("can't raise the limit of open files: {error}");
    }
}

//! The agent's daemon: joins the agent of this machine's root to the network.
#![forbid(unsafe_code)]

mod options;

pub use options::{DAEMON, Options, ScanPriority, Services, USUAL_EXCLUSIONS};

use std::sync::Arc;

use dominator_core::port::ServiceRunner;
use dominator_daemon::{During, Failure, Shutdown};
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::audit::{AuditFile, Rotation};
use dominator_fs::disruption::CommandGate;
use dominator_fs::health::SystemProber;
use dominator_fs::note::NoteCommand;
use dominator_fs::service::{NoServices, SystemServices};
use dominator_rpc::client::Sources;

/// Runs the daemon until it is to end; an update that is under way then is carried out first.
///
/// # Errors
/// [`Failure`] when it can't start or can't listen.
pub async fn serve(options: Options, shutdown: Shutdown) -> Result<(), Failure> {
    let (owners, tags) = (options.owners(), options.tags()?);
    let tls = options.common.tls.daemon(DAEMON.name)?;
    dominator_daemon::process::ensure_directory(&options.common.state_dir)?;
    let sources = Arc::new(Sources::new(tls.tls.clone()));
    let services = services(&options);
    let mut config =
        AgentConfig::new(&options.root_dir, &options.common.state_dir, Arc::clone(&services), sources);
    if options.is_whole_machine() {
        config.prober = Arc::new(SystemProber::new(services));
    }
    config.protected = options.own_files();
    config.exclusions = options.exclusions().during(|| "can't use the exclusions".into())?;
    config.scan_interval = options.scan_interval.get();
    config.effort = options.effort();
    config.mode = options.mode();
    config.undo = options.undo_budget();
    config.guard.clone_from(&options.guard);
    config.gate =
        options.disruption_manager.as_ref().map(|program| Arc::new(CommandGate::start(program)) as _);
    config.note = options.note_command.as_ref().map(NoteCommand::new);
    let during = || format!("can't keep {}", options.root_dir.display());
    let root = options
        .common
        .vitals
        .readiness
        .condition("root", "what an interrupted update left is being looked at");
    let started = tokio::task::spawn_blocking(|| LocalAgent::start(config)).await;
    let agent = Arc::new(started.during(during)?.during(during)?);
    root.met();
    let served = Arc::clone(&agent);
    let audit = options.common.audit(|path, size, kept| AuditFile::open(path, Rotation { size, kept }))?;
    let services = dominator_rpc::server::Services::new(env!("CARGO_PKG_VERSION")).audited(audit);
    let services = services.agent(served).intake(agent.objects()).machine(owners, tags);
    let listening = || agent.is_served();
    let result = dominator_daemon::serve_and_tell(&options.common, tls, services, shutdown, listening).await;
    agent.idle().await;
    result
}

fn services(options: &Options) -> Arc<dyn ServiceRunner> {
    match options.services {
        // The services of another tree than the running one are not ours to stop.
        Services::Auto if options.is_whole_machine() => Arc::new(SystemServices::detect()),
        Services::Auto | Services::None => Arc::new(NoServices),
    }
}

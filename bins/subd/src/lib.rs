//! The agent's daemon: joins the agent of this machine's root to the network.
#![forbid(unsafe_code)]

mod options;

pub use options::{DAEMON, Options, ScanPriority, Services, USUAL_EXCLUSIONS};

use std::sync::Arc;

use dominator_core::port::ServiceRunner;
use dominator_daemon::{During, Failure, Shutdown};
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::service::{NoServices, SystemServices};
use dominator_rpc::client::Sources;

/// Runs the daemon until it is to end; an update that is under way then is carried out first.
///
/// # Errors
/// [`Failure`] when it can't start or can't listen.
pub async fn serve(options: Options, shutdown: Shutdown) -> Result<(), Failure> {
    let tls = options.common.tls.daemon(DAEMON.name)?;
    dominator_daemon::process::ensure_directory(&options.common.state_dir)?;
    let config = AgentConfig {
        root: options.root_dir.clone(),
        state: options.common.state_dir.clone(),
        protected: options.own_files(),
        exclusions: options.exclusions().during(|| "can't use the exclusions".into())?,
        scan_interval: options.scan_interval.get(),
        effort: options.effort(),
        services: services(&options),
        sources: Arc::new(Sources::new(tls.clone())),
        gate: None,
    };
    let during = || format!("can't keep {}", options.root_dir.display());
    let started = tokio::task::spawn_blocking(|| LocalAgent::start(config)).await;
    let agent = Arc::new(started.during(during)?.during(during)?);
    let served = Arc::clone(&agent);
    let services = dominator_rpc::server::Services::new(env!("CARGO_PKG_VERSION")).agent(served);
    let result = dominator_daemon::serve(DAEMON, &options.common, tls, services, shutdown).await;
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

//! The controller's daemon: joins the controller to a machine data base in a file, an image server, and the network.
#![forbid(unsafe_code)]

mod mdb_file;
mod options;

pub use mdb_file::MdbFile;
pub use options::{DAEMON, Options};

use std::path::PathBuf;
use std::sync::Arc;

use dominator_core::herd;
use dominator_daemon::process::{ensure_directory, warn_if_root};
use dominator_daemon::{During, Failure, Shutdown};
use dominator_fs::audit::{AuditFile, Rotation};
use dominator_fs::store::cluster::DirectoryClusterStore;
use dominator_rpc::client::{Dialer, RemoteImages};
use dominator_rpc::controller::{Controller, Parts, Tuning};
use dominator_rpc::server::Services;

/// Runs the daemon until it is to end.
///
/// # Errors
/// [`Failure`] when it can't start or can't listen.
pub async fn serve(options: Options, shutdown: Shutdown) -> Result<(), Failure> {
    warn_if_root(DAEMON.name);
    let tls = options.common.tls.daemon(DAEMON.name)?;
    let image_server = options.image_server.to_string();
    let sources = options.sources()?;
    let state = options.common.state_dir.clone();
    let decisions = options.common.vitals.readiness.condition("state", "it is being opened");
    let cluster = tokio::task::spawn_blocking(move || open(state)).await;
    let parts = Parts {
        machines: Box::new(MdbFile::new(&options.mdb)),
        dialer: Arc::new(Dialer::new(tls.tls.clone())),
        images: Arc::new(RemoteImages::lazy(&tls.tls, &image_server)),
        sources,
        cluster: Arc::new(cluster.during(|| "can't open the state".into())??),
    };
    let herd = herd::Settings { min_interval: options.min_interval.get(), ..herd::Settings::default() };
    let controller = Controller::new(parts, Tuning { herd, ..Tuning::default() }).await;
    let controller = controller.during(|| "can't read what was decided about updates".into())?;
    decisions.met();
    let audit = options.common.audit(|path, size, kept| AuditFile::open(path, Rotation { size, kept }))?;
    let services =
        Services::new(env!("CARGO_PKG_VERSION")).audited(audit).fleet(Arc::new(controller.fleet()));
    // The machines are looked after for as long as questions about them are answered, and no longer: a server that can't
    // listen ends both.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = async {
        let served = dominator_daemon::serve(&options.common, tls, services, shutdown).await;
        drop(stop);
        served
    };
    let (served, ()) = tokio::join!(serving, controller.run(async { drop(stopped.await) }));
    served
}

fn open(state_dir: PathBuf) -> Result<DirectoryClusterStore, Failure> {
    ensure_directory(&state_dir)?;
    let path = state_dir.join("cluster");
    DirectoryClusterStore::open(&path).during(|| format!("can't use the state in {}", path.display()))
}

//! The network side of a daemon.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_pki::PkiError;
use dominator_pki::files::TrustFiles;
use dominator_rpc::metrics::Metrics;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Follower, Server, Tls, danger};

use crate::failure::{During, Failure, chain};
use crate::logging::{self, LogControl, Proof};
use crate::notify;
use crate::process::{DaemonOptions, Reload, Shutdown};
use crate::tls::TlsOptions;

/// How often it is looked whether a file has changed.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// What is said where nobody has to prove anything.
const INSECURE: &str = "nobody has to prove who he is, and everybody on this machine may do everything (--danger-permit-insecure)";

impl TlsOptions {
    /// Both ends of TLS for daemon `name`, from files that [`serve`] follows.
    ///
    /// # Errors
    /// [`Failure`], naming the file that is wrong.
    pub fn daemon(&self, name: &str) -> Result<DaemonTls, Failure> {
        if self.proof() == Proof::Waived {
            tracing::warn!("{INSECURE}");
            return Ok(DaemonTls { tls: danger::permit_insecure(), files: None });
        }
        let opened = TrustFiles::open(self.daemon_paths(name), SystemTime::now());
        let (files, loaded) = opened.during(|| format!("can't load the certificates of {name}"))?;
        for problem in &loaded.problems {
            tracing::warn!("passed over: {}", chain(problem));
        }
        let tls = Tls::new(loaded.trust, loaded.credentials);
        let tls = tls.during(|| format!("can't use the certificates of {name}"))?;
        Ok(DaemonTls { tls: self.demands(tls), files: Some(files) })
    }

    /// The client's end of TLS for a tool.
    ///
    /// # Errors
    /// [`Failure`], naming the file that is wrong.
    pub fn tool(&self) -> Result<Tls, Failure> {
        if self.proof() == Proof::Waived {
            tracing::warn!("{INSECURE}");
            return Ok(self.demands(danger::permit_insecure()));
        }
        let loaded = self.load_tool();
        let why = match &loaded {
            Err(PkiError::NoUserCertificate { .. }) => "give --cert-file and --key-file, or fill ~/.ssl",
            _ => "can't load the certificates",
        };
        let identity = loaded.during(|| why.into())?;
        let tls = Tls::new(identity.trust, identity.credentials);
        tls.map(|tls| self.demands(tls)).during(|| "can't use the certificate".into())
    }

    fn demands(&self, tls: Tls) -> Tls {
        let tls = tls.when_stale(self.crl_stale);
        let tls = if self.require_machine_identity { tls.require_machine_identity() } else { tls };
        if self.do_not_use_my_powers { tls.waiving_powers() } else { tls }
    }
}

/// Whom a daemon believes, what it shows, and the files that say so.
#[derive(Debug)]
pub struct DaemonTls {
    /// For connections of its own: it is what the files say as long as [`serve`] runs.
    pub tls: Tls,
    files: Option<TrustFiles>,
}

/// Serves until the shutdown is requested and what is being answered then is done. Certificates, authorities, and lists of
/// those who are not believed any more are in force within seconds after their files changed, at once with SIGHUP; what is
/// wrong with them is reported, and what was before stays in force.
///
/// # Errors
/// [`Failure`] when it can't listen.
pub async fn serve(
    options: &DaemonOptions,
    tls: DaemonTls,
    services: Services,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    serve_and_tell(options, tls, services, shutdown, || ()).await
}

/// As [`serve`], and `listening` is called once whoever calls is heard.
///
/// # Errors
/// As there.
pub async fn serve_and_tell(
    options: &DaemonOptions,
    DaemonTls { tls, files }: DaemonTls,
    services: Services,
    shutdown: Shutdown,
    listening: impl FnOnce(),
) -> Result<(), Failure> {
    let hangup = Reload::on_hangup()?;
    let services = services.trusting(options.people.people());
    let vitals = &options.vitals;
    let condition = vitals.listening();
    let services = services.readiness(vitals.readiness.clone());
    let services = services.during(|| "can't serve whether the daemon is ready".into())?;
    let log = logging::control();
    let services = match log {
        Some(log) => services.logger(log.ring(), Arc::new(log)),
        None => services,
    };
    let server = Server::bind(options.listen, tls.clone(), services).await;
    let server = server.during(|| format!("can't listen on {}", options.listen))?;
    let server = server.with_metrics(vitals.metrics.clone());
    tracing::info!("listening on {}", server.local_address());
    listening();
    condition.met();
    notify::tell("READY=1");
    let ending = async {
        shutdown.requested().await;
        notify::tell("STOPPING=1");
        vitals.readiness.end();
        log.iter().for_each(|log| log.ring().end());
    };
    let metrics = server.metrics();
    tokio::select! {
        done = server.serve(ending) => done.during(|| "the server failed".into()),
        never = follow(tls.clone(), files, metrics, hangup) => match never {},
        never = vitals.watch_certificate(&tls) => match never {},
        never = keep_level(log) => match never {},
    }
}

/// Has the usual log level return.
async fn keep_level(log: Option<&LogControl>) -> Infallible {
    match log {
        Some(log) => log.keep().await,
        None => std::future::pending().await,
    }
}

async fn follow(tls: Tls, files: Option<TrustFiles>, metrics: Metrics, mut hangup: Reload) -> Infallible {
    let Some(files) = files else {
        loop {
            hangup.ordered().await;
            tracing::warn!("SIGHUP: {INSECURE}");
        }
    };
    Follower::new(tls, files, metrics).follow(LOOK, async || hangup.ordered().await).await
}

//! The network side of a daemon.

use std::pin::pin;

use dominator_pki::PkiError;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};

use crate::failure::{During, Failure, chain};
use crate::process::{Daemon, DaemonOptions, Reload, Shutdown};
use crate::tls::TlsOptions;

impl TlsOptions {
    /// Both ends of TLS for daemon `name`.
    ///
    /// # Errors
    /// [`Failure`], naming the file that is wrong.
    pub fn daemon(&self, name: &str) -> Result<Tls, Failure> {
        let identity = self.load_daemon(name).during(|| format!("can't load the certificates of {name}"))?;
        Tls::new(identity.trust, identity.credentials)
            .during(|| format!("can't use the certificates of {name}"))
    }

    /// The client's end of TLS for a tool.
    ///
    /// # Errors
    /// [`Failure`], naming the file that is wrong.
    pub fn tool(&self) -> Result<Tls, Failure> {
        let loaded = self.load_tool();
        let why = match &loaded {
            Err(PkiError::NoUserCertificate { .. }) => "give --cert-file and --key-file, or fill ~/.ssl",
            _ => "can't load the certificates",
        };
        let identity = loaded.during(|| why.into())?;
        Tls::new(identity.trust, identity.credentials).during(|| "can't use the certificate".into())
    }
}

/// Serves until the shutdown is requested and what is being answered then is done. SIGHUP makes it read its certificates
/// again; a certificate that is wrong is reported, and the one before stays in force.
///
/// # Errors
/// [`Failure`] when it can't listen.
pub async fn serve(
    daemon: Daemon,
    options: &DaemonOptions,
    tls: Tls,
    services: Services,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let mut hangup = Reload::on_hangup()?;
    let server = Server::bind(options.listen, tls.clone(), services).await;
    let server = server.during(|| format!("can't listen on {}", options.listen))?;
    tracing::info!("listening on {}", server.local_address());
    let mut serving = pin!(server.serve(shutdown.requested()));
    loop {
        tokio::select! {
            done = &mut serving => return done.during(|| "the server failed".into()),
            () = hangup.ordered() => reload(daemon.name, options, &tls),
        }
    }
}

fn reload(name: &str, options: &DaemonOptions, tls: &Tls) {
    let replaced = options.tls.load_daemon(name).and_then(|new| tls.replace(new.trust, new.credentials));
    match replaced {
        Ok(()) => tracing::info!("SIGHUP: certificates were read again"),
        Err(error) => tracing::error!("SIGHUP: the certificates before stay in force: {}", chain(&error)),
    }
}

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use dominator_core::authorise::{Identity, Role};
use dominator_pki::{Credentials, PkiError, Trust};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

/// Whom this process trusts and how it shows itself, for both ends of connections. A clone is the same thing:
/// [`Tls::replace`] works on all of them.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Arc<Configured>>>);

struct Configured {
    trust: Trust,
    credentials: Credentials,
    server: Arc<ServerConfig>,
}

impl Configured {
    fn new(trust: Trust, credentials: Credentials) -> Result<Arc<Self>, PkiError> {
        let server = Arc::new(trust.server_config(&credentials)?);
        Ok(Arc::new(Self { trust, credentials, server }))
    }
}

impl Tls {
    /// Trusts what `trust` says and shows `credentials`.
    ///
    /// # Errors
    /// [`PkiError`] when the credentials can't be used.
    pub fn new(trust: Trust, credentials: Credentials) -> Result<Self, PkiError> {
        Ok(Self(Arc::new(RwLock::new(Configured::new(trust, credentials)?))))
    }

    /// Makes new connections use other trust and credentials. Those that are open stay as they are until they have
    /// reached [`limits::CONNECTION_AGE`](crate::limits::CONNECTION_AGE).
    ///
    /// # Errors
    /// [`PkiError`] when the credentials can't be used; the ones before stay in force.
    pub fn replace(&self, trust: Trust, credentials: Credentials) -> Result<(), PkiError> {
        let configured = Configured::new(trust, credentials)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configured;
        Ok(())
    }

    fn current(&self) -> Arc<Configured> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    pub(super) fn client(&self, expected: Role) -> Result<Arc<ClientConfig>, PkiError> {
        let current = self.current();
        current.trust.client_config(&current.credentials, expected).map(Arc::new)
    }

    pub(super) fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, PkiError> {
        self.current().trust.identify(chain, SystemTime::now())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

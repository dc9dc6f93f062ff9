use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dominator_core::auth::{Effect, Powers, Role};
use dominator_pki::{
    Certificate, Credentials, PkiError, RevocationStanding, StalePolicy, Trust, Validity, rfc3339,
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::connection::Peer;
use super::standing::{Far, Standing};
use super::words;

/// Whom this process trusts and how it shows itself, for both ends of connections. A clone is the same thing:
/// [`Tls::replace`] works on all of them.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
    machines: MachineIdentity,
    stale: StalePolicy,
    powers: Powers,
}

/// Whether an agent must prove on which machine it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MachineIdentity {
    IfNamed,
    Required,
}

struct Shared {
    current: watch::Sender<Arc<Configured>>,
    /// That of `current`, to be asked with every call.
    generation: AtomicU64,
}

/// What is in force. The server's configuration is made anew whenever anything changes: nothing that TLS remembers of an
/// earlier handshake outlives the trust it was made under.
pub(super) struct Configured {
    pub(super) generation: u64,
    /// Nothing where nobody has to prove anything.
    pub(super) proof: Option<Proof>,
}

pub(super) struct Proof {
    pub(super) trust: Trust,
    pub(super) credentials: Credentials,
    pub(super) server: Arc<ServerConfig>,
    /// The same for servers that have something for those who show no certificate.
    pub(super) open: Arc<ServerConfig>,
    /// Made when they are first needed: a key is checked whenever it is taken up.
    clients: Mutex<Vec<(Role, Arc<ClientConfig>)>>,
}

impl Proof {
    fn new(trust: Trust, credentials: Credentials) -> Result<Self, PkiError> {
        let trust = trust.telling(words::remember);
        let server = Arc::new(trust.server_config(&credentials)?);
        let open = Arc::new(trust.server_config_for_anybody(&credentials)?);
        Ok(Self { trust, credentials, server, open, clients: Mutex::default() })
    }

    pub(super) fn client(&self, expected: Role) -> Result<Arc<ClientConfig>, PkiError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = clients.iter().find(|(role, _)| *role == expected) {
            return Ok(known.clone());
        }
        let made = Arc::new(self.trust.client_config(&self.credentials, expected)?);
        clients.push((expected, made.clone()));
        Ok(made)
    }

    /// When we are to be believed: all of our chain is valid then.
    pub(super) fn valid(&self) -> Validity {
        let own = self.credentials.certificate().validity();
        let links = self.credentials.chain().iter().skip(1);
        let links = links.filter_map(|link| Some(Certificate::parse(link).ok()?.validity()));
        links.fold(own, Validity::and)
    }
}

impl Tls {
    /// Trusts what `trust` says and shows `credentials`.
    ///
    /// # Errors
    /// [`PkiError`] when the credentials can't be used.
    pub fn new(trust: Trust, credentials: Credentials) -> Result<Self, PkiError> {
        Ok(Self::starting_with(Some(Proof::new(trust, credentials)?)))
    }

    pub(super) fn insecure() -> Self {
        Self::starting_with(None)
    }

    fn starting_with(proof: Option<Proof>) -> Self {
        let current = watch::Sender::new(Arc::new(Configured { generation: 0, proof }));
        let shared = Arc::new(Shared { current, generation: AtomicU64::new(0) });
        Self {
            shared,
            machines: MachineIdentity::IfNamed,
            stale: StalePolicy::default(),
            powers: Powers::Used,
        }
    }

    /// The same for a client that wants to be taken for an ordinary user, whatever its certificate lists.
    #[must_use]
    pub fn waiving_powers(self) -> Self {
        Self { powers: Powers::Waived, ..self }
    }

    /// Believes agents only whose certificates name the host that is dialled. Without this, a certificate that names no
    /// host is good for every machine, and who has stolen one machine's may pose as any other.
    #[must_use]
    pub fn require_machine_identity(self) -> Self {
        Self { machines: MachineIdentity::Required, ..self }
    }

    /// What is still allowed when a list of revoked certificates is not current: of others' calls if this is a server, and
    /// of connecting if it is a client, which [`StalePolicy::Closed`] alone forbids.
    #[must_use]
    pub fn when_stale(self, stale: StalePolicy) -> Self {
        Self { stale, ..self }
    }

    pub(super) const fn stale_policy(&self) -> StalePolicy {
        self.stale
    }

    /// Why what has this effect is not allowed at `now`, if it is because nobody knows who was revoked.
    pub(super) fn stale(&self, effect: Effect, now: SystemTime) -> Option<String> {
        match (self.stale, effect) {
            (StalePolicy::Open, _) | (StalePolicy::ClosedForChanges, Effect::Reads) => return None,
            (StalePolicy::ClosedForChanges, Effect::Changes) | (StalePolicy::Closed, _) => {}
        }
        let current = self.current();
        match current.proof.as_ref()?.trust.revocation_standing(now) {
            RevocationStanding::Stale { origin, since } => Some(format!(
                "the list of revoked certificates in {origin} has not been current since {}, so that nobody knows who was revoked since, and by this machine's clock it is {}; put a new list there",
                rfc3339(since),
                rfc3339(now)
            )),
            // Further ones may come; what is known by then is known.
            RevocationStanding::Current | _ => None,
        }
    }

    /// Makes new connections use other trust and credentials, and has those that are open judged again by the new trust,
    /// on both ends: whoever is not believed any more makes no further call from now on, and is disconnected within
    /// seconds. Others don't notice; they see the new credentials when they connect again, which they have to at
    /// [`limits::CONNECTION_AGE`](crate::limits::CONNECTION_AGE).
    ///
    /// # Errors
    /// [`PkiError`] when the credentials can't be used; the ones before stay in force.
    pub fn replace(&self, trust: Trust, credentials: Credentials) -> Result<(), PkiError> {
        let proof = Some(Proof::new(trust, credentials)?);
        self.shared.current.send_modify(|current| {
            let generation = current.generation + 1;
            *current = Arc::new(Configured { generation, proof });
            // Within the lock: generations are published in their order.
            self.shared.generation.store(generation, Ordering::Release);
        });
        Ok(())
    }

    /// Who is at the other end of a connection that somebody else's transport made, from `address`, where `chain` was shown,
    /// leaf first; nobody, if it is empty. Put it among the extensions of each request, before
    /// [`Authorise`](crate::auth::Authorise): it is asked with every call whether it is still good by what is in force.
    ///
    /// # Errors
    /// [`PkiError`] when the certificate is not accepted: don't serve the connection.
    pub fn peer(&self, address: SocketAddr, chain: &[CertificateDer<'_>]) -> Result<Peer, PkiError> {
        if chain.is_empty() && !self.is_insecure() {
            return Ok(Peer::nobody(address));
        }
        Standing::establish(self, Far::Client, chain).map(|standing| Peer::standing(address, standing))
    }

    pub(super) const fn powers(&self) -> Powers {
        self.powers
    }

    /// Which trust is in force: 0, and one more with each [`Tls::replace`].
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Whether nobody has to prove anything.
    pub fn is_insecure(&self) -> bool {
        self.shared.current.borrow().proof.is_none()
    }

    pub(super) const fn machines(&self) -> MachineIdentity {
        self.machines
    }

    /// When those at other ends may believe us: all of the chain that is shown is valid then. Nothing, where nobody has to
    /// prove anything.
    pub fn valid(&self) -> Option<Validity> {
        self.current().proof.as_ref().map(Proof::valid)
    }

    /// Waits until another trust is in force than `seen`, and tells which. Safe to cancel.
    pub async fn renewed(&self, seen: u64) -> u64 {
        let mut replaced = self.shared.current.subscribe();
        // The sender lives in this value, so there is no error.
        let current = replaced.wait_for(|current| current.generation != seen).await;
        current.map_or(seen, |current| current.generation)
    }

    pub(super) fn current(&self) -> Arc<Configured> {
        self.shared.current.borrow().clone()
    }

    /// Hears of every replacement from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Configured>> {
        self.shared.current.subscribe()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

//! Whom we believe, and in what.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dominator_core::authorise::{Identity, Role};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, DistinguishedName, Error, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::Certificate;
use crate::credentials::{Credentials, MAX_CHAIN, certificates};
use crate::error::{BadCertificate, Origin, PkiError};
use crate::verify::{ClientVerifier, ServerVerifier};

/// The most authorities in one file.
pub const MAX_AUTHORITIES: usize = 256;
/// The protocol both ends agree on: gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// The authorities in force.
///
/// *Authorities* (`CA.pem`) are believed in everything: who a caller is, which methods it may call, and which role a
/// server plays. *Identity authorities* (`IdentityCA.pem`) are believed in who a client is, and in its groups.
///
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Pools>);

#[derive(Clone, Debug)]
struct Pools {
    authorities: Arc<RootCertStore>,
    full: Arc<dyn ClientCertVerifier>,
    identity_only: Option<Arc<dyn ClientCertVerifier>>,
    /// Public keys of the identity authorities.
    identity_keys: HashSet<Vec<u8>>,
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
}

/// What a verified chain is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    Everything,
    IdentityOnly,
}

impl Trust {
    /// Trusts `authorities` in everything and `identity_authorities`, which may be empty, in identity only.
    ///
    /// Authorities may be X.509 version 1, as `openssl x509 -req` makes them.
    ///
    /// # Errors
    /// [`PkiError::BadAuthority`], [`PkiError::BadCertificate`]; [`PkiError::NoCertificate`] when `authorities` is empty.
    pub fn new(
        authorities: Vec<CertificateDer<'static>>,
        identity_authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, PkiError> {
        let sources = [(authorities, Origin::Memory), (identity_authorities, Origin::Memory)];
        Self::from_sources(sources)
    }

    /// The same from PEM files' contents.
    ///
    /// # Errors
    /// As [`Self::new`], and [`PkiError::NotPem`]. An identity file without certificates is an error.
    pub fn from_pem(authorities: &[u8], identity_authorities: Option<&[u8]>) -> Result<Self, PkiError> {
        Self::from_pem_of(
            (authorities, &Origin::Memory),
            identity_authorities.map(|pem| (pem, &Origin::Memory)),
        )
    }

    pub(crate) fn from_pem_of(
        authorities: (&[u8], &Origin),
        identity: Option<(&[u8], &Origin)>,
    ) -> Result<Self, PkiError> {
        let read = |(pem, origin): (&[u8], &Origin)| {
            certificates(pem, MAX_AUTHORITIES, origin).map(|found| (found, origin.clone()))
        };
        let identity = identity.map(read).transpose()?;
        Self::from_sources([read(authorities)?, identity.unwrap_or_else(|| (Vec::new(), Origin::Memory))])
    }

    fn from_sources(
        [(authorities, origin), (identity, identity_origin)]: [(Vec<CertificateDer<'static>>, Origin); 2],
    ) -> Result<Self, PkiError> {
        if authorities.is_empty() {
            return Err(PkiError::NoCertificate { origin });
        }
        let provider = Arc::new(ring::default_provider());
        let identity_keys =
            identity.iter().map(|der| public_key(der, &identity_origin)).collect::<Result<_, _>>()?;
        let roots = anchors(authorities, &origin)?;
        let identity_roots = anchors(identity, &identity_origin)?;
        let subjects = roots.subjects().into_iter().chain(identity_roots.subjects()).collect();
        let full = pool(&roots, &provider, &origin)?;
        let identity_only = match identity_roots.is_empty() {
            true => None,
            false => Some(pool(&identity_roots, &provider, &identity_origin)?),
        };
        let clock = Arc::new(DefaultTimeProvider);
        Ok(Self(Arc::new(Pools {
            authorities: roots,
            full,
            identity_only,
            identity_keys,
            subjects,
            provider,
            clock,
        })))
    }

    /// Judges handshakes by `clock` instead of the system's clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn TimeProvider>) -> Self {
        Self(Arc::new(Pools { clock, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// TLS for a server: every client must present a certificate of either kind of authority.
    ///
    /// Chains that do not verify are refused with rustls's own error and the fitting alert, so that the far end learns
    /// whether its certificate has expired or is unknown.
    ///
    /// # Errors
    /// [`PkiError::Configuration`] when rustls does not take the credentials.
    pub fn server_config(&self, own: &Credentials) -> Result<ServerConfig, PkiError> {
        let pools = &self.0;
        let mut config = ServerConfig::builder_with_details(pools.provider.clone(), pools.clock.clone())
            .with_safe_default_protocol_versions()
            .map_err(configuration)?
            .with_client_cert_verifier(Arc::new(ClientVerifier::new(self.clone())))
            .with_single_cert(own.chain().to_vec(), own.key())
            .map_err(configuration)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session carries the identity of its first handshake past the certificate's expiry and past a change
        // of the authorities. Connections here live long; a full handshake each is cheap.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// TLS for a client of a server that must play `expected`.
    ///
    /// The server's certificate must be signed by one of the *authorities*: an identity authority certifies people, not
    /// servers. When it names hosts or addresses, the dialled name must be among them; otherwise the dialled name is not
    /// looked at, and the role alone says what the server is.
    ///
    /// # Errors
    /// [`PkiError::Configuration`] when rustls does not take the credentials.
    pub fn client_config(&self, own: &Credentials, expected: Role) -> Result<ClientConfig, PkiError> {
        let pools = &self.0;
        let verifier = Arc::new(ServerVerifier::new(self.clone(), expected));
        let mut config = ClientConfig::builder_with_details(pools.provider.clone(), pools.clock.clone())
            .with_safe_default_protocol_versions()
            .map_err(configuration)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(own.chain().to_vec(), own.key())
            .map_err(configuration)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the check of the role.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Says who is behind `chain`, leaf first as the peer sent it, at time `now`.
    ///
    /// Only the leaf speaks. Its methods and its role count when one of the *authorities* stands behind it by
    /// signature; behind an identity authority both are empty. Signatures are verified anew: call it once a connection.
    ///
    /// # Errors
    /// [`PkiError::NoPeerCertificate`], [`PkiError::Untrusted`], [`PkiError::VersionOne`], [`PkiError::BadCertificate`],
    /// [`PkiError::ChainTooLong`].
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Identity, PkiError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PkiError::NoPeerCertificate)?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.identify_at(leaf, intermediates, UnixTime::since_unix_epoch(since))
    }

    pub(crate) fn identify_at(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, PkiError> {
        let claimed = read_leaf(leaf, intermediates)?;
        let identity = claimed.unverified_claims().clone();
        match self.grant(leaf, intermediates, now) {
            Ok(Grant::Everything) => Ok(identity),
            Ok(Grant::IdentityOnly) => Ok(Identity { methods: Vec::new(), role: None, ..identity }),
            Err(source) => Err(PkiError::Untrusted { user: identity.user, source }),
        }
    }

    fn grant(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Grant, Error> {
        let links = self.full_links(intermediates);
        let refused = match self.0.full.verify_client_cert(leaf, &links, now) {
            Ok(_) => return Ok(Grant::Everything),
            Err(error) => error,
        };
        match &self.0.identity_only {
            Some(pool) if pool.verify_client_cert(leaf, intermediates, now).is_ok() => {
                Ok(Grant::IdentityOnly)
            }
            _ => Err(refused),
        }
    }

    /// The intermediates that may link a leaf to the *authorities*.
    ///
    /// An identity authority is often itself signed by the root. Whoever presents that certificate along with his own
    /// must not get everything by it, so it is never a link, whatever certificate its key has.
    pub(crate) fn full_links<'a>(&self, intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
        let allowed = |der: &&CertificateDer<'a>| {
            public_key(der, &Origin::Peer).is_ok_and(|key| !self.0.identity_keys.contains(&key))
        };
        intermediates.iter().filter(allowed).cloned().collect()
    }

    pub(crate) fn authorities(&self) -> &RootCertStore {
        &self.0.authorities
    }

    pub(crate) fn subjects(&self) -> &[DistinguishedName] {
        &self.0.subjects
    }

    pub(crate) fn provider(&self) -> &CryptoProvider {
        &self.0.provider
    }
}

/// Reads the leaf of a peer's chain and bounds the chain.
pub(crate) fn read_leaf(leaf: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<Certificate, PkiError> {
    let count = intermediates.len() + 1;
    if count > MAX_CHAIN {
        return Err(PkiError::ChainTooLong { count, limit: MAX_CHAIN });
    }
    let origin = Origin::Peer;
    let leaf = Certificate::parse(leaf).map_err(|source| PkiError::BadCertificate { origin, source })?;
    leaf.require_version_three(Origin::Peer)?;
    Ok(leaf)
}

fn anchors(
    authorities: Vec<CertificateDer<'static>>,
    origin: &Origin,
) -> Result<Arc<RootCertStore>, PkiError> {
    let mut store = RootCertStore::empty();
    for der in authorities {
        store.add(der).map_err(|source| PkiError::BadAuthority { origin: origin.clone(), source })?;
    }
    Ok(Arc::new(store))
}

fn pool(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    origin: &Origin,
) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(|error| {
        PkiError::BadAuthority { origin: origin.clone(), source: Error::General(error.to_string()) }
    })
}

fn public_key(der: &[u8], origin: &Origin) -> Result<Vec<u8>, PkiError> {
    let parsed = X509Certificate::from_der(der).map_err(|error| PkiError::BadCertificate {
        origin: origin.clone(),
        source: BadCertificate::NotDer(error.to_string()),
    })?;
    Ok(parsed.1.public_key().raw.to_vec())
}

fn configuration(source: Error) -> PkiError {
    PkiError::Configuration { source }
}

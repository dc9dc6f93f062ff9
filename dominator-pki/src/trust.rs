//! Whom we believe, and in what.

mod anchors;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::auth::Role;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, ClientConfig, DistinguishedName, Error, RootCertStore, ServerConfig};
use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use anchors::{anchors, check_unmarked, is_link, public_key};

use crate::certificate::{Certificate, Validity};
use crate::credentials::{Credentials, MAX_CHAIN, sections};
use crate::error::{Origin, PkiError};
use crate::handover::{Handover, Question};
use crate::path::{Found, NoPath, Usage, Ways};
use crate::revocation::{Revocation, RevocationStanding, RevokedBy};
use crate::signed::Signer;
use crate::verified::{AuthorityKey, Granted, Verified};
use crate::verify::{ClientVerifier, Clients, ServerVerifier};

/// The most authorities in one file.
pub const MAX_AUTHORITIES: usize = 256;
/// The protocol both ends agree on: gRPC is HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

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
    identity_authorities: Arc<RootCertStore>,
    /// Public keys of the identity authorities, and of those there were before.
    identity_keys: HashSet<Vec<u8>>,
    subjects: Vec<DistinguishedName>,
    /// Both kinds of authorities, as signers of lists of revoked certificates.
    signers: Vec<Signer>,
    /// The subjects of both kinds, for people, with their times.
    valid: Vec<(String, Validity)>,
    revocation: Revocation,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
    /// Hears why clients are refused.
    told: fn(&PkiError),
    handover: Handover,
}

impl Trust {
    /// Trusts `authorities` in everything and `identity_authorities`, which may be empty, in identity only.
    ///
    /// Authorities may be X.509 version 1, as `openssl x509 -req` makes them.
    ///
    /// # Errors
    /// [`PkiError::BadAuthority`], [`PkiError::BadCertificate`]; [`PkiError::NoCertificate`] when `authorities` is empty,
    /// [`PkiError::IdentityAuthority`] when one of them is marked as no more than an identity authority.
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
            let found = sections(pem, MAX_AUTHORITIES, origin)?.into_iter();
            let found: Vec<_> = found
                .filter(|(kind, _)| *kind == SectionKind::Certificate)
                .map(|(_, der)| der.into())
                .collect();
            match found.is_empty() {
                true => Err(PkiError::NoCertificate { origin: origin.clone() }),
                false => Ok((found, origin.clone())),
            }
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
        let signers = authorities.iter().chain(&identity).filter_map(|der| Signer::root(der)).collect();
        let identity_keys =
            identity.iter().map(|der| public_key(der, &identity_origin)).collect::<Result<_, _>>()?;
        let valid = authorities.iter().chain(&identity).filter_map(|der| Validity::of_subject(der)).collect();
        let roots = anchors(authorities.clone(), &origin)?;
        check_unmarked(&authorities, &identity, &origin)?;
        let identity_roots = anchors(identity, &identity_origin)?;
        let subjects = roots.subjects().into_iter().chain(identity_roots.subjects()).collect();
        Ok(Self(Arc::new(Pools {
            authorities: roots,
            identity_authorities: identity_roots,
            identity_keys,
            subjects,
            signers,
            valid,
            revocation: Revocation::default(),
            provider,
            clock: Arc::new(DefaultTimeProvider),
            told: |_| (),
            handover: Handover::default(),
        })))
    }

    /// Judges handshakes by `clock` instead of the system's clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn TimeProvider>) -> Self {
        self.changed(|pools| pools.clock = clock)
    }

    /// Tells `told`, within the handshake, why a client's chain is refused: rustls's error says neither whose it was nor who
    /// took it back.
    #[must_use]
    pub fn telling(self, told: fn(&PkiError)) -> Self {
        self.changed(|pools| pools.told = told)
    }

    pub(crate) fn tell(&self, refused: &PkiError) {
        (self.0.told)(refused);
    }

    /// Believes nobody whom `revocation` takes back, whoever stands behind him.
    #[must_use]
    pub fn with_revocation(self, revocation: Revocation) -> Self {
        self.changed(|pools| pools.revocation = revocation)
    }

    /// The authorities of both kinds by their subjects, with their times. These are for warnings: nobody is refused because
    /// an authority's time is over.
    pub fn authorities_valid(&self) -> &[(String, Validity)] {
        &self.0.valid
    }

    /// Takes the identity authorities of `before` for links to the *authorities* as little as its own: one whose file was
    /// mislaid, or is being replaced, must not be believed in everything by that.
    pub(crate) fn keeping_apart(self, before: &Self) -> Self {
        self.changed(|pools| pools.identity_keys.extend(before.0.identity_keys.iter().cloned()))
    }

    /// Another trust; what handshakes found out under this one is forgotten.
    fn changed(self, change: impl FnOnce(&mut Pools)) -> Self {
        let mut pools = Pools { handover: Handover::default(), ..Arc::unwrap_or_clone(self.0) };
        change(&mut pools);
        Self(Arc::new(pools))
    }

    /// Who is not believed any more.
    pub fn revocation(&self) -> &Revocation {
        &self.0.revocation
    }

    /// Whether everything that may have been revoked by `now` is known. If it is not, [`StalePolicy`] says what is still
    /// allowed.
    ///
    /// [`StalePolicy`]: crate::StalePolicy
    pub fn revocation_standing(&self, now: SystemTime) -> RevocationStanding {
        self.0.revocation.standing(now)
    }

    /// TLS for a server: every client must present a certificate of either kind of authority.
    ///
    /// Chains that do not verify are refused with rustls's own error and the fitting alert, so that the far end learns
    /// whether its certificate has expired or is unknown.
    ///
    /// # Errors
    /// [`PkiError::Configuration`] when rustls does not take the credentials.
    pub fn server_config(&self, own: &Credentials) -> Result<ServerConfig, PkiError> {
        self.server_config_for(own, Clients::Known)
    }

    /// The same, but clients that present no certificate are let in as well: nobody knows who they are. Only for servers
    /// that have something for everybody.
    ///
    /// # Errors
    /// As [`Self::server_config`].
    pub fn server_config_for_anybody(&self, own: &Credentials) -> Result<ServerConfig, PkiError> {
        self.server_config_for(own, Clients::Anybody)
    }

    fn server_config_for(&self, own: &Credentials, clients: Clients) -> Result<ServerConfig, PkiError> {
        let pools = &self.0;
        let mut config = ServerConfig::builder_with_details(pools.provider.clone(), pools.clock.clone())
            .with_safe_default_protocol_versions()
            .map_err(configuration)?
            .with_client_cert_verifier(Arc::new(ClientVerifier::new(self.clone(), clients)))
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

    /// Says who calls with `chain`, leaf first as the peer sent it, at time `now`.
    ///
    /// Only the leaf speaks. Its methods and its role count when one of the *authorities* stands behind it by
    /// signature; behind an identity authority both are empty. Signatures are verified anew, unless a handshake has just
    /// done so: call it once a connection, and again when trust has changed.
    ///
    /// # Errors
    /// [`PkiError::NoPeerCertificate`], [`PkiError::Untrusted`], [`PkiError::Untimely`], [`PkiError::Revoked`],
    /// [`PkiError::VersionOne`], [`PkiError::BadCertificate`], [`PkiError::ChainTooLong`].
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Verified, PkiError> {
        let (leaf, links) = chain.split_first().ok_or(PkiError::NoPeerCertificate)?;
        match self.handed_over(&of_client(leaf, links), now) {
            Some(found) => Ok(found),
            None => self.client(leaf, links, unix_time(now)),
        }
    }

    /// Says which server is behind `chain`, which must play `expected` and, if it names hosts, be named `name`: what a
    /// client verifies in a handshake, for connections that stand already.
    ///
    /// # Errors
    /// As [`Self::identify`], and [`PkiError::WrongRole`].
    pub fn recognise(
        &self,
        chain: &[CertificateDer<'_>],
        expected: Role,
        name: &ServerName<'_>,
        now: SystemTime,
    ) -> Result<Verified, PkiError> {
        let (leaf, links) = chain.split_first().ok_or(PkiError::NoPeerCertificate)?;
        match self.handed_over(&of_server(leaf, links, expected, name), now) {
            Some(found) => Ok(found),
            None => self.server(leaf, links, expected, name, unix_time(now)),
        }
    }

    /// What a handshake has just found, if it holds at `now`.
    fn handed_over(&self, question: &Question, now: SystemTime) -> Option<Verified> {
        self.0.handover.take(question).filter(|found| found.valid().contains(now))
    }

    /// Who calls, for a handshake; [`Self::identify`] hands it on.
    pub(crate) fn shake_client(
        &self,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PkiError> {
        let found = self.client(leaf, links, now)?;
        self.0.handover.put(of_client(leaf, links), found);
        Ok(())
    }

    /// Which server it is, for a handshake; [`Self::recognise`] hands it on.
    pub(crate) fn shake_server(
        &self,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        expected: Role,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), PkiError> {
        let found = self.server(leaf, links, expected, name, now)?;
        self.0.handover.put(of_server(leaf, links, expected, name), found);
        Ok(())
    }

    pub(crate) fn client(
        &self,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, PkiError> {
        let leaf = read_leaf(leaf, links)?;
        let refused = match self.full(&leaf, links, Usage::Client, now) {
            Ok(found) => return Ok(Verified::new(&leaf, Granted::Everything, found.issuer, &found.between)),
            Err(refused) => refused,
        };
        match self.verify(&self.0.identity_authorities, &leaf, links, Usage::Client, now) {
            Ok(found) => Ok(Verified::new(&leaf, Granted::IdentityOnly, found.issuer, &found.between)),
            // Which of the two is meant shows in who knows the issuer.
            Err(identity) if is_unknown(&refused) => Err(explain(&leaf, links, now, identity)),
            Err(_) => Err(explain(&leaf, links, now, refused)),
        }
    }

    pub(crate) fn server(
        &self,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        expected: Role,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Verified, PkiError> {
        let leaf = read_leaf(leaf, links)?;
        let found = self
            .full(&leaf, links, Usage::Server, now)
            .map_err(|refused| explain(&leaf, links, now, refused))?;
        let claims = leaf.unverified_claims();
        let user = claims.user.clone();
        if claims.role != Some(expected) {
            return Err(PkiError::WrongRole { expected, found: claims.role, user });
        }
        if leaf.names_a_host() {
            let named = ParsedCertificate::try_from(leaf.der());
            let named = named.and_then(|parsed| verify_server_name(&parsed, name));
            named.map_err(|source| PkiError::Untrusted { user, source })?;
        }
        Ok(Verified::new(&leaf, Granted::Everything, found.issuer, &found.between))
    }

    /// Verifies against the *authorities*.
    ///
    /// An identity authority is often itself signed by the root. Whoever presents that certificate along with his own
    /// must not get everything by it, so it is never a link, whatever certificate its key has. Where nobody said which keys
    /// are identity authorities', their own certificates' mark does.
    fn full(&self, leaf: &Certificate, links: &[CertificateDer<'_>], usage: Usage, now: UnixTime) -> Verdict {
        let links: Vec<_> = links.iter().filter(|der| is_link(der, &self.0.identity_keys)).cloned().collect();
        self.verify(&self.0.authorities, leaf, &links, usage, now)
    }

    fn verify(
        &self,
        authorities: &RootCertStore,
        leaf: &Certificate,
        links: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Verdict {
        let algorithms = self.provider().signature_verification_algorithms.all;
        let ways = Ways { anchors: &authorities.roots, links, algorithms };
        ways.verify(leaf.der(), usage, now, |path| self.0.revocation.judge(leaf.unverified_claims(), path))
    }

    /// Whoever may sign lists of revoked certificates: the authorities of both kinds, and those of `links` that they have
    /// signed.
    pub(crate) fn signers(&self, links: &[CertificateDer<'_>]) -> Vec<Signer> {
        Signer::below(&self.0.signers, links, self.provider().signature_verification_algorithms.all)
    }

    /// Whether an authority of either kind has this key.
    pub(crate) fn has_authority(&self, key: AuthorityKey) -> bool {
        self.0.signers.iter().any(|signer| signer.root == key)
    }

    pub(crate) fn subjects(&self) -> &[DistinguishedName] {
        &self.0.subjects
    }

    pub(crate) fn provider(&self) -> &CryptoProvider {
        &self.0.provider
    }
}

type Verdict = Result<Found, NoPath<RevokedBy>>;

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

/// What is asked about whoever calls.
fn of_client(leaf: &CertificateDer<'_>, links: &[CertificateDer<'_>]) -> Question {
    Question::new(b"client", leaf, links.iter().map(AsRef::as_ref))
}

/// What is asked about a server.
fn of_server(
    leaf: &CertificateDer<'_>,
    links: &[CertificateDer<'_>],
    expected: Role,
    name: &ServerName<'_>,
) -> Question {
    let what = format!("server {} {}", expected.name(), name.to_str());
    Question::new(what.as_bytes(), leaf, links.iter().map(AsRef::as_ref))
}

fn is_unknown(refused: &NoPath<RevokedBy>) -> bool {
    matches!(refused, NoPath::Unverified(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// Why a chain is refused, in words that name who claims to be behind it.
fn explain(
    leaf: &Certificate,
    links: &[CertificateDer<'_>],
    now: UnixTime,
    refused: NoPath<RevokedBy>,
) -> PkiError {
    let user = leaf.unverified_claims().user.clone();
    let source = match refused {
        NoPath::Unverified(source) => source,
        NoPath::Unfit(RevokedBy { serial, by }) => return PkiError::Revoked { user, serial, by },
    };
    let untimely = matches!(
        source,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    );
    if !untimely {
        return PkiError::Untrusted { user, source };
    }
    let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let between = links.iter().filter_map(|link| Validity::of(link).ok());
    let times = [leaf.validity()].into_iter().chain(between).find(|valid| !valid.contains(now));
    let (valid, source) = (times.unwrap_or_else(|| leaf.validity()), Box::new(source));
    PkiError::Untimely { user, now, valid, source }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn configuration(source: Error) -> PkiError {
    PkiError::Configuration { source }
}

//! Who gets in, who is believed, and as what: real handshakes, in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::{Identity, Role};
use dominator_pki::ca::Authority;
use dominator_pki::{
    AlternativeName, Credentials, DenyList, METHODS_OID, Origin, PkiError, ROLE_URI, Revocation, Trust,
    refusal,
};
use rcgen::SanType;
use rustls::crypto::ring;
use rustls::{
    CertificateError, ClientConfig, Error, HandshakeKind, ServerConfig, server::WebPkiClientVerifier,
};
use support::*;

const ALL_METHODS: &[u8] = b"\x30\x05\x0c\x03*.*";

/// A fleet: a root, an identity authority, and the two ends of a connection.
struct Fleet {
    root: Authority,
    people: Authority,
    trust: Trust,
    subd: Credentials,
    imageserver: Credentials,
}

fn fleet() -> Fleet {
    let (root, people) = (authority("Dominator"), authority("People"));
    let trust =
        Trust::new(vec![root.certificate_der().clone()], vec![people.certificate_der().clone()]).unwrap();
    let subd = issue(&root, &leaf("subd").methods(methods("ObjectServer.GetObjects")).groups(["machines"]));
    let imageserver = issue(&root, &leaf("imageserver"));
    Fleet { root, people, trust, subd, imageserver }
}

impl Fleet {
    fn server(&self) -> ServerConfig {
        self.trust.server_config(&self.imageserver).unwrap()
    }

    fn client(&self) -> ClientConfig {
        self.trust.client_config(&self.subd, Role::ImageServer).unwrap()
    }

    /// A client that believes any server of `self` but proves itself with `forged`.
    fn client_with(&self, forged: &Forged) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.certificate_der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(forged.chain.clone(), forged.key_der())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// What the server makes of a client with `forged`, whose own verification needs a server with a name.
    fn visit(&self, forged: &Forged) -> Result<Identity, Error> {
        let named = leaf("imageserver").alternative_names([AlternativeName::Dns("images".into())]);
        let server = self.trust.server_config(&issue(&self.root, &named)).unwrap();
        let connection = handshake(server, self.client_with(forged), "images").server?;
        Ok(self
            .trust
            .identify(connection.peer_certificates().unwrap(), SystemTime::now())
            .unwrap()
            .identity()
            .clone())
    }

    /// A server that lets everybody in who has any certificate of the root, and proves itself with `forged`.
    fn impostor(&self, forged: &Forged) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.certificate_der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(forged.chain.clone(), forged.key_der())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// What a client that wants an image server makes of a server with `forged`.
    fn disbelieve(&self, forged: &Forged) -> Error {
        handshake(self.impostor(forged), self.client(), "images").refused_by_client()
    }
}

#[test]
fn both_ends_prove_themselves_and_the_server_learns_who_calls() {
    let fleet = fleet();
    let (mut client, mut server) = handshake(fleet.server(), fleet.client(), "any.name").accepted();
    converse(&mut client, &mut server);
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    let verified = fleet.trust.identify(server.peer_certificates().unwrap(), SystemTime::now()).unwrap();
    let identity = verified.identity().clone();
    assert_eq!((identity.user.as_str(), identity.role), ("subd", Some(Role::Subd)));
    assert_eq!(identity.groups, groups(&["machines"]));
    assert_eq!(texts(&identity.methods), ["ObjectServer.GetObjects"]);
}

#[test]
fn what_a_handshake_found_is_no_answer_to_another_question() {
    let fleet = fleet();
    let now = SystemTime::now();
    let shaken = || handshake(fleet.server(), fleet.client(), "any.name").accepted();
    let (client, server) = shaken();
    let (images, caller) = (client.peer_certificates().unwrap(), server.peer_certificates().unwrap());
    let name = "any.name".try_into().unwrap();
    let recognise = |role, now| fleet.trust.recognise(images, role, &name, now);
    // In another role, after its time, and as a client.
    let posing = recognise(Role::Dominator, now);
    assert!(matches!(posing, Err(PkiError::WrongRole { .. })), "{posing:?}");
    let late = now + Duration::from_secs(100 * 365 * 86_400);
    assert!(recognise(Role::ImageServer, late).is_err());
    assert!(fleet.trust.identify(caller, late).is_err());
    // Under the trust that takes it back.
    drop(shaken());
    let denied = DenyList::parse(b"user subd\n", &Origin::Memory).unwrap();
    let mut revocation = Revocation::default();
    revocation.deny(denied);
    let trust = fleet.trust.clone().with_revocation(revocation);
    let revoked = trust.identify(caller, now);
    assert!(matches!(revoked, Err(PkiError::Revoked { .. })), "{revoked:?}");
    assert!(fleet.trust.identify(caller, now).is_ok() && recognise(Role::ImageServer, now).is_ok());
}

#[test]
fn what_a_handshake_found_is_forgotten_by_a_trust_that_changes() {
    let Fleet { trust, imageserver, subd, .. } = fleet();
    let caller = {
        let server = trust.server_config(&imageserver).unwrap();
        let client = trust.client_config(&subd, Role::ImageServer).unwrap();
        let (_, server) = handshake(server, client, "any.name").accepted();
        server.peer_certificates().unwrap().to_vec()
    };
    let mut revocation = Revocation::default();
    revocation.deny(DenyList::parse(b"user subd\n", &Origin::Memory).unwrap());
    // Nobody else has this trust any more: it is changed in place.
    let revoked = trust.with_revocation(revocation).identify(&caller, SystemTime::now());
    assert!(matches!(revoked, Err(PkiError::Revoked { .. })), "{revoked:?}");
}

#[test]
fn tls_1_2_peers_are_held_to_the_same() {
    let fleet = fleet();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.root.certificate_der().clone()).unwrap();
    let old = |forged: &Forged| {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(forged.chain.clone(), forged.key_der())
            .unwrap()
    };
    let named = leaf("imageserver").alternative_names([AlternativeName::Dns("images".into())]);
    let server = || fleet.trust.server_config(&issue(&fleet.root, &named)).unwrap();
    let good = forge(&params("alice"), &issuer(&fleet.root));
    let (_, accepted) = handshake(server(), old(&good), "images").accepted();
    assert_eq!(accepted.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let rogue = forge(&params("alice"), &issuer(&authority("Dominator")));
    handshake(server(), old(&rogue), "images").refused_by_server();
}

#[test]
fn no_session_is_resumed_past_the_checks() {
    let fleet = fleet();
    let (server, client) = (Arc::new(fleet.server()), Arc::new(fleet.client()));
    for _ in 0..3 {
        let (mut at_client, mut at_server) = handshake_shared(&server, &client, "images").accepted();
        converse(&mut at_client, &mut at_server);
        assert_eq!(at_client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(at_server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_client_that_would_resume_cannot() {
    let fleet = fleet();
    let named = leaf("imageserver").alternative_names([AlternativeName::Dns("images".into())]);
    let server = Arc::new(fleet.trust.server_config(&issue(&fleet.root, &named)).unwrap());
    let client = Arc::new(fleet.client_with(&forge(&params("alice"), &issuer(&fleet.root))));
    for _ in 0..2 {
        let (mut at_client, mut at_server) = handshake_shared(&server, &client, "images").accepted();
        converse(&mut at_client, &mut at_server);
        assert_eq!(at_server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_server_that_would_resume_is_checked_anew() {
    let fleet = fleet();
    let server = Arc::new(fleet.impostor(&forge(&params("imageserver"), &issuer(&fleet.root))));
    let client = Arc::new(fleet.client());
    for _ in 0..2 {
        let (mut at_client, mut at_server) = handshake_shared(&server, &client, "images").accepted();
        converse(&mut at_client, &mut at_server);
        assert_eq!(at_client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_user_whose_identity_has_expired_is_told_so() {
    let fleet = fleet();
    let mut expired = params("alice");
    (expired.not_before, expired.not_after) =
        ((SystemTime::now() - 2 * DAY).into(), (SystemTime::now() - DAY).into());
    let error = fleet.visit(&forge(&expired, &issuer(&fleet.people))).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let fleet = fleet();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.root.certificate_der().clone()).unwrap();
    let named = leaf("imageserver").alternative_names([AlternativeName::Dns("images".into())]);
    let server = fleet.trust.server_config(&issue(&fleet.root, &named)).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(handshake(server, client, "images").refused_by_server(), Error::NoCertificatesPresented);
    assert!(matches!(fleet.trust.identify(&[], SystemTime::now()), Err(PkiError::NoPeerCertificate)));
}

#[test]
fn clients_that_prove_nothing_are_refused() {
    let fleet = fleet();
    let root = issuer(&fleet.root);
    let claim = |user: &str| {
        let mut claim = params(user);
        claim.custom_extensions = vec![extension(METHODS_OID, ALL_METHODS)];
        claim
    };
    let unknown = |error: &Error| matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer));
    let bad_signature = |error: &Error| {
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::BadSignature | CertificateError::UnknownIssuer)
        )
    };

    let rogue = forge(&claim("root"), &issuer(&authority("Dominator")));
    let error = fleet.visit(&rogue).unwrap_err();
    assert!(bad_signature(&error), "a rogue authority of the same name: {error:?}");

    let stranger = forge(&claim("root"), &issuer(&authority("Somebody")));
    assert!(unknown(&fleet.visit(&stranger).unwrap_err()));

    let key = rcgen::KeyPair::generate().unwrap();
    let own = claim("root").self_signed(&key).unwrap().der().clone();
    assert!(unknown(&fleet.visit(&Forged { chain: vec![own], key }).unwrap_err()), "self-signed");

    let mut expired = claim("alice");
    (expired.not_before, expired.not_after) =
        ((SystemTime::now() - 2 * DAY).into(), (SystemTime::now() - DAY).into());
    let error = fleet.visit(&forge(&expired, &root)).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");

    let mut early = claim("alice");
    (early.not_before, early.not_after) =
        ((SystemTime::now() + DAY).into(), (SystemTime::now() + 2 * DAY).into());
    let error = fleet.visit(&forge(&early, &root)).unwrap_err();
    assert!(
        matches!(error, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })),
        "{error:?}"
    );

    let error = fleet.visit(&forge(&claim(""), &root)).unwrap_err();
    assert!(matches!(refusal(&error), Some(PkiError::BadCertificate { .. })), "an empty name: {error:?}");
}

#[test]
fn an_identity_authority_vouches_for_a_name_and_groups_and_nothing_else() {
    let fleet = fleet();
    let claims = leaf("dominator").methods(methods("*.*")).groups(["admins"]).role(Role::Dominator);
    let caller = issue(&fleet.people, &claims);
    let client = fleet.trust.client_config(&caller, Role::ImageServer).unwrap();
    let (_, server) = handshake(fleet.server(), client, "images").accepted();
    let verified = fleet.trust.identify(server.peer_certificates().unwrap(), SystemTime::now()).unwrap();
    let identity = verified.identity().clone();
    assert_eq!(identity.user, "dominator");
    assert_eq!(identity.groups, groups(&["admins"]));
    assert_eq!((identity.methods, identity.role), (vec![], None));
}

#[test]
fn an_identity_authority_signed_by_the_root_gains_nothing_by_it() {
    let fleet = fleet();
    let people = issuer(&fleet.people);
    let cross = ca_params("People").signed_by(people.key(), &issuer(&fleet.root)).unwrap();
    let mut caller = params("dominator");
    caller.custom_extensions = vec![extension(METHODS_OID, ALL_METHODS)];
    let mut forged = forge(&caller, &people);
    forged.chain.push(cross.der().clone());
    let identity = fleet.visit(&forged).unwrap();
    assert_eq!((identity.user.as_str(), identity.methods, identity.role), ("dominator", vec![], None));

    let mut server = forge(&params("imageserver"), &people);
    server.chain.push(cross.der().clone());
    let error = fleet.disbelieve(&server);
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer)), "{error:?}");
}

#[test]
fn one_authority_in_both_files_is_believed_in_everything() {
    let root = authority("Dominator");
    let both = vec![root.certificate_der().clone()];
    let trust = Trust::new(both.clone(), both).unwrap();
    let caller = issue(&root, &leaf("alice").methods(methods("Subd.*")));
    assert_eq!(
        texts(&trust.identify(caller.chain(), SystemTime::now()).unwrap().identity().methods),
        ["Subd.*"]
    );
}

#[test]
fn only_the_leaf_speaks_whatever_its_intermediates_list() {
    let fleet = fleet();
    let mut powerful = ca_params("subd");
    powerful.custom_extensions = vec![extension(METHODS_OID, ALL_METHODS)];
    let key = rcgen::KeyPair::generate().unwrap();
    let middle = powerful.signed_by(&key, &issuer(&fleet.root)).unwrap();
    let middle_issuer = rcgen::Issuer::from_ca_cert_der(middle.der(), key).unwrap();
    let mut forged = forge(&params("alice"), &middle_issuer);
    forged.chain.push(middle.der().clone());
    let identity = fleet.visit(&forged).unwrap();
    assert_eq!((identity.user.as_str(), identity.methods, identity.role), ("alice", vec![], None));
}

#[test]
fn a_leaf_is_no_authority() {
    let fleet = fleet();
    let middle = forge(&params("alice"), &issuer(&fleet.root));
    let alice = rcgen::Issuer::from_ca_cert_der(&middle.chain[0], middle.key).unwrap();
    let mut forged = forge(&params("bob"), &alice);
    forged.chain.push(middle.chain[0].clone());
    fleet.visit(&forged).unwrap_err();
}

#[test]
fn endless_chains_are_not_looked_at() {
    let fleet = fleet();
    let chain = vec![fleet.subd.chain()[0].clone(); 9];
    let error = fleet.trust.identify(&chain, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::ChainTooLong { count: 9, .. }), "{error}");
}

#[test]
fn a_version_1_leaf_is_refused_in_words_that_help() {
    let fleet = fleet();
    let root = issuer(&fleet.root);
    let leaf = forge(&params("imageserver"), &root);
    let old = version_one(&leaf.chain[0], root.key());
    let error = fleet.trust.identify(std::slice::from_ref(&old), SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::VersionOne { .. }), "{error}");
    assert!(error.to_string().contains("issue it again with make-cert"), "{error}");
    let (chain, key) = (pem("CERTIFICATE", &old), leaf.key.serialize_pem());
    let error = Credentials::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(error, PkiError::VersionOne { .. }), "{error}");
}

#[test]
fn a_server_of_another_role_is_not_believed() {
    let fleet = fleet();
    for (user, found) in [("subd", Some(Role::Subd)), ("alice", None)] {
        let wrong = fleet.trust.server_config(&issue(&fleet.root, &leaf(user))).unwrap();
        let error = handshake(wrong, fleet.client(), "images").refused_by_client();
        let Some(PkiError::WrongRole { expected, found: seen, .. }) = refusal(&error) else {
            panic!("{error}")
        };
        assert_eq!((*expected, *seen), (Role::ImageServer, found));
    }
    let subd = fleet.trust.server_config(&fleet.subd).unwrap();
    let text = refusal(&handshake(subd, fleet.client(), "images").refused_by_client()).unwrap().to_string();
    assert!(text.contains("plays subd") && text.contains("imageserver was expected"), "{text}");
}

#[test]
fn the_role_in_the_certificate_goes_before_the_user_name() {
    let fleet = fleet();
    let server =
        fleet.trust.server_config(&issue(&fleet.root, &leaf("host-7").role(Role::ImageServer))).unwrap();
    handshake(server, fleet.client(), "images").accepted();
    let mut newer = params("imageserver");
    newer.subject_alt_names = vec![SanType::URI(format!("{ROLE_URI}of-tomorrow").try_into().unwrap())];
    let error = fleet.disbelieve(&forge(&newer, &issuer(&fleet.root)));
    assert!(matches!(refusal(&error), Some(PkiError::WrongRole { found: None, .. })), "{error:?}");
}

#[test]
fn impostors_are_not_believed() {
    let fleet = fleet();
    let root = issuer(&fleet.root);
    let claim = || params("imageserver");
    let (rogue, people) = (authority("Dominator"), &fleet.people);
    fleet.disbelieve(&forge(&claim(), &issuer(&rogue)));
    let error = fleet.disbelieve(&forge(&claim(), &issuer(people)));
    assert!(
        matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        "identity only: {error:?}"
    );

    let key = rcgen::KeyPair::generate().unwrap();
    let own = claim().self_signed(&key).unwrap().der().clone();
    fleet.disbelieve(&Forged { chain: vec![own], key });

    let mut expired = claim();
    (expired.not_before, expired.not_after) =
        ((SystemTime::now() - 2 * DAY).into(), (SystemTime::now() - DAY).into());
    let error = fleet.disbelieve(&forge(&expired, &root));
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");

    let mut early = claim();
    (early.not_before, early.not_after) =
        ((SystemTime::now() + DAY).into(), (SystemTime::now() + 2 * DAY).into());
    let error = fleet.disbelieve(&forge(&early, &root));
    assert!(
        matches!(error, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })),
        "{error:?}"
    );
}

#[test]
fn a_server_with_names_is_believed_under_them_only() {
    let fleet = fleet();
    let names =
        [AlternativeName::Dns("images.example".into()), AlternativeName::Ip("10.0.0.7".parse().unwrap())];
    let server = issue(&fleet.root, &leaf("imageserver").alternative_names(names));
    let server = || fleet.trust.server_config(&server).unwrap();
    for name in ["images.example", "10.0.0.7"] {
        handshake(server(), fleet.client(), name).accepted();
    }
    for name in ["other.example", "10.0.0.8"] {
        let error = handshake(server(), fleet.client(), name).refused_by_client();
        let wrong_name = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            )
        );
        assert!(wrong_name, "{name}: {error:?}");
    }
}

#[test]
fn a_certificate_for_clients_only_serves_nobody() {
    let fleet = fleet();
    let mut client_only = params("imageserver");
    client_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    fleet.disbelieve(&forge(&client_only, &issuer(&fleet.root)));
}

#[test]
fn the_clock_that_judges_handshakes_can_be_replaced() {
    #[derive(Debug)]
    struct InTenYears;
    impl rustls::time_provider::TimeProvider for InTenYears {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Some(rustls::pki_types::UnixTime::since_unix_epoch(now + 3652 * DAY))
        }
    }
    let fleet = fleet();
    let trust = fleet.trust.clone().with_clock(Arc::new(InTenYears));
    let client = trust.client_config(&fleet.subd, Role::ImageServer).unwrap();
    handshake(fleet.server(), client, "images").refused_by_client();
    let server = trust.server_config(&fleet.imageserver).unwrap();
    handshake(server, fleet.client(), "images").refused_by_server();
    let later = SystemTime::now() + Duration::from_secs(3652 * 86_400);
    assert!(matches!(fleet.trust.identify(fleet.subd.chain(), later), Err(PkiError::Untimely { .. })));
}

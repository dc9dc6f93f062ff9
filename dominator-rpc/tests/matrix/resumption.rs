//! Those who would rather go on where they left off.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, SupportedProtocolVersion, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::journal::Journal;
use crate::people::{Shown, World};
use crate::run::{alert_in, asked, channel, good_server};
use crate::services::Service;
use crate::support::{Running, serve};

#[tokio::test]
async fn no_session_is_gone_on_with_after_its_certificate_was_taken_back() {
    let journal = Journal::open();
    for (service, version) in
        Service::ALL.into_iter().flat_map(|it| [(it, &version::TLS13), (it, &version::TLS12)])
    {
        let world = World::new();
        let serves = good_server(&world, service);
        let tls = world.tls(&serves);
        let server = serve(tls.clone(), service.served()).await;
        let alice = world.member("alice", "*.*");
        let config = Arc::new(resuming(&alice, version));
        for _ in 0..2 {
            let (channel, kind) = connect(&config, &server).await.unwrap();
            assert_eq!(asked(&channel, "Introspection.ListMethods").await, Ok(()), "{service:?}");
            assert_eq!(kind, HandshakeKind::Full, "{service:?}");
        }
        tls.replace(world.trust_revoking(&alice), serves.credentials().unwrap()).unwrap();
        let refused = connect(&config, &server).await.map(drop).map_err(|error| alert_in(&error));
        assert_eq!(refused, Err("CertificateRevoked".into()), "{service:?}");
        server.stop().await;
        drop(journal.take(0).await);
    }
}

/// A client that remembers sessions, and believes every server.
fn resuming(shown: &Shown, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(shown.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(16);
    config
}

async fn connect(config: &Arc<ClientConfig>, server: &Running) -> io::Result<(Channel, HandshakeKind)> {
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    Ok((channel(stream).await?, kind))
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

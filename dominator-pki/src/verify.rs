//! What rustls asks during a handshake.

use std::fmt;
use std::sync::Arc;

use dominator_core::authorise::Role;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::PkiError;
use crate::trust::{Trust, read_leaf};

/// Lets in every client that [`Trust::identify`] can name.
#[derive(Debug)]
pub(crate) struct ClientVerifier(Trust);

impl ClientVerifier {
    pub(crate) fn new(trust: Trust) -> Self {
        Self(trust)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.identify_at(end_entity, intermediates, now).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Believes a server that proves the expected role.
pub(crate) struct ServerVerifier {
    trust: Trust,
    expected: Role,
}

impl ServerVerifier {
    pub(crate) fn new(trust: Trust, expected: Role) -> Self {
        Self { trust, expected }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = read_leaf(end_entity, intermediates).map_err(refuse)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.trust.provider().signature_verification_algorithms.all;
        let links = self.trust.full_links(intermediates);
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            self.trust.authorities(),
            &links,
            now,
            algorithms,
        )?;
        let claims = leaf.unverified_claims();
        if claims.role != Some(self.expected) {
            let (expected, found, user) = (self.expected, claims.role, claims.user.clone());
            return Err(refuse(PkiError::WrongRole { expected, found, user }));
        }
        if leaf.names_a_host() {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Chains that do not verify keep rustls's own error, for the sake of the alert the far end gets.
fn refuse(error: PkiError) -> Error {
    if let PkiError::Untrusted { source, .. } = error {
        return source;
    }
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

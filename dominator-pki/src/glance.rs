//! What a server shows of itself, without believing it.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::credentials::MAX_CHAIN;
use crate::error::PkiError;
use crate::trust::ALPN;

/// The chain, leaf first, that the server at the other end of `stream` shows to somebody who dials `host`.
///
/// Nothing of it is verified, not even that the server has the key. The handshake is broken off as soon as the chain is
/// there, so that nothing else is ever said to a server that nobody vouches for.
///
/// # Errors
/// [`PkiError::NoChain`] when the other end speaks no TLS, or shows nothing; [`PkiError::ChainTooLong`].
pub fn glance(
    host: &str,
    stream: &mut (impl Read + Write),
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let failed = |source| PkiError::NoChain { source };
    let seen = Arc::new(Witness { provider: ring::default_provider(), chain: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| PkiError::Configuration { source })?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| failed(io::Error::other(error)))?;
    let ended = connection.complete_io(stream);
    let chain = std::mem::take(&mut *seen.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match (chain.len(), ended) {
        (0, Err(error)) => Err(failed(error)),
        (0, Ok(_)) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        (count, _) if count > MAX_CHAIN => Err(PkiError::ChainTooLong { count, limit: MAX_CHAIN }),
        _ => Ok(chain),
    }
}

/// Remembers what it is asked to verify, and refuses it.
#[derive(Debug)]
struct Witness {
    provider: CryptoProvider,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned());
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        Err(refused())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

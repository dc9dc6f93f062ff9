//! Keys to be certified.

use std::fmt;
use std::str::FromStr;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, KeyPair, PublicKeyData,
    SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::signing;
use crate::certificate::check_user;
use crate::error::{Origin, PkiError};

/// The kinds of keys that are made. Keys of other kinds (RSA, ECDSA P-384) are used where they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA over NIST's curve P-256, which every TLS library knows.
    #[default]
    EcdsaP256,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::EcdsaP256, Self::Ed25519];

    /// Its name: `p256` or `ed25519`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "p256",
            Self::Ed25519 => "ed25519",
        }
    }

    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyKind {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or(PkiError::BadRequest { what: "keys are made of the types p256 and ed25519" })
    }
}

/// The key pair of a certificate to be issued.
#[derive(Debug)]
pub struct LeafKey(KeyPair);

impl LeafKey {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when there is no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        Self::generate_kind(KeyKind::default())
    }

    /// A new key of this kind.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when there is no randomness.
    pub fn generate_kind(kind: KeyKind) -> Result<Self, PkiError> {
        let pair = KeyPair::generate_for(kind.algorithm()).map_err(signing)?;
        match kind {
            KeyKind::EcdsaP256 => Ok(Self(pair)),
            KeyKind::Ed25519 => plain_ed25519(&pair).map(Self),
        }
    }

    /// An existing key, PKCS#8 PEM.
    ///
    /// # Errors
    /// [`PkiError::NoKey`], [`PkiError::UnusableKey`], naming `origin`.
    pub fn from_pem(pem: &[u8], origin: &Origin) -> Result<Self, PkiError> {
        private_key(pem, origin).map(Self)
    }

    /// The key in PKCS#8 PEM.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is of a kind that can't be written.
    pub fn public_key(&self) -> Result<PublicKey, PkiError> {
        PublicKey::from_der(&self.0.subject_public_key_info())
    }

    /// A request, PEM, to certify this key: what travels to an authority that is kept away from networks. It wishes for
    /// `common_name` and for nothing else, and an authority of ours grants no wishes anyway.
    ///
    /// # Errors
    /// [`PkiError::BadCertificate`] when `common_name` can't be a name, [`PkiError::Signing`].
    pub fn signing_request(&self, common_name: &str) -> Result<String, PkiError> {
        check_user(common_name)
            .map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
        let mut wish = CertificateParams::default();
        wish.distinguished_name = DistinguishedName::new();
        wish.distinguished_name.push(DnType::CommonName, common_name);
        wish.serialize_request(&self.0).and_then(|request| request.pem()).map_err(signing)
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

/// A public key to be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(pub(super) SubjectPublicKeyInfo);

impl PublicKey {
    /// From a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is of an unknown kind.
    pub fn from_der(spki: &[u8]) -> Result<Self, PkiError> {
        SubjectPublicKeyInfo::from_der(spki).map(Self).map_err(signing)
    }

    /// The key out of a signing request in PEM, whose own signature is checked: it proves that the asker holds the
    /// private key. Everything else in the request is dropped, for it is only a wish: a request can ask to be an
    /// authority.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is no request, is not signed by its key, or asks for unknown extensions.
    pub fn from_signing_request(pem: &str) -> Result<Self, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(signing)?;
        Self::from_der(&request.public_key.subject_public_key_info())
    }
}

pub(super) fn private_key(pem: &[u8], origin: &Origin) -> Result<KeyPair, PkiError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| PkiError::NoKey { origin: origin.clone() })?;
    KeyPair::try_from(&key)
        .map_err(|source| PkiError::UnusableKey { origin: origin.clone(), source: source.into() })
}

/// The same key as version 1 of PKCS#8 has it, without the public half, which is the only form that OpenSSL reads.
fn plain_ed25519(pair: &KeyPair) -> Result<KeyPair, PkiError> {
    /// `PrivateKeyInfo`: version 0, Ed25519, and an OCTET STRING in an OCTET STRING.
    const HEAD: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    // Version 2 differs in its length and its version only, up to the end of the key.
    let seed = pair.serialized_der().get(HEAD.len()..HEAD.len() + 32);
    let der = seed.map(|seed| [&HEAD[..], seed].concat());
    let plain = KeyPair::try_from(der.unwrap_or_default()).map_err(signing)?;
    match plain.subject_public_key_info() == pair.subject_public_key_info() {
        true => Ok(plain),
        false => Err(signing(rcgen::Error::CouldNotParseKeyPair)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_of_every_kind_is_read_again() {
        for kind in KeyKind::ALL {
            assert_eq!(kind.name().parse::<KeyKind>().unwrap(), kind);
            let key = LeafKey::generate_kind(kind).unwrap();
            let again = LeafKey::from_pem(key.to_pem().as_bytes(), &Origin::Memory).unwrap();
            assert_eq!(again.public_key().unwrap(), key.public_key().unwrap(), "{kind}");
        }
        assert!("rsa".parse::<KeyKind>().is_err());
    }
}

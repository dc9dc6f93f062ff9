//! Where chains may end, and what may be a link to there.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::authority_for;
use crate::error::{BadCertificate, Origin, PkiError};
use crate::verified::Granted;

pub(super) fn anchors(
    authorities: Vec<CertificateDer<'static>>,
    origin: &Origin,
) -> Result<Arc<RootCertStore>, PkiError> {
    let mut store = RootCertStore::empty();
    for der in authorities {
        store.add(der).map_err(|source| PkiError::BadAuthority { origin: origin.clone(), source })?;
    }
    Ok(Arc::new(store))
}

/// An identity authority in the wrong file would be believed in everything: one that is marked, or has the key of one that is
/// marked and stands among those of `identity`, as its certificate from before does.
pub(super) fn check_unmarked(
    authorities: &[CertificateDer<'_>],
    identity: &[CertificateDer<'_>],
    origin: &Origin,
) -> Result<(), PkiError> {
    let bad = |source| PkiError::BadCertificate { origin: origin.clone(), source };
    let parsed = identity.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let marked: HashSet<_> = parsed
        .filter(|(_, own)| authority_for(own).is_ok_and(|granted| granted == Granted::IdentityOnly))
        .map(|(_, own)| own.public_key().raw.to_vec())
        .collect();
    for der in authorities {
        let parsed = X509Certificate::from_der(der);
        let (_, own) = parsed.map_err(|error| bad(BadCertificate::NotDer(error.to_string())))?;
        if authority_for(&own).map_err(bad)? == Granted::IdentityOnly || marked.contains(own.public_key().raw)
        {
            let subject = own.subject().to_string();
            return Err(PkiError::IdentityAuthority { origin: origin.clone(), subject });
        }
    }
    Ok(())
}

pub(super) fn public_key(der: &[u8], origin: &Origin) -> Result<Vec<u8>, PkiError> {
    let parsed = X509Certificate::from_der(der).map_err(|error| PkiError::BadCertificate {
        origin: origin.clone(),
        source: BadCertificate::NotDer(error.to_string()),
    })?;
    Ok(parsed.1.public_key().raw.to_vec())
}

/// Whether a certificate may be a link to an authority that is believed in everything: that of an identity authority may not.
pub(super) fn is_link(der: &[u8], identity_keys: &HashSet<Vec<u8>>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, link)| {
        authority_for(&link).is_ok_and(|granted| granted == Granted::Everything)
            && !identity_keys.contains(link.public_key().raw)
    })
}

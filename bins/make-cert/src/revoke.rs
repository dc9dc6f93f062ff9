//! Certificates taken back.

use std::path::PathBuf;
use std::time::SystemTime;

use dominator_pki::Serial;
use dominator_pki::ca::{Reason, RevocationList, Revoked};
use dominator_pki::keystore::{self, CredentialPaths};

use crate::MakeCertError;

/// Certificates to be taken back.
#[derive(Clone, Debug)]
pub struct RevocationOrder {
    /// The authority that had issued them: `X` for `X.pem` and `X.key.pem`, or `X.cert` and `X.key`.
    pub signer: PathBuf,
    /// Their files; of several certificates in a file it is the first.
    pub certificates: Vec<PathBuf>,
    /// Their serial numbers, where there is no file any more.
    pub serials: Vec<Serial>,
    /// Why.
    pub reason: Reason,
    /// For how many days the list is current.
    pub days: u32,
}

/// The list as it is now.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Where it is.
    pub path: PathBuf,
    /// The list.
    pub list: RevocationList,
    /// How many of its entries, the last ones, were not on it before.
    pub added: usize,
}

/// Puts certificates on their authority's list of revoked ones, `<signer>.crl.pem`; with none, makes the list current anew.
///
/// # Errors
/// [`MakeCertError::NotIssued`] when a certificate is another authority's; [`MakeCertError::Pki`]. The list is as it was then.
pub fn revoke(order: &RevocationOrder, now: SystemTime) -> Result<Taken, MakeCertError> {
    let signer = CredentialPaths::named(&order.signer);
    let authority = keystore::load_authority(&signer)?;
    let serial_of = |path: &PathBuf| {
        let found = keystore::load_certificates(path)?;
        let first = found.first().filter(|certificate| authority.has_issued(certificate));
        let foreign = || MakeCertError::NotIssued { path: path.clone(), signer: order.signer.clone() };
        first.map(|certificate| certificate.serial().clone()).ok_or_else(foreign)
    };
    let of_files = order.certificates.iter().map(serial_of).collect::<Result<Vec<_>, _>>()?;
    let revoked = |serial| Revoked { serial, since: now, reason: order.reason };
    let more: Vec<_> = of_files.into_iter().chain(order.serials.iter().cloned()).map(revoked).collect();
    let extended = keystore::revoke(&order.signer, &signer.key, &authority, &more, order.days, now)?;
    Ok(Taken { path: keystore::revocations(&order.signer), list: extended.list, added: extended.added })
}

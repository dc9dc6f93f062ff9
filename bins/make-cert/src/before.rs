//! What an authority is known to have issued before. There is no data base: what the files beside it say is all.

use std::path::Path;
use std::time::SystemTime;

use dominator_pki::ca::{Authority, RevocationList};
use dominator_pki::keystore::{self, CredentialPaths, Existing};
use dominator_pki::{Certificate, Serial};

use crate::{MakeCertError, Order, SerialChoice};

/// What a new certificate took the place of, where that may be good still: replaced is not revoked.
#[derive(Clone, Debug)]
pub enum Replaced {
    /// A certificate of the same authority, which can take it back.
    Own(Certificate),
    /// A certificate of somebody else.
    Foreign(Certificate),
    /// No certificate that can be read.
    Unreadable,
}

/// What is known before a certificate is made.
pub(crate) struct Before {
    list: Option<RevocationList>,
    replaced: Option<Replaced>,
}

impl Before {
    /// Looks at the list of revoked certificates, and at what is to be replaced.
    pub(crate) fn look(order: &Order, authority: &Authority, path: &Path) -> Result<Self, MakeCertError> {
        let list = keystore::load_revocations(&order.signer, authority)?;
        let replaced = match order.existing == Existing::Replace && path.exists() {
            true => Some(replaced(authority, path)),
            false => None,
        };
        Ok(Self { list, replaced })
    }

    /// The serial number that was asked for, if no other certificate is known to have it.
    ///
    /// Of two with one number neither could be revoked without the other, and one that was revoked already is believed by
    /// nobody.
    pub(crate) fn check(&self, order: &Order, path: &Path) -> Result<(), MakeCertError> {
        let SerialChoice::Given(serial) = &order.serial else { return Ok(()) };
        let (serial, path) = (serial.clone(), path.to_owned());
        if self.is_revoked(&serial) {
            let list = keystore::revocations(&order.signer);
            return Err(MakeCertError::RevokedSerial { serial, list });
        }
        if self.is_replaced(&serial) {
            return Err(MakeCertError::ReplacedSerial { serial, path });
        }
        Ok(())
    }

    /// The serial number to use. The counter is passed over numbers that are taken: it may have been lost, and begun anew.
    pub(crate) fn serial(&self, order: &Order, signer: &CredentialPaths) -> Result<Serial, MakeCertError> {
        let counted = || keystore::next_serial(&order.signer, &signer.key);
        let mut serial = match &order.serial {
            SerialChoice::Given(serial) => return Ok(serial.clone()),
            SerialChoice::Auto => counted()?,
        };
        while self.is_revoked(&serial) || self.is_replaced(&serial) {
            serial = counted()?;
        }
        Ok(serial)
    }

    /// What was replaced, if somebody could still use it at `now`.
    pub(crate) fn still_good(self, now: SystemTime) -> Option<Replaced> {
        let lives = |one: &Certificate| one.validity().remaining(now).is_some();
        let good = match &self.replaced {
            Some(Replaced::Own(one)) => lives(one) && !self.is_revoked(one.serial()),
            Some(Replaced::Foreign(one)) => lives(one),
            Some(Replaced::Unreadable) | None => true,
        };
        self.replaced.filter(|_| good)
    }

    fn is_revoked(&self, serial: &Serial) -> bool {
        self.list.as_ref().is_some_and(|list| list.holds(serial))
    }

    fn is_replaced(&self, serial: &Serial) -> bool {
        matches!(&self.replaced, Some(Replaced::Own(before)) if before.serial() == serial)
    }
}

fn replaced(authority: &Authority, path: &Path) -> Replaced {
    let found = keystore::load_certificates(path).ok().filter(|found| !found.is_empty());
    match found.map(|mut found| found.swap_remove(0)) {
        Some(one) if authority.has_issued(&one) => Replaced::Own(one),
        Some(one) => Replaced::Foreign(one),
        None => Replaced::Unreadable,
    }
}

//! Why one end does not accept the other's certificate, in words that say whose clock says what.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_pki::{PkiError, Validity, rfc3339};
use rustls::{AlertDescription, CertificateError, Error};
use rustls_pki_types::UnixTime;

tokio::task_local! {
    /// Why the client was refused with whom this task shakes hands.
    static REFUSED: RefCell<Option<String>>;
}

/// Keeps why a client is refused, and who it claims to be, for [`overheard`].
pub(super) fn remember(error: &PkiError) {
    // What is wrong with times is said whole; the library would say it again, in seconds since 1970.
    let untimely = matches!(error, PkiError::Untimely { .. });
    let text = if untimely { error.to_string() } else { crate::wire::text(error) };
    // Whoever shakes hands elsewhere has nobody who would ask.
    REFUSED.try_with(|refused| *refused.borrow_mut() = Some(text)).ok();
}

/// What comes of a handshake, and why the client was refused in it, if it was its certificate.
pub(super) async fn overheard<T>(handshake: impl Future<Output = T>) -> (T, Option<String>) {
    let listening = async {
        let outcome = handshake.await;
        (outcome, REFUSED.with(RefCell::take))
    };
    REFUSED.scope(RefCell::default(), listening).await
}

/// What is wrong with the other end's certificate.
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not about time is told in the library's words")]
pub(super) fn unaccepted(error: &Error) -> String {
    if let Some(known) = dominator_pki::refusal(error) {
        return crate::wire::text(known);
    }
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "it has expired: by this machine's clock it is {}, and it was valid until {}; it must be renewed, or this clock is wrong",
            date(*time),
            date(*not_after)
        ),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => format!(
            "it is not valid yet: by this machine's clock it is {}, and it is valid from {}; this clock is wrong, or its authority's",
            date(*time),
            date(*not_before)
        ),
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "it was revoked: it is on the list of its authority, or denied here".into()
        }
        other => other.to_string(),
    }
}

/// What the other end means by an alert about our certificate, valid when `own` says, if the alert is about that.
#[expect(clippy::wildcard_enum_match_arm, reason = "other alerts are not about certificates")]
pub(super) fn rejection(alert: AlertDescription, own: Option<Validity>, now: SystemTime) -> Option<String> {
    let reason = match alert {
        AlertDescription::CertificateExpired => return Some(expired(own, now)),
        AlertDescription::UnknownCA => "no authority that is trusted there has signed it",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "the log there says why",
        _ => return None,
    };
    Some(reason.into())
}

/// TLS has one alert for what has expired and what is not valid yet, and it carries no time.
fn expired(own: Option<Validity>, now: SystemTime) -> String {
    let there = "by the clock there it has expired or is not valid yet";
    let Some(own) = own else { return there.into() };
    let (today, from, until) = (rfc3339(now), rfc3339(own.not_before), rfc3339(own.not_after));
    if now > own.not_after {
        format!(
            "it has expired: by this machine's clock it is {today}, and it was valid until {until}; renew it"
        )
    } else if now < own.not_before {
        format!(
            "it is not valid yet: by this machine's clock it is {today}, and it is valid from {from}; check the clock here"
        )
    } else {
        format!(
            "{there}; by this machine's clock it is {today}, and it is valid from {from} until {until}: one of the two clocks is wrong"
        )
    }
}

fn date(time: UnixTime) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_refused_as_expired_learns_whose_clock_says_what() {
        let own = Validity { not_before: at(86_400), not_after: at(2 * 86_400) };
        let said = |now| rejection(AlertDescription::CertificateExpired, Some(own), at(now)).unwrap();
        let rows = [
            (
                0,
                "it is not valid yet: by this machine's clock it is 1970-01-01T00:00:00Z, and it is valid from 1970-01-02T00:00:00Z",
            ),
            (
                100_000,
                "by the clock there it has expired or is not valid yet; by this machine's clock it is 1970-01-02T03:46:40Z, and it is valid from 1970-01-02T00:00:00Z until 1970-01-03T00:00:00Z: one of the two clocks is wrong",
            ),
            (
                200_000,
                "it has expired: by this machine's clock it is 1970-01-03T07:33:20Z, and it was valid until 1970-01-03T00:00:00Z; renew it",
            ),
        ];
        for (now, expected) in rows {
            assert!(said(now).starts_with(expected), "{}", said(now));
        }
    }

    #[test]
    fn who_refuses_says_what_his_clock_says() {
        let (time, bound) = (
            UnixTime::since_unix_epoch(Duration::from_secs(86_400)),
            UnixTime::since_unix_epoch(Duration::ZERO),
        );
        let expired = CertificateError::ExpiredContext { time, not_after: bound };
        let expected = "it has expired: by this machine's clock it is 1970-01-02T00:00:00Z, and it was valid until 1970-01-01T00:00:00Z";
        assert!(unaccepted(&expired.into()).starts_with(expected));
        let early = CertificateError::NotValidYetContext { time: bound, not_before: time };
        let expected = "it is not valid yet: by this machine's clock it is 1970-01-01T00:00:00Z, and it is valid from 1970-01-02T00:00:00Z";
        assert!(unaccepted(&early.into()).starts_with(expected));
    }
}

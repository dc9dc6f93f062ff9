//! How a daemon is, for whoever watches over it.

use std::convert::Infallible;
use std::time::SystemTime;

use dominator_pki::rfc3339;
use dominator_rpc::metrics::Metrics;
use dominator_rpc::readiness::{Condition, Readiness};
use dominator_rpc::transport::Tls;
use tokio::time::sleep;

use crate::notify;
use crate::serve::LOOK;

/// What a daemon counts, and whether it can do what it is for. Clones are the same value.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    /// What is counted, from the beginning of the process on.
    pub metrics: Metrics,
    /// What is missing. A daemon adds a condition for whatever it needs.
    pub readiness: Readiness,
}

impl Vitals {
    /// The condition that somebody serves, which [`crate::serve`] meets.
    pub(crate) fn listening(&self) -> Condition {
        self.readiness.condition("listening", "the daemon is starting")
    }

    /// The condition that others believe the daemon, for as long as this is polled.
    pub(crate) async fn watch_certificate(&self, tls: &Tls) -> Infallible {
        let condition = self.readiness.condition("certificate", "it was not looked at yet");
        loop {
            judge(&condition, tls, SystemTime::now());
            sleep(LOOK).await;
        }
    }

    /// Tells systemd what is missing, whenever that changes, for as long as this is polled.
    pub(crate) async fn tell_manager(&self) -> Infallible {
        let mut seen = self.readiness.standing();
        loop {
            let missing = self.readiness.missing();
            let missing: Vec<_> = missing.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            let status = if missing.is_empty() { "ready".into() } else { missing.join("; ") };
            notify::tell(&format!("STATUS={status}"));
            seen = self.readiness.changed(seen).await;
        }
    }
}

fn judge(condition: &Condition, tls: &Tls, now: SystemTime) {
    match tls.valid() {
        Some(valid) if now > valid.not_after => {
            condition.missing(format!("it expired at {}", rfc3339(valid.not_after)));
        }
        Some(valid) if now < valid.not_before => {
            condition.missing(format!("it is valid from {} on", rfc3339(valid.not_before)));
        }
        Some(_) | None => condition.met(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_pki::Trust;
    use dominator_pki::ca::{Authority, Leaf};
    use std::time::Duration;

    #[test]
    fn a_daemon_whose_certificate_nobody_believes_is_not_ready_until_it_has_another() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(86_400);
        let authority = Authority::create("fleet", now).unwrap();
        let trust = || Trust::from_pem(authority.certificate_pem().as_bytes(), None).unwrap();
        let credentials =
            |from| authority.issue_credentials(&Leaf::new("subd").unwrap().days(2), from).unwrap();
        let tls = Tls::new(trust(), credentials(now)).unwrap();
        let readiness = Readiness::new();
        let condition = readiness.condition("certificate", "");
        let look = |later: Duration| {
            judge(&condition, &tls, now + later);
            readiness.missing().pop().map(|(_, why)| why)
        };
        assert_eq!(look(day), None);
        let expired = look(day * 3).unwrap();
        assert!(expired.starts_with("it expired at 2027-01-17T"), "{expired}");
        tls.replace(trust(), credentials(now + day * 10)).unwrap();
        let early = look(day * 3).unwrap();
        assert!(early.starts_with("it is valid from 2027-01-25T"), "{early}");
        assert_eq!(look(day * 11), None);
    }
}

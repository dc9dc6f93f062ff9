//! What a server counts and measures, for whoever watches over it. `docs/metrics.md` lists it for people.
//!
//! Every label has few values: methods that are offered, and words of this crate. Nothing a caller says becomes one, so that
//! nobody can fill memory by it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::port::ReplicationStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What a process counts and measures. A clone is the same thing. Nothing is global: two servers with one of these are
/// counted together, with two apart.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    decisions: Family<Decided, Counter>,
    running: Family<Called, Gauge>,
    took: Family<Over, Histogram, fn() -> Histogram>,
    connections: Gauge,
    handshakes: Gauge,
    refused: Family<Why, Counter>,
    sums: Sums,
    ended: Family<Why, Counter>,
    reloads: Family<Done, Counter>,
    expires: Family<What, Gauge>,
    audited: Family<Done, Counter>,
    suppressed: Counter,
    replica: Family<What, Gauge>,
}

/// What all series of a family come to, which nobody can ask a family for.
#[derive(Default)]
struct Sums {
    denied: Counter,
    refused: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    method: Arc<str>,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    method: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Over {
    method: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Done {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

/// How something went that either works or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// It did.
    Ok,
    /// It did not.
    Failed,
}

impl Success {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

impl<T, E> From<&Result<T, E>> for Success {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Ok } else { Self::Failed }
    }
}

/// What comes to its end some day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiring {
    /// The certificate this process shows.
    Certificate,
    /// The first of the authorities it believes.
    Authority,
    /// The first of the lists of what was revoked.
    RevocationList,
}

impl Expiring {
    const fn word(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Authority => "authority",
            Self::RevocationList => "revocation_list",
        }
    }
}

/// Something that is counted as long as it lives.
#[derive(Debug)]
#[must_use = "it is counted until it is dropped"]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Nothing was counted yet.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("dominator"),
            decisions: Family::default(),
            running: Family::default(),
            took: Family::new_with_constructor(durations),
            connections: Gauge::default(),
            handshakes: Gauge::default(),
            refused: Family::default(),
            sums: Sums::default(),
            ended: Family::default(),
            reloads: Family::default(),
            expires: Family::default(),
            audited: Family::default(),
            suppressed: Counter::default(),
            replica: Family::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// All of it, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0.registry).expect("invariant: a string takes everything");
        text
    }

    /// The media type of [`Self::text`].
    pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A call of `method` was let in, on the ground of that word.
    pub fn allowed(&self, method: impl Into<Arc<str>>, ground: &'static str) {
        self.decided(method.into(), ground);
    }

    /// A call of `method` was denied, or what it named was, for the reason of that word.
    pub fn denied(&self, method: impl Into<Arc<str>>, reason: &'static str) {
        self.0.sums.denied.inc();
        self.decided(method.into(), reason);
    }

    /// How often calls were denied so far.
    pub fn calls_denied(&self) -> u64 {
        self.0.sums.denied.get()
    }

    fn decided(&self, method: Arc<str>, decision: &'static str) {
        self.0.decisions.get_or_create(&Decided { method, decision }).inc();
    }

    /// A call of `method` is under way.
    pub fn call(&self, method: impl Into<Arc<str>>) -> Counted {
        Counted::new(&self.0.running.get_or_create(&Called { method: method.into() }))
    }

    /// A call of `method` is over.
    pub fn called(&self, method: impl Into<Arc<str>>, success: Success, took: Duration) {
        let over = Over { method: method.into(), outcome: success.word() };
        self.0.took.get_or_create(&over).observe(took.as_secs_f64());
    }

    /// A connection that was accepted is open.
    pub fn connection(&self) -> Counted {
        Counted::new(&self.0.connections)
    }

    /// A handshake is under way.
    pub fn handshake(&self) -> Counted {
        Counted::new(&self.0.handshakes)
    }

    /// A connection was not accepted, and why, in a word of the program.
    pub fn refused(&self, reason: &'static str) {
        self.0.sums.refused.inc();
        self.0.refused.get_or_create(&Why { reason }).inc();
    }

    /// How many connections were not accepted so far.
    pub fn connections_refused(&self) -> u64 {
        self.0.sums.refused.get()
    }

    /// A connection that had been accepted was ended by this end, and why, in a word of the program.
    pub fn ended(&self, reason: &'static str) {
        self.0.ended.get_or_create(&Why { reason }).inc();
    }

    /// Certificates, authorities and lists were read again.
    pub fn reloaded(&self, success: Success) {
        self.0.reloads.get_or_create(&Done { outcome: success.word() }).inc();
    }

    /// When something comes to its end; nothing, if there is no such thing.
    pub fn expires(&self, what: Expiring, when: Option<SystemTime>) {
        let what = What { what: what.word() };
        let Some(when) = when else {
            self.0.expires.remove(&what);
            return;
        };
        let seconds = match when.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        self.0.expires.get_or_create(&what).set(seconds);
    }

    /// A record was written to the audit log, or could not be.
    pub fn audited(&self, success: Success) {
        self.0.audited.get_or_create(&Done { outcome: success.word() }).inc();
    }

    /// How a replica stands to its master.
    pub fn replica(&self, status: &ReplicationStatus) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let followed = i64::from(status.trouble.is_none());
        for (what, value) in
            [("behind", number(status.behind)), ("held", number(status.held.len())), ("followed", followed)]
        {
            self.0.replica.get_or_create(&What { what }).set(value);
        }
    }

    /// A record was left out of the audit log, as its caller, who has no power, has had too many.
    pub fn audit_suppressed(&self) {
        self.0.suppressed.inc();
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let calls = "Calls that were let in or denied, by the ground or the reason";
        registry.register("decisions", calls, self.decisions.clone());
        registry.register("calls_running", "Calls that were let in and are not over", self.running.clone());
        let took = "How long calls took that were let in";
        registry.register_with_unit("call", took, Unit::Seconds, self.took.clone());
        let connections = "Connections that were accepted and are open";
        registry.register("connections", connections, self.connections.clone());
        registry.register("handshakes", "Handshakes that are under way", self.handshakes.clone());
        let refused = "Connections that were not accepted";
        registry.register("connections_refused", refused, self.refused.clone());
        let ended = "Connections that were accepted and then ended by this end";
        registry.register("connections_ended", ended, self.ended.clone());
        let reloads = "How often certificates, authorities and lists were read again";
        registry.register("reloads", reloads, self.reloads.clone());
        let expires = "When the first of them comes to its end, in seconds since 1970";
        registry.register_with_unit("expires_timestamp", expires, Unit::Seconds, self.expires.clone());
        let audited = "Records of the audit log that were written, or could not be";
        registry.register("audit_records", audited, self.audited.clone());
        let suppressed = "Records of callers without power that were left out of the audit log";
        registry.register("audit_suppressed", suppressed, self.suppressed.clone());
        let replica = "Of a replica: images to look at, images the master lacks, whether it is followed";
        registry.register("replica", replica, self.replica.clone());
    }
}

/// From a millisecond to more than an hour.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 12))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_as_openmetrics() {
        let metrics = Metrics::new();
        metrics.allowed("Subd.Poll", "listed");
        metrics.clone().allowed("Subd.Poll", "listed");
        metrics.denied("Subd.Poll", "not-owner");
        metrics.denied("Subd.Update", "not-listed");
        metrics.called("Subd.Poll", Success::Failed, Duration::from_millis(2));
        metrics.refused("crowded");
        assert_eq!((metrics.calls_denied(), metrics.connections_refused()), (2, 1));
        metrics.ended("revoked");
        metrics.reloaded(Success::Failed);
        metrics.audited(Success::Ok);
        metrics.audit_suppressed();
        metrics.expires(Expiring::Certificate, Some(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let (open, handshake, running) =
            (metrics.connection(), metrics.handshake(), metrics.call("Subd.Poll"));
        drop(handshake);
        let text = metrics.text();
        for line in [
            "dominator_decisions_total{method=\"Subd.Poll\",decision=\"listed\"} 2",
            "dominator_decisions_total{method=\"Subd.Poll\",decision=\"not-owner\"} 1",
            "dominator_call_seconds_bucket{le=\"0.001\",method=\"Subd.Poll\",outcome=\"failed\"} 0",
            "dominator_call_seconds_bucket{le=\"0.004\",method=\"Subd.Poll\",outcome=\"failed\"} 1",
            "dominator_calls_running{method=\"Subd.Poll\"} 1",
            "dominator_connections 1",
            "dominator_handshakes 0",
            "dominator_connections_refused_total{reason=\"crowded\"} 1",
            "dominator_connections_ended_total{reason=\"revoked\"} 1",
            "dominator_reloads_total{outcome=\"failed\"} 1",
            "dominator_expires_timestamp_seconds{what=\"certificate\"} 1800000000",
            "dominator_audit_records_total{outcome=\"ok\"} 1",
            "dominator_audit_suppressed_total 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        metrics.expires(Expiring::Certificate, None);
        drop((open, running));
        let text = metrics.text();
        assert!(!text.contains("what=\"certificate\""), "{text}");
        assert!(text.lines().any(|it| it == "dominator_connections 0"), "{text}");
    }
}

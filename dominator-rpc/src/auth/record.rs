use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dominator_core::auth::{
    AuditCaller, AuditEvent, AuditFault, AuditLog, AuditRecord, CallId, Effect, Ground, Method, Outcome,
};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};

use super::Caller;
use super::budget::Budget;
use crate::limits;
use crate::lines::Lines;
use crate::metrics::{Counted, Metrics, Success};
use crate::transport::Peer;

/// Where records of calls that change something go, and whether calls wait for it.
#[derive(Clone)]
pub struct Audit {
    log: Arc<dyn AuditLog>,
    demand: Demand,
}

/// What becomes of calls that can't be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    LetIn,
    Refused,
}

impl Audit {
    /// Calls go on when `log` can't be written; that is told in events and counted.
    pub fn to(log: Arc<dyn AuditLog>) -> Self {
        Self { log, demand: Demand::LetIn }
    }

    /// Calls that change something are refused (`unavailable`) when `log` can't be written.
    pub fn required(log: Arc<dyn AuditLog>) -> Self {
        Self { log, demand: Demand::Refused }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("demand", &self.demand).finish_non_exhaustive()
    }
}

/// What a server tells of calls, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    metrics: Metrics,
    audit: Option<Audit>,
    /// When it began to count calls.
    server: u64,
    calls: Arc<AtomicU64>,
    budget: Budget,
    scoped: Budget,
    lines: Lines,
}

/// What it takes to have a call recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Price {
    /// Nothing: its caller has power over what it touches.
    Nothing,
    /// One of those a caller with a scope has, unless what it names turns out to lie within that.
    OfScoped,
    /// One of those a caller without power has, unless it owns what it changed.
    OfPowerless,
}

/// A caller has had as many calls recorded as it may without power over what they touch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent;

impl Recorder {
    pub(super) fn new(metrics: Metrics, audit: Option<Audit>) -> Self {
        let server = u64::try_from(since_1970().as_nanos()).unwrap_or(u64::MAX);
        Self {
            metrics,
            audit,
            server,
            calls: Arc::default(),
            budget: Budget::powerless(),
            scoped: Budget::scoped(),
            lines: Lines::default(),
        }
    }

    /// A call was let in; what is to be told of it.
    ///
    /// # Errors
    /// [`Spent`], when it is one that is recorded and its caller can't pay for that: nothing is done that is not recorded,
    /// and its records must not push out those of others.
    pub(super) fn allowed(
        &self,
        peer: &Peer,
        method: &Method,
        effect: Effect,
        ground: Ground,
        price: Price,
    ) -> Result<Option<Record>, Spent> {
        let name: &str = method.text();
        let (suppressed, paid) = match (effect, &self.audit) {
            (Effect::Reads, _) | (_, None) => (0, None),
            (Effect::Changes, Some(_)) => self.pay(peer, price).ok_or(Spent)?,
        };
        let ground = ground.word();
        self.metrics.allowed(method.text().clone(), ground);
        // What a line says is made when there is one.
        let serial = || serial(peer).unwrap_or_default();
        let line = || {
            tracing::info!(
                peer = %peer.address, user = peer.user(), serial = serial(), method = name, decision = ground, "allowed"
            );
        };
        match effect {
            Effect::Changes if price != Price::OfPowerless => line(),
            Effect::Changes => self.lines.write(peer.address.ip(), "allowed", ground, line),
            Effect::Reads => {
                tracing::debug!(
                    peer = %peer.address, user = peer.user(), serial = serial(), method = name, decision = ground, "allowed"
                );
                return Ok(None);
            }
        }
        Ok(self.audit.is_some().then(|| {
            let caller = Arc::new(who(peer));
            Record { call: self.next(), caller, method: method.clone(), ground, suppressed, paid }
        }))
    }

    /// How many records of the caller were left out before, and out of which budget this one is.
    fn pay(&self, peer: &Peer, price: Price) -> Option<(u64, Option<Budget>)> {
        match price {
            Price::Nothing => Some((self.budget.left_out(peer), None)),
            Price::OfScoped => {
                self.scoped.take(peer)?;
                Some((self.budget.left_out(peer), Some(self.scoped.clone())))
            }
            Price::OfPowerless => Some((self.budget.take(peer)?, Some(self.budget.clone()))),
        }
    }

    /// A call was not let in, or not to what it named.
    pub(super) fn denied(
        &self,
        peer: &Peer,
        path: &str,
        method: Option<&Method>,
        reason: &'static str,
        text: &str,
    ) {
        // What is called may be anything: only what there is becomes a label.
        let name = method.map_or_else(|| "none".into(), |method| method.text().clone());
        self.metrics.denied(name.clone(), reason);
        self.lines.write(peer.address.ip(), "access to method denied", reason, || {
            let (address, user, serial) = (peer.address, peer.user(), serial(peer).unwrap_or_default());
            tracing::warn!(peer = %address, user, serial, method = &*name, path, decision = reason, "{text}");
        });
    }

    /// The room that there is for lines about those without power.
    pub(super) const fn lines(&self) -> &Lines {
        &self.lines
    }

    /// A call that would have changed something was turned away at the door.
    pub(super) fn turned_away(&self, peer: &Peer, method: &Method, text: &str) {
        if self.audit.is_none() {
            return;
        }
        let Some(suppressed) = self.budget.take(peer) else {
            self.budget.leave_out(peer);
            self.metrics.audit_suppressed();
            return;
        };
        let record = AuditRecord {
            when: since_1970(),
            call: self.next(),
            event: AuditEvent::Denied { why: text.into() },
            caller: Arc::new(who(peer)),
            method: method.to_string().into(),
            ground: None,
            target: None,
            suppressed,
        };
        self.append(&record, |_| ());
    }

    /// Has the beginning of a call recorded. What is returned waits until that was done, or nearly as long as a caller can
    /// be kept waiting, and says whether the call may go on.
    pub(super) fn begin(&self, record: &Record) -> impl Future<Output = Result<(), Status>> + Send + use<> {
        let (sender, written) = oneshot::channel();
        // Who does not wait any more need not be told.
        let begun = AuditRecord { suppressed: record.suppressed, ..record.of(AuditEvent::Begun, None) };
        self.append(&begun, |outcome| drop(sender.send(outcome)));
        let demand = self.audit.as_ref().map_or(Demand::LetIn, |audit| audit.demand);
        let method = record.method.clone();
        async move {
            let why = match timeout(limits::AUDIT, written).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(fault))) => fault.to_string(),
                Ok(Err(_)) => AuditFault::Closed.to_string(),
                Err(_) => format!("the audit log did not take it within {} s", limits::AUDIT.as_secs()),
            };
            match demand {
                Demand::LetIn => {
                    tracing::error!(%method, why, "a call goes on that is not in the audit log yet");
                    Ok(())
                }
                Demand::Refused => {
                    tracing::error!(%method, why, "a call was refused, as it is not in the audit log");
                    Err(Status::unavailable(format!("{why}; nothing is changed here without it")))
                }
            }
        }
    }

    /// It is known what the call is about.
    pub(super) fn aimed(&self, record: &Record, target: &str) {
        self.append(&record.of(AuditEvent::Aimed, Some(target)), |_| ());
    }

    fn append(&self, record: &AuditRecord, tell: impl FnOnce(Result<(), AuditFault>) + Send + 'static) {
        let Some(audit) = &self.audit else { return };
        let metrics = self.metrics.clone();
        let written = move |outcome: Result<(), AuditFault>| {
            metrics.audited(Success::from(&outcome));
            tell(outcome);
        };
        audit.log.append(record, Box::new(written));
    }

    fn next(&self) -> CallId {
        CallId { server: self.server, number: self.calls.fetch_add(1, Ordering::Relaxed) }
    }
}

/// What all records of one call say.
#[derive(Debug)]
pub(super) struct Record {
    call: CallId,
    caller: Arc<AuditCaller>,
    method: Method,
    ground: &'static str,
    /// How many records of the caller were left out before.
    suppressed: u64,
    /// Where its price is given back, if it had one and was none of those that cost nothing.
    paid: Option<Budget>,
}

impl Record {
    fn of(&self, event: AuditEvent, target: Option<&str>) -> AuditRecord {
        AuditRecord {
            when: since_1970(),
            call: self.call,
            event,
            caller: Arc::clone(&self.caller),
            method: self.method.to_string().into(),
            ground: Some(self.ground.into()),
            target: target.map(Into::into),
            suppressed: 0,
        }
    }
}

/// A call that was let in, until it is over: whoever drops it before has ended it, and that is told.
#[derive(Debug)]
pub(super) struct UnderWay {
    caller: Caller,
    since: Instant,
    stage: Stage,
    /// Whether its code is running: when it is dropped meanwhile, the code has failed.
    is_polled: bool,
    _counted: Counted,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Served,
    Answered,
    Over,
}

impl UnderWay {
    pub(super) fn new(caller: Caller) -> Self {
        let counted = caller.recorder().metrics.call(caller.method().text().clone());
        Self { caller, since: Instant::now(), stage: Stage::Served, is_polled: false, _counted: counted }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Runs a piece of its code.
    pub(super) fn poll<T>(&mut self, code: impl FnOnce() -> T) -> T {
        self.is_polled = true;
        let result = code();
        self.is_polled = false;
        result
    }

    /// Its answer begins.
    pub(super) fn answered(&mut self) {
        self.stage = Stage::Answered;
    }

    /// It ended with the status in `headers`, if there is one.
    pub(super) fn ended_by(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.ended_with(&status);
        }
    }

    /// It ended with `status`.
    pub(super) fn ended_with(&mut self, status: &Status) {
        self.over(Outcome::Answered { status: word(status.code()), message: status.message().into() });
    }

    /// Its answer is at its end.
    pub(super) fn ended(&mut self) {
        self.over(Outcome::Answered { status: word(Code::Unknown), message: "it has no status".into() });
    }

    fn over(&mut self, outcome: Outcome) {
        if self.stage == Stage::Over {
            return;
        }
        self.stage = Stage::Over;
        let (took, recorder) = (self.since.elapsed(), self.caller.recorder());
        let success = if outcome.word() == word(Code::Ok) { Success::Ok } else { Success::Failed };
        recorder.metrics.called(self.caller.method().text().clone(), success, took);
        let Some(record) = self.caller.record() else { return };
        // It owned what it changed, or that lies within its scope: it is held up no more than those with powers.
        let is_harmless = success == Success::Ok || self.caller.had_power();
        if let Some(budget) = record.paid.as_ref().filter(|_| is_harmless) {
            budget.give_back(self.caller.peer());
        }
        let detail = self.caller.detail_said().filter(|said| !said.is_empty()).map(str::to_owned);
        let event = AuditEvent::Ended { outcome, took, detail };
        recorder.append(&record.of(event, self.caller.target_said()), |_| ());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.over(match (self.is_polled, self.stage) {
            (true, _) => Outcome::Panicked,
            (false, Stage::Served) => Outcome::Cancelled,
            (false, Stage::Answered | Stage::Over) => Outcome::CutOff,
        });
    }
}

fn who(peer: &Peer) -> AuditCaller {
    AuditCaller {
        user: peer.user().into(),
        node: peer.identity().and_then(|identity| identity.node.as_ref()).map(ToString::to_string),
        serial: serial(peer),
        fingerprint: peer.verified.as_ref().map(|verified| verified.fingerprint().to_string()),
        peer: peer.address.to_string(),
    }
}

fn serial(peer: &Peer) -> Option<String> {
    peer.verified.as_ref().map(|verified| verified.serial().to_string())
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The word for a status, as the specification of gRPC has it, in small letters.
const fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

//! Calls that failed, and when the next is made.

use std::time::Duration;

use super::{Connection, Phase, Sub};
use crate::herd::{Action, Moment, Status};
use crate::port::{AgentError, Chain, Unreachable};

impl Sub {
    /// There is something to do, but not now: look again after a pause that grows.
    pub(super) fn rest(
        &mut self,
        now: Moment,
        status: Status,
        detail: Option<String>,
        out: &mut Vec<Action>,
    ) {
        self.set(status, detail);
        self.pending = None;
        self.phase = Phase::Resting(Connection::Up);
        out.push(Action::WakeAt(now.after(self.pause())));
    }

    /// The call failed: say why, and connect again after a pause if the connection is to blame.
    pub(super) fn lost(&mut self, now: Moment, error: &AgentError, otherwise: Status, out: &mut Vec<Action>) {
        let status = match error {
            AgentError::Denied(_) => Status::PollDenied,
            AgentError::Unreachable { why: Unreachable::BadCertificate | Unreachable::WrongRole, .. } => {
                Status::BadCertificate
            }
            AgentError::Unreachable { why: Unreachable::MissingCertificate, .. } => {
                Status::MissingCertificate
            }
            AgentError::Unreachable { why, .. } if self.phase == Phase::Dialing => unreachable_status(*why),
            // The other words are for connections that never were.
            AgentError::Unreachable { .. } => otherwise,
            AgentError::NotNow(_)
            | AgentError::Refused(_)
            | AgentError::Unsupported
            | AgentError::Gone { .. }
            | AgentError::Fetch(_)
            | AgentError::Protocol(_)
            | AgentError::Failed { .. } => otherwise,
        };
        self.rest(now, status, Some(Chain(error).to_string()), out);
        if matches!(error, AgentError::Unreachable { .. } | AgentError::Protocol(_)) {
            self.phase = Phase::Resting(Connection::Down);
        }
    }

    /// Whoever refused us may take us now: try at once, over a new connection.
    pub(super) fn on_renewed(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Resting(_)) {
            self.renewed = true;
        } else if self.status.is_refused() {
            self.failures = 0;
            self.dial(out);
        }
    }

    pub(super) fn pause(&mut self) -> Duration {
        // The refusal may be of the certificate before; a next one will not.
        let renewed = std::mem::take(&mut self.renewed);
        if self.status.is_refused() && !renewed && !self.is_hurried() {
            self.failures = self.failures.saturating_add(1);
            return self.spread.within(self.settings.refused, self.failures);
        }
        let doubled = self.settings.retry_min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        self.spread.within(doubled.min(self.longest_pause()), self.failures)
    }
}

fn unreachable_status(why: Unreachable) -> Status {
    match why {
        Unreachable::Dns => Status::DnsError,
        Unreachable::Refused => Status::ConnectionRefused,
        Unreachable::NoRoute => Status::NoRouteToHost,
        Unreachable::Timeout => Status::ConnectTimeout,
        Unreachable::MissingCertificate => Status::MissingCertificate,
        Unreachable::BadCertificate | Unreachable::WrongRole => Status::BadCertificate,
        Unreachable::Other => Status::FailedToConnect,
    }
}

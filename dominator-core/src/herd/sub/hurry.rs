//! A machine that an operator waits for.

use std::time::Duration;

use super::{Phase, Sub};
use crate::herd::{Action, FastUpdate, Leave, Moment, Safety, Status};
use crate::port::Disruption;

/// Who waits, and for what.
#[derive(Debug)]
pub(super) struct Hurry {
    order: FastUpdate,
    news: News,
}

/// Whether the machine was looked at since the operator waits: what was found before is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    None,
    Looked,
}

impl Sub {
    /// The longest pause after a failure while somebody waits.
    const HURRIED_PAUSE: Duration = Duration::from_secs(5);

    /// Whether an operator waits for the machine. They no more do once it is what it must be, or is not going to be
    /// without somebody doing something about it, which is what its status says then.
    pub fn is_hurried(&self) -> bool {
        self.hurry.is_some()
    }

    pub(super) fn on_fast_update(&mut self, now: Moment, order: FastUpdate, out: &mut Vec<Action>) {
        self.hurry = Some(Box::new(Hurry { order, news: News::None }));
        self.leave.reboot = order.leave.reboot;
        (self.failures, self.hasty_polls) = (0, 0);
        match self.phase {
            // The call may be waiting for its turn; made anew, it need not.
            Phase::Dialing => return self.dial(out),
            Phase::Comparing => {
                self.phase = Phase::Polling;
                self.pending = None;
            }
            Phase::Resting(_)
            | Phase::Polling
            | Phase::Requiring
            | Phase::SettingView
            | Phase::Fetching
            | Phase::Updating
            | Phase::CleaningUp => {}
        }
        self.interrupt(now, out);
    }

    pub(super) fn has_looked(&mut self) {
        if let Some(hurry) = &mut self.hurry {
            hurry.news = News::Looked;
        }
    }

    /// Nobody waits for what won't come.
    pub(super) fn end_hurry(&mut self) {
        let looked = self.hurry.as_ref().is_some_and(|hurry| hurry.news == News::Looked);
        if looked && is_final(self.status) {
            self.hurry = None;
        }
    }

    /// Whether the plan may delete much.
    pub(super) fn safety(&self) -> Safety {
        match &self.hurry {
            Some(hurry) if hurry.order.safety == Safety::ClearedOnce => Safety::ClearedOnce,
            Some(_) | None => self.safety,
        }
    }

    /// What the update that is sent now may do to those who use the machine.
    pub(super) fn leave(&self) -> Leave {
        let forced = |hurry: &Hurry| hurry.order.leave.disruption == Disruption::Force;
        match &self.hurry {
            Some(hurry) if forced(hurry) => Leave { disruption: Disruption::Force, ..self.leave },
            Some(_) | None => self.leave,
        }
    }

    pub(super) fn longest_pause(&self) -> Duration {
        let longest = self.settings.retry_max;
        if self.is_hurried() { longest.min(Self::HURRIED_PAUSE) } else { longest }
    }
}

/// Whether the machine stays as it is until somebody does something about it. What time may mend is waited for.
fn is_final(status: Status) -> bool {
    matches!(
        status,
        Status::Synced
            | Status::BadImage
            | Status::FailedToUpdate
            | Status::FetchDenied
            | Status::ImageUndefined
            | Status::MissingComputedFile
            | Status::PollDenied
            | Status::RebootBlocked
            | Status::UnsafeUpdate
            | Status::Unwritable
            | Status::UpdateDenied
            | Status::UpdatesDisabled
    )
}

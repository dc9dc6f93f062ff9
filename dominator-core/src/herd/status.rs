use std::fmt;
use std::str::FromStr;

use thiserror::Error;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// How a machine stands, in the words of the reference, and one of our own. The strings are API: people and programs select by them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Status {
            $($(#[$doc])* $name,)*
        }

        impl Status {
            /// Every status, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The status as text.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

statuses! {
    /// Not looked at yet.
    #[default]
    Unknown = "unknown",
    /// A connection is being made.
    Connecting = "connecting",
    /// Its name has no address.
    DnsError = "DNS error",
    /// Nothing listens there.
    ConnectionRefused = "connection refused",
    /// No way leads there.
    NoRouteToHost = "no route to host",
    /// It did not answer in time.
    ConnectTimeout = "connect timeout",
    /// It wants a certificate of the controller's.
    MissingCertificate = "connect failed: missing certificate",
    /// One end did not accept the other's certificate.
    BadCertificate = "connect failed: bad certificate",
    /// The connection failed in another way.
    FailedToConnect = "connect failed",
    /// Connected, or told of a change, and about to be polled.
    WaitingToPoll = "waiting to poll",
    /// A poll is on its way.
    Polling = "polling",
    /// The controller's certificate does not list the method.
    PollDenied = "poll denied",
    /// The poll failed in another way.
    FailedToPoll = "poll failed",
    /// Its root can't be written to.
    Unwritable = "unwritable",
    /// It has not completed a scan yet.
    SubNotReady = "sub not ready",
    /// The machine data base names no image for it.
    ImageUndefined = "image undefined",
    /// Its image is not there (yet).
    ImageNotReady = "image not ready",
    /// Not enough room for the objects it lacks.
    NotEnoughFreeSpace = "insufficient space",
    /// Another client has it locked, or another order is being carried out.
    Locked = "locked",
    /// It is getting objects.
    Fetching = "fetching",
    /// The controller's certificate does not list the method.
    FetchDenied = "fetch denied",
    /// Getting objects failed.
    FailedToFetch = "fetch failed",
    /// Computed files are being pushed.
    Pushing = "pushing",
    /// The controller's certificate does not list the method.
    PushDenied = "push denied",
    /// Pushing failed.
    FailedToPush = "failed to push",
    /// An object to push could not be had.
    FailedToGetObject = "failed to get object",
    /// It is compared with its image.
    ComputingUpdate = "computing update",
    /// The plan is on its way.
    SendingUpdate = "sending update",
    /// A computed file has no contents for it.
    MissingComputedFile = "missing computed file",
    /// It differs, but is not to be changed.
    UpdatesDisabled = "updates disabled",
    /// The plan would delete so much that a person must agree first.
    UnsafeUpdate = "unsafe update",
    /// Leave to disturb its users was asked for.
    DisruptionRequested = "disruption requested",
    /// Leave to disturb its users was refused.
    DisruptionDenied = "disruption denied",
    /// It is applying the plan.
    Updating = "updating",
    /// The controller's certificate does not list the method.
    UpdateDenied = "update denied",
    /// The plan could not be carried out wholly.
    FailedToUpdate = "update failed",
    /// The plan needs a reboot that was not wanted.
    RebootBlocked = "reboot blocked",
    /// The image was found bad on this machine and is not tried again until it is forgiven.
    BadImage = "bad image",
    /// It was updated and has not been scanned since.
    WaitingForNextFullPoll = "waiting for next full poll",
    /// It is what it must be.
    Synced = "synced",
}

impl Status {
    /// Whether a certificate, or what it lists, stands in the way: nothing that passes by itself.
    pub const fn is_refused(self) -> bool {
        matches!(
            self,
            Self::MissingCertificate
                | Self::BadCertificate
                | Self::PollDenied
                | Self::FetchDenied
                | Self::PushDenied
                | Self::UpdateDenied
        )
    }

    /// Whether the machine answered when it was last tried.
    pub const fn is_alive(self) -> bool {
        !matches!(
            self,
            Self::Unknown
                | Self::Connecting
                | Self::DnsError
                | Self::ConnectionRefused
                | Self::NoRouteToHost
                | Self::ConnectTimeout
                | Self::MissingCertificate
                | Self::BadCertificate
                | Self::FailedToConnect
                | Self::FailedToPoll
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Status {
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, BadStatus> {
        Self::ALL.iter().copied().find(|status| status.text() == text).ok_or_else(|| BadStatus(text.into()))
    }
}

/// Text that is no status.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no status; \"synced\" and \"connection refused\" are")]
pub struct BadStatus(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_the_references_39_statuses_and_one_of_ours_with_a_text_each() {
        assert_eq!(Status::ALL.len(), 40);
        for status in Status::ALL {
            assert_eq!(status.text().parse(), Ok(*status));
        }
    }
}

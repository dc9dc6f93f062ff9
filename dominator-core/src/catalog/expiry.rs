use std::time::Duration;

use thiserror::Error;

/// How far off an end may be put, from when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryLimits {
    /// By those who own an image.
    pub ordinary: Duration,
    /// By those whose certificates list the method.
    pub privileged: Duration,
}

impl Default for ExpiryLimits {
    /// The reference's: a day, and 730 hours.
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { ordinary: hours(24), privileged: hours(730) }
    }
}

/// What somebody wants the end of an image to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryChange {
    /// In seconds since 1970; never, if not given.
    pub to: Option<u64>,
    /// When that is asked for, in seconds since 1970.
    pub now: u64,
    /// Whether by somebody whose certificate lists the method.
    pub privileged: bool,
    /// How far off it may be put.
    pub limits: ExpiryLimits,
}

impl ExpiryChange {
    /// Whether that may be done to an image that ends at `end` so far.
    ///
    /// An end is only ever put off, or called off by those who may; what is meant to stay stays. Who wants an image gone
    /// deletes it.
    ///
    /// # Errors
    /// [`ExpiryRefusal`].
    pub fn judge(&self, end: Option<u64>) -> Result<(), ExpiryRefusal> {
        let Some(end) = end else { return Err(ExpiryRefusal::Permanent) };
        if end <= self.now {
            return Err(ExpiryRefusal::Over);
        }
        let Some(to) = self.to else {
            return if self.privileged { Ok(()) } else { Err(ExpiryRefusal::Removal) };
        };
        if to < end {
            return Err(ExpiryRefusal::Sooner { end });
        }
        let limit = if self.privileged { self.limits.privileged } else { self.limits.ordinary };
        if to - self.now > limit.as_secs() {
            return Err(ExpiryRefusal::TooLate { limit });
        }
        Ok(())
    }
}

/// Why an image's end stays what it is, or an image is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExpiryRefusal {
    /// It does not end by itself.
    #[error("the image does not expire, and can't be made to; delete it when it is not needed any more")]
    Permanent,
    /// Its time has come already.
    #[error("the image has expired; add it again, with a later time")]
    Over,
    /// Only those with powers call an end off.
    #[error("only whose certificate lists ImageServer.ChangeImageExpiration may make an image stay for ever")]
    Removal,
    /// Ends are only put off.
    #[error("an expiry can only be put off, and the image ends at {end} (seconds since 1970)")]
    Sooner {
        /// When it ends, in seconds since 1970.
        end: u64,
    },
    /// That is further than whoever asks may put it off.
    #[error("an expiry may be put off until {} from now, no further", span(*limit))]
    TooLate {
        /// How far from when it is asked for.
        limit: Duration,
    },
}

fn span(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

//! What comes to its end some day, and is told of in time.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use dominator_pki::{Validity, rfc3339};

const DAY: Duration = Duration::from_secs(86_400);

/// How near an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Month,
    Week,
    Day,
    Over,
}

impl Stage {
    /// Each with what is left then at most.
    const ALL: [(Self, Duration); 4] = [
        (Self::Month, DAY.saturating_mul(30)),
        (Self::Week, DAY.saturating_mul(7)),
        (Self::Day, DAY),
        (Self::Over, Duration::ZERO),
    ];

    /// How near the end of something is at `now`. What never lasts long is not near its end as soon as it begins: only
    /// what is left of the second half counts.
    fn of(valid: Validity, now: SystemTime) -> Option<Self> {
        let Some(left) = valid.remaining(now) else { return Some(Self::Over) };
        let half = valid.not_after.duration_since(valid.not_before).unwrap_or_default() / 2;
        let reached = |(_, at_most): &&(Self, Duration)| left <= *at_most && *at_most < half;
        Self::ALL.iter().rev().find(reached).map(|(stage, _)| *stage)
    }
}

/// Remembers what was told. A new one tells all of it again.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    told: HashMap<String, (SystemTime, Stage)>,
}

impl Expiry {
    /// What is to be said at `now` of `what`, as in "our certificate in /x", once for each stage: 30 days, 7 days and one
    /// day before its end, and when it is over.
    /// `then` says what its end is the end of.
    pub(super) fn look(
        &mut self,
        what: &str,
        valid: Validity,
        then: &str,
        now: SystemTime,
    ) -> Option<Warning> {
        let stage = Stage::of(valid, now)?;
        let end = valid.not_after;
        let is_news = self.told.get(what).is_none_or(|(of, told)| *of != end || *told < stage);
        if !is_news {
            return None;
        }
        self.told.insert(what.into(), (end, stage));
        let end = rfc3339(end);
        Some(match stage {
            Stage::Month | Stage::Week | Stage::Day => {
                let days = valid.remaining(now).unwrap_or_default().as_secs().div_ceil(DAY.as_secs());
                let plural = if days == 1 { "day" } else { "days" };
                Warning::Soon(format!(
                    "{what} expires within {days} {plural}, at {end}; have it renewed{then}"
                ))
            }
            Stage::Over => Warning::Over(format!(
                "{what} expired at {end}, and by this machine's clock it is {}; have it renewed{then}",
                rfc3339(now)
            )),
        })
    }
}

/// Words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    Soon(String),
    Over(String),
}

impl Warning {
    pub(super) fn tell(&self) {
        match self {
            Self::Soon(words) => tracing::warn!("{words}"),
            Self::Over(words) => tracing::error!("{words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of something that lives for `life` days when it is looked at with so many hours left.
    fn told(life: u32, hours_left: &[i32]) -> Vec<(i32, String)> {
        let begin = SystemTime::UNIX_EPOCH + DAY * 1000;
        let valid = Validity { not_before: begin, not_after: begin + DAY * life };
        let mut expiry = Expiry::default();
        let mut look = |hours: i32| {
            let hour = Duration::from_secs(3600) * hours.unsigned_abs();
            let now = if hours < 0 { valid.not_after + hour } else { valid.not_after - hour };
            let (Warning::Soon(words) | Warning::Over(words)) = expiry.look("it", valid, "", now)?;
            Some((hours, words.split(',').next().unwrap().to_owned()))
        };
        hours_left.iter().filter_map(|hours| look(*hours)).collect()
    }

    #[test]
    fn an_end_is_told_of_a_month_a_week_and_a_day_before_and_once_it_is_there_and_not_again() {
        let hours = [800, 721, 720, 719, 169, 168, 100, 24, 23, 1, -1, -2];
        let expected = [
            (720, "it expires within 30 days"),
            (168, "it expires within 7 days"),
            (24, "it expires within 1 day"),
            (-1, "it expired at 1975-09-27T00:00:00Z"),
        ];
        let expected: Vec<_> = expected.map(|(hours, words)| (hours, words.to_owned())).into();
        let mut found = told(1096, &hours);
        found.last_mut().unwrap().1 = expected[3].1.clone();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_lives_short_is_told_of_late_and_who_comes_late_is_told_the_nearest() {
        let of =
            |life, hours: &[i32]| told(life, hours).into_iter().map(|(hours, _)| hours).collect::<Vec<_>>();
        assert_eq!(of(30, &[719, 360, 169, 168, 24, -1]), [168, 24, -1]);
        assert_eq!(of(1, &[23, 12, 1, -1]), [-1]);
        assert_eq!(of(1096, &[100, 99]), [100]);
    }

    #[test]
    fn what_was_renewed_is_told_of_anew() {
        let begin = SystemTime::UNIX_EPOCH;
        let valid = |days: u32| Validity { not_before: begin, not_after: begin + DAY * days };
        let mut expiry = Expiry::default();
        let now = begin + DAY * 95;
        assert!(expiry.look("it", valid(100), "", now).is_some());
        assert_eq!(expiry.look("it", valid(1000), "", now), None);
        assert_eq!(expiry.look("another", valid(1000), "", now), None);
        assert!(expiry.look("it", valid(101), "", now).is_some());
    }
}

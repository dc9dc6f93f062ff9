//! When to look where changes were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;

use crate::watch::Changes;

/// Where changes were seen that were not looked at yet, and when to do that.
///
/// A little later than seen, as changes seldom come alone; and where there are new ones after every look, ever more
/// seldom, until it is no more often than scans are made anyway: a file that is written to all the time must not keep
/// the agent busy.
#[derive(Debug)]
pub(super) struct Hints {
    /// With the time to look. Nothing stands for everything.
    waiting: BTreeMap<Option<ImagePath>, Instant>,
    /// Where it was looked lately.
    looked: BTreeMap<Option<ImagePath>, Look>,
    longest: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    pause: Duration,
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Everywhere,
    Only(BTreeSet<ImagePath>),
}

impl Hints {
    /// How long changes are gathered before somebody looks.
    const GATHER: Duration = Duration::from_millis(100);
    /// How long a place must have been quiet, beyond twice its pause, to be looked at as if nothing had been.
    const QUIET: Duration = Duration::from_secs(1);
    /// How many places are remembered. Of a machine where more change all the time, everything is looked at.
    const PLACES: usize = 4096;

    /// No place is looked at more often than every `longest`, in the end.
    pub(super) fn new(longest: Duration) -> Self {
        Self { waiting: BTreeMap::new(), looked: BTreeMap::new(), longest }
    }

    /// Takes in what was seen.
    pub(super) fn add(&mut self, now: Instant, changes: Changes) {
        let places = match changes {
            Changes::Nothing => return,
            Changes::Directories(paths) => paths.into_iter().map(Some).collect(),
            Changes::Everything => vec![None],
        };
        for place in places {
            let due = self.earliest(now, &place);
            self.waiting.entry(place).or_insert(due);
        }
        if self.waiting.len() > Self::PLACES {
            // Also where it is always other places that change.
            let soonest = self.waiting.values().min().copied().unwrap_or(now);
            self.waiting = BTreeMap::from([(None, soonest.max(self.earliest(now, &None)))]);
        }
    }

    fn earliest(&self, now: Instant, place: &Option<ImagePath>) -> Instant {
        let looked = self.looked.get(place).map(|look| look.at + look.pause);
        looked.unwrap_or(now).max(now + Self::GATHER)
    }

    /// When to look next; nothing, when nothing was seen.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Where to look now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Where> {
        let due: BTreeSet<_> =
            self.waiting.iter().filter(|(_, due)| **due <= now).map(|(place, _)| place.clone()).collect();
        if due.is_empty() {
            return None;
        }
        due.iter().for_each(|place| self.look(now, place));
        if due.contains(&None) {
            self.waiting.clear();
            return Some(Where::Everywhere);
        }
        self.waiting.retain(|place, _| !due.contains(place));
        Some(Where::Only(due.into_iter().flatten().collect()))
    }

    /// Everything is about to be looked at, whatever was seen so far.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    fn look(&mut self, now: Instant, place: &Option<ImagePath>) {
        self.looked.retain(|_, look| now < look.at + look.pause * 2 + Self::QUIET);
        if self.looked.len() >= Self::PLACES {
            self.looked.retain(|place, _| place.is_none());
        }
        let pause = self.looked.get(place).map_or(Self::GATHER, |look| look.pause * 2).min(self.longest);
        self.looked.insert(place.clone(), Look { at: now, pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seen(paths: &[&str]) -> Changes {
        Changes::Directories(paths.iter().map(|path| ImagePath::parse(path.as_bytes()).unwrap()).collect())
    }

    fn only(paths: &[&str]) -> Option<Where> {
        let Changes::Directories(paths) = seen(paths) else { return None };
        Some(Where::Only(paths))
    }

    #[test]
    fn changes_that_come_together_are_looked_at_together_and_soon() {
        let (mut hints, began) = (Hints::new(MINUTE), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(hints.due(), None);
        hints.add(at(0), seen(&["/a"]));
        hints.add(at(60), seen(&["/a", "/b"]));
        assert_eq!(hints.due(), Some(at(100)), "more changes don't put it off");
        assert_eq!(hints.take(at(99)), None);
        assert_eq!(hints.take(at(160)), only(&["/a", "/b"]));
        assert_eq!((hints.due(), hints.take(at(1000))), (None, None));
        hints.add(at(70_000), seen(&["/a"]));
        hints.add(at(70_000), Changes::Everything);
        assert_eq!(hints.take(at(70_100)), Some(Where::Everywhere));
        assert_eq!(hints.due(), None, "that is part of it");
    }

    #[test]
    fn what_changes_all_the_time_is_looked_at_ever_more_seldom_but_does_not_hide_the_rest() {
        let (mut hints, began) = (Hints::new(MINUTE), Instant::now());
        let mut looks = Vec::new();
        for tick in 0..36_000_u64 {
            let now = began + Duration::from_millis(tick * 100);
            hints.add(now, seen(&["/busy"]));
            if hints.take(now).is_some() {
                looks.push(tick);
            }
        }
        assert!((60..75).contains(&looks.len()), "in an hour: {looks:?}");
        let now = began + Duration::from_secs(3600);
        hints.take(now + MINUTE);
        hints.add(now + MINUTE, seen(&["/busy", "/etc"]));
        assert_eq!(hints.take(now + MINUTE + Hints::GATHER), only(&["/etc"]));
        // After a time of quiet it is as if nothing had been.
        let now = now + MINUTE * 10;
        hints.take(now);
        hints.add(now + MINUTE * 3, seen(&["/etc"]));
        hints.take(now + MINUTE * 4);
        hints.add(now + MINUTE * 5, seen(&["/busy"]));
        assert_eq!(hints.due(), Some(now + MINUTE * 5 + Hints::GATHER));
    }

    #[test]
    fn a_storm_is_remembered_as_everything() {
        let (mut hints, now) = (Hints::new(MINUTE), Instant::now());
        for number in 0..=Hints::PLACES {
            hints.add(now, seen(&[&format!("/{number}")]));
        }
        assert_eq!(hints.waiting.len(), 1);
        assert_eq!(hints.take(now + Hints::GATHER), Some(Where::Everywhere));
    }

    #[test]
    fn storms_that_never_end_are_looked_at_ever_more_seldom_as_well() {
        let (mut hints, began) = (Hints::new(MINUTE), Instant::now());
        let (mut looks, mut number) = (0, 0);
        for second in 0..600 {
            let now = began + Duration::from_secs(second);
            let paths: Vec<_> = (0..=Hints::PLACES).map(|at| format!("/{}", number + at)).collect();
            number += paths.len();
            hints.add(now, seen(&paths.iter().map(String::as_str).collect::<Vec<_>>()));
            looks += usize::from(hints.take(now + Hints::GATHER).is_some());
        }
        assert!(looks < 30, "{looks} scans of everything in ten minutes");
    }
}

//! When objects that no image needs are removed, and how many of them.

use thiserror::Error;

/// The room of a file-system, without what is reserved for root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// All of it, in bytes.
    pub size: u64,
    /// What is free, in bytes.
    pub free: u64,
}

/// When garbage is collected, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    begin: u8,
    end: u8,
    most: Option<u64>,
}

impl Default for Thresholds {
    /// From less than 5 % of the disk free until 10 % are.
    fn default() -> Self {
        Self { begin: 5, end: 10, most: None }
    }
}

impl Thresholds {
    /// Collects when less than `begin` percent of the disk are free, until `end` percent are; and what is beyond `most`
    /// bytes of garbage, however much is free.
    ///
    /// # Errors
    /// [`BadThresholds`] when it would end before it begins.
    pub fn new(begin: u8, end: u8, most: Option<u64>) -> Result<Self, BadThresholds> {
        if begin <= end && end <= 100 {
            Ok(Self { begin, end, most })
        } else {
            Err(BadThresholds { begin, end })
        }
    }

    /// Whether the disk alone is reason to collect.
    pub fn is_full(&self, disk: Disk) -> bool {
        disk.free < share(disk.size, self.begin)
    }

    /// Whether how much garbage there is may be reason to.
    pub fn has_budget(&self) -> bool {
        self.most.is_some()
    }

    /// How many bytes of garbage are to be removed when there are `garbage` of them; none when all is well.
    pub fn excess(&self, disk: Disk, garbage: u64) -> u64 {
        let pressed =
            if self.is_full(disk) { share(disk.size, self.end).saturating_sub(disk.free) } else { 0 };
        let beyond = self.most.map_or(0, |most| garbage.saturating_sub(most));
        pressed.max(beyond).min(garbage)
    }
}

/// Thresholds that make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "garbage can't be collected from {begin} % free on until {end} % are: the second must not be less, nor over 100"
)]
pub struct BadThresholds {
    /// In percent.
    pub begin: u8,
    /// In percent.
    pub end: u8,
}

/// So many percent of something.
fn share(of: u64, percent: u8) -> u64 {
    let share = u128::from(of) * u128::from(percent) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_goes_when_the_disk_is_full_or_there_is_too_much_of_it() {
        let thresholds = |most| Thresholds::new(5, 10, most).unwrap();
        // The free part of 1000 bytes, how much garbage there is, how much is allowed, and how much goes.
        for (free, garbage, most, gone) in [
            (500, 400, None, 0),
            (50, 400, None, 0),
            (49, 400, None, 51),
            (49, 30, None, 30),
            (0, 0, None, 0),
            (0, 400, None, 100),
            (500, 400, Some(400), 0),
            (500, 400, Some(150), 250),
            (0, 400, Some(350), 100),
            (0, 400, Some(0), 400),
        ] {
            let disk = Disk { size: 1000, free };
            assert_eq!(thresholds(most).excess(disk, garbage), gone, "{free} free, {garbage}, {most:?}");
        }
        assert_eq!(share(u64::MAX, 100), u64::MAX);
    }

    #[test]
    fn thresholds_that_never_end_are_refused() {
        assert!(Thresholds::new(10, 5, None).is_err() && Thresholds::new(5, 101, None).is_err());
        assert!(Thresholds::new(0, 0, None).is_ok());
    }
}

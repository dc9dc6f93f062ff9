use crate::object::ObjectId;

/// An object that no image needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreferenced {
    /// Which.
    pub id: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// When it was added, or known to be needed last, in seconds since 1970.
    pub since: u64,
}

/// How many objects, and how long they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// In bytes.
    pub bytes: u64,
}

impl Amount {
    /// With one more object.
    #[must_use]
    pub fn and(self, size: u64) -> Self {
        Self { objects: self.objects + 1, bytes: self.bytes.saturating_add(size) }
    }
}

/// What a collection of garbage came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// What was removed.
    pub removed: Amount,
    /// What could have been removed, but need not be.
    pub left: Amount,
}

/// How much of the garbage is to be removed: what is asked for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// At least that much of its bytes, in percent.
    pub percent: u8,
    /// At least so many bytes, as far as there are.
    pub bytes: u64,
}

impl Share {
    /// How many bytes that is of so many.
    pub fn of(self, garbage: u64) -> u64 {
        let part = u128::from(garbage) * u128::from(self.percent.min(100));
        let part = u64::try_from(part.div_ceil(100)).unwrap_or(u64::MAX);
        part.max(self.bytes).min(garbage)
    }
}

/// What some images take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectStatistics {
    /// What they need together, each object once.
    pub needed: Amount,
    /// What of this no other image needs.
    pub alone: Amount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_is_asked_for_more() {
        for (percent, bytes, garbage, share) in [
            (0, 0, 99, 0),
            (100, 0, 99, 99),
            (50, 0, 99, 50),
            (0, 30, 99, 30),
            (10, 30, 99, 30),
            (0, 500, 99, 99),
        ] {
            assert_eq!(Share { percent, bytes }.of(garbage), share, "{percent} %, {bytes} of {garbage}");
        }
        assert_eq!(Share { percent: 255, bytes: 0 }.of(u64::MAX), u64::MAX);
    }
}

//! One pass of a scrub: from where to where, and how fast.

use std::time::Duration;

use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;

/// How far a pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) began: Timestamp,
    /// How much there was to read when it began, in bytes.
    pub(super) total: u64,
    /// How much of that is behind, in bytes; also what was not read because it had changed.
    pub(super) done: u64,
    pub(super) position: Position,
}

/// What a pass has behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Beginning,
    /// All files up to this one.
    After(ImagePath),
    /// Everything.
    End,
}

impl Pass {
    /// A file of a pass is never longer.
    pub(super) const LIMIT: u64 = 16 * 1024;
    const VERSION: &'static str = "scrub 1";

    /// How long to wait until it may go on: at a steady rate it ends when `time` has passed since it began.
    pub(super) fn wait(&self, now: Timestamp, time: Duration, partly: u64) -> Duration {
        let due = match self.position {
            Position::End => time,
            Position::Beginning | Position::After(_) => {
                let done = self.done.saturating_add(partly).min(self.total);
                let nanos = time.as_nanos().saturating_mul(done.into()) / u128::from(self.total.max(1));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        };
        due.saturating_sub(elapsed(self.began, now))
    }

    /// Goes by a clock that was set back as if the pass had begun when it says.
    pub(super) fn notice(&mut self, now: Timestamp) {
        self.began = self.began.min(now);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let position = match &self.position {
            Position::Beginning => "beginning".to_owned(),
            Position::After(path) => format!("after {}", hex(path.as_bytes())),
            Position::End => "end".to_owned(),
        };
        let Self { began, total, done, .. } = self;
        let (seconds, nanos) = (began.seconds(), began.nanos());
        let text = format!("{}\n{seconds} {nanos}\n{total}\n{done}\n{position}\n", Self::VERSION);
        let digest = ObjectId::of(text.as_bytes());
        format!("{text}{digest}\n").into_bytes()
    }

    /// What was encoded; nothing when there is any doubt.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (text, digest) = text.split_at_checked(text.rfind('\n')?.saturating_add(1))?;
        if ObjectId::of(text.as_bytes()).to_string() != digest {
            return None;
        }
        let mut lines = text.split_terminator('\n');
        if lines.next()? != Self::VERSION {
            return None;
        }
        let (seconds, nanos) = lines.next()?.split_once(' ')?;
        let began = Timestamp::new(seconds.parse().ok()?, nanos.parse().ok()?)?;
        let (total, done) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
        let position = match lines.next()? {
            "beginning" => Position::Beginning,
            "end" => Position::End,
            line => Position::After(ImagePath::parse(&unhex(line.strip_prefix("after ")?)?).ok()?),
        };
        lines.next().is_none().then_some(Self { began, total, done, position })
    }
}

/// How long ago that was; no time when it is still to come.
fn elapsed(began: Timestamp, now: Timestamp) -> Duration {
    u64::try_from(now.nanos_since(began).max(0)).map_or(Duration::MAX, Duration::from_nanos)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 0).unwrap()
    }

    fn pass(position: Position) -> Pass {
        Pass { began: Timestamp::new(1000, 7).unwrap(), total: 200, done: 50, position }
    }

    #[test]
    fn what_is_kept_of_a_pass_is_whole_or_nothing() {
        let path = ImagePath::parse(b"/etc/a\nb\xff").unwrap();
        for position in [Position::Beginning, Position::After(path), Position::End] {
            let pass = pass(position);
            let encoded = pass.encode();
            assert_eq!(Pass::decode(&encoded), Some(pass));
            for len in 0..encoded.len() {
                assert_eq!(Pass::decode(&encoded[..len]), None);
                let mut damaged = encoded.clone();
                damaged[len] ^= 1;
                assert_eq!(Pass::decode(&damaged), None, "byte {len}");
            }
        }
        let text = "scrub 2\n0 0\n0\n0\nend\n";
        let later = format!("{text}{}\n", ObjectId::of(text.as_bytes()));
        assert_eq!(Pass::decode(later.as_bytes()), None);
    }

    #[test]
    fn the_longest_path_fits_into_the_limit() {
        let path = [b"/".as_slice(), &[b'x'; 255]].concat().repeat(16);
        let pass = pass(Position::After(ImagePath::parse(&path).unwrap()));
        assert!(pass.encode().len() as u64 <= Pass::LIMIT);
    }

    #[test]
    fn a_pass_is_as_far_as_its_time() {
        let day = Duration::from_secs(86_400);
        let mut pass = Pass { began: at(0), total: 1000, done: 250, position: Position::Beginning };
        assert_eq!(pass.wait(at(0), day, 0), day / 4);
        assert_eq!(pass.wait(at(0), day, 250), day / 2);
        assert_eq!(pass.wait(at(21_600), day, 0), Duration::ZERO);
        assert_eq!(pass.wait(at(50_000), day, 0), Duration::ZERO);
        pass.done = 5000;
        assert_eq!(pass.wait(at(0), day, 0), day, "there is more than there was");
        pass.position = Position::End;
        assert_eq!(pass.wait(at(86_399), day, 0), Duration::from_secs(1));
        assert_eq!(pass.wait(at(86_400), day, 0), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_a_pass_for_years() {
        let mut pass = Pass { began: at(2_000_000_000), total: 10, done: 0, position: Position::End };
        pass.notice(at(1_000_000_000));
        assert_eq!(pass.wait(at(1_000_000_000), Duration::from_secs(60), 0), Duration::from_secs(60));
    }
}

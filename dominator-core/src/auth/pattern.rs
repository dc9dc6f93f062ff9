//! Shell patterns over method names.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::Method;

/// A shell pattern over method names, as a certificate lists it: `Subd.Poll`, `Subd.*`, `*.*`.
///
/// `*`, `?`, `[a-z]` and `[^a]` work as in a shell and never cross the dot, of which there is exactly one. There are no
/// other forms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodPattern {
    service: Half,
    name: Half,
}

/// What stands on one side of the dot. Most patterns are words or `*`, and servers try them with every call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Half {
    Any,
    Word(String),
    Glob(String),
}

impl Half {
    fn new(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            word if word.bytes().all(is_word) => Self::Word(word.into()),
            other => Self::Glob(other.into()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Word(word) => word == text,
            Self::Glob(pattern) => glob(pattern.as_bytes(), text.as_bytes()),
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Word(text) | Self::Glob(text) => f.write_str(text),
        }
    }
}

impl MethodPattern {
    /// The longest pattern accepted, in bytes.
    pub const MAX_LEN: usize = 256;

    /// Whether `method` is one of those this pattern grants.
    pub fn matches(&self, method: &Method) -> bool {
        self.service.matches(method.service()) && self.name.matches(method.name())
    }

    /// Parses a list as `make-cert` takes it: separated by commas or newlines, blank items and `#` comments dropped.
    ///
    /// # Errors
    /// [`BadPattern`] for the first item that is no pattern.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, BadPattern> {
        text.lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl FromStr for MethodPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(text.chars().take(Self::MAX_LEN).collect());
        let half = |s: &str| !s.is_empty() && well_formed(s.as_bytes());
        let (service, name) = text.split_once('.').ok_or_else(bad)?;
        let fits = text.len() <= Self::MAX_LEN && half(service) && half(name);
        fits.then(|| Self { service: Half::new(service), name: Half::new(name) }).ok_or_else(bad)
    }
}

impl fmt::Display for MethodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.name)
    }
}

/// Text that is no method pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a method pattern; write Service.Method with exactly one dot, as in Subd.Poll or ImageServer.* (patterns may have *, ?, [a-z] and [^a], and nothing else)"
)]
pub struct BadPattern(String);

/// Letters, digits, `_`, single `*`s, `?` and well-formed sets.
///
/// Every other form is refused, since matchers disagree on them: `[!a]` leaves out `a` in a shell and means it elsewhere,
/// `**` crosses separators for some, and a set with a dash at its edge is an error for others.
fn well_formed(mut pattern: &[u8]) -> bool {
    let mut star = false;
    while let Some((first, after)) = pattern.split_first() {
        pattern = match first {
            b'[' => match set(after) {
                Some(rest) => rest,
                None => return false,
            },
            b'*' if star => return false,
            b'*' | b'?' => after,
            letter if is_word(*letter) => after,
            _ => return false,
        };
        star = *first == b'*';
    }
    true
}

/// What follows a set whose bracket was opened, if it is one: `[a-z_]`, `[^a]`.
fn set(inside: &[u8]) -> Option<&[u8]> {
    let mut rest = inside.strip_prefix(b"^").unwrap_or(inside);
    loop {
        rest = match rest {
            [low, b'-', high, after @ ..] if is_word(*low) && is_word(*high) && low <= high => after,
            [b'-' | b']', ..] | [_, b'-', ..] => return None,
            [one, after @ ..] if is_word(*one) => after,
            _ => return None,
        };
        if let Some(after) = rest.strip_prefix(b"]") {
            return Some(after);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Shell matching over ASCII, iterative with one point of return, so that its time is bounded by the product of lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // Most patterns that don't match end otherwise, and show it without any going back and forth.
    while let Some((last, before)) = rest.split_last().filter(|(last, _)| is_word(**last)) {
        (rest, left) = match left.split_last() {
            Some((byte, head)) if byte == last => (before, head),
            _ => return false,
        };
    }
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (rest.split_first(), left.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, left));
                rest = after;
            }
            (None, None) => return true,
            (Some(_), Some((byte, tail))) => match one(rest, *byte) {
                Some(after) => (rest, left) = (after, tail),
                None => match step_back(&mut retry) {
                    Some(next) => (rest, left) = next,
                    None => return false,
                },
            },
            (None, Some(_)) => match step_back(&mut retry) {
                Some(next) => (rest, left) = next,
                None => return false,
            },
            (Some(_), None) => return false,
        }
    }
}

/// Lets the last `*` take one byte more.
fn step_back<'a>(retry: &mut Option<(&'a [u8], &'a [u8])>) -> Option<(&'a [u8], &'a [u8])> {
    let (pattern, text) = retry.take()?;
    let (_, tail) = text.split_first()?;
    *retry = Some((pattern, tail));
    *retry
}

/// Matches one byte against the pattern's first element and returns what follows that element.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, after) = pattern.split_first()?;
    match first {
        b'?' => Some(after),
        b'[' => {
            let end = after.iter().position(|b| *b == b']')?;
            let (class, tail) = (after.get(..end)?, after.get(end + 1..)?);
            class_holds(class, byte).then_some(tail)
        }
        literal => (*literal == byte).then_some(after),
    }
}

fn class_holds(class: &[u8], byte: u8) -> bool {
    let (negated, mut rest) = match class.split_first() {
        Some((b'^', tail)) => (true, tail),
        _ => (false, class),
    };
    let mut held = false;
    while let Some((low, after)) = rest.split_first() {
        rest = match after {
            [b'-', high, tail @ ..] => {
                held |= (*low..=*high).contains(&byte);
                tail
            }
            _ => {
                held |= *low == byte;
                after
            }
        };
    }
    held != negated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grants(pattern: &str, method: &str) -> bool {
        pattern.parse::<MethodPattern>().unwrap().matches(&method.parse().unwrap())
    }

    #[test]
    fn patterns_match_as_in_a_shell_and_never_cross_the_dot() {
        let yes = [
            ("Subd.Poll", "Subd.Poll"),
            ("Subd.*", "Subd.Poll"),
            ("*.*", "Subd.Poll"),
            ("S?bd.P*l", "Subd.Poll"),
        ];
        let no = [
            ("Subd.Poll", "Subd.Pol"),
            ("Subd.*", "Subdue.Poll"),
            ("*.Get", "Subd.Poll"),
            ("S[^u]bd.*", "Subd.Poll"),
        ];
        for (pattern, method) in yes {
            assert!(grants(pattern, method), "{pattern} must grant {method}");
        }
        for (pattern, method) in no {
            assert!(!grants(pattern, method), "{pattern} must not grant {method}");
        }
        assert!(grants("Image[R-T]erver.*", "ImageServer.GetImage"));
    }

    #[test]
    fn only_one_dot_makes_a_pattern() {
        for bad in
            ["", ".", "Subd", "Subd.", ".Poll", "a.b.c", "*", "Subd/Poll.x", "S[ubd.*", "S]ubd.*", "Sübd.x"]
        {
            assert!(bad.parse::<MethodPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn forms_that_matchers_disagree_on_are_no_patterns() {
        let bad = [
            "[!a]x",
            "{a,b}",
            "\\*",
            "\\S",
            "**",
            "a**b",
            "[[:alpha:]]",
            "[]",
            "[^]",
            "[]a]",
            "[a-]",
            "[-a]",
            "[z-a]",
            "[a-c-e]",
            "[a",
            "a]",
            "!a",
            "a-b",
            "^a",
            "[^^]",
            "[*]",
            "[a.b]",
            "+(a)",
            "a b",
            "a\n",
            "ü",
            "a|b",
            "~",
            "$x",
        ];
        for half in bad {
            for text in [format!("{half}.Poll"), format!("Subd.{half}")] {
                assert!(text.parse::<MethodPattern>().is_err(), "{text:?}");
            }
        }
        for good in ["*", "?", "*a*", "*?*", "[a]", "[^a]", "[a-z0-9_]*", "[a-a]", "[^A-Z]?[ab]"] {
            assert!(format!("{good}.{good}").parse::<MethodPattern>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn lists_come_from_files_and_from_commas() {
        let listed = MethodPattern::parse_list(
            "ImageServer.*, Subd.Poll\n# a comment\n\nObjectServer.GetObjects # why",
        )
        .unwrap();
        let text: Vec<String> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["ImageServer.*", "Subd.Poll", "ObjectServer.GetObjects"]);
        assert!(MethodPattern::parse_list("Subd.Poll, everything").is_err());
    }

    /// The obvious exponential matcher, to check the fast one against.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((b'?', rest)) => !text.is_empty() && slow(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_obvious_one(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_set_is_well_formed_or_refused_whatever_it_holds(inside in "[ab^\\]\\[*!-]{0,6}") {
            let text = format!("[{inside}].x");
            let members = "ab".chars().filter(|c| {
                text.parse::<MethodPattern>().is_ok_and(|set| set.matches(&format!("{c}.x").parse().unwrap()))
            });
            // Sets are made of letters and ranges, so that a plain list of letters says what each matches.
            let plain = inside.chars().all(|c| "ab".contains(c)) && !inside.is_empty();
            let members: String = members.collect();
            if plain {
                prop_assert!("ab".chars().all(|c| members.contains(c) == inside.contains(c)));
            }
            if inside.contains(['!', '*', '[', ']']) {
                prop_assert!(members.is_empty());
            }
        }
    }
}

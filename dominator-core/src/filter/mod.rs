//! Filters: which paths an image leaves alone, as lines of regular expressions.

mod form;
mod lint;
mod matcher;
mod shape;
mod trie;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub use self::lint::{Explanation, Finding, Lint, Surprise, Weight};

use self::matcher::{Matcher, Refused};
use self::shape::Shape;

use crate::path::ImagePath;

/// What an image says of paths that are not in it. The three states differ and are all in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A sparse image: only its own paths are looked at and nothing is ever deleted.
    Sparse,
    /// No lines: everything that is not in the image is deleted.
    Empty,
    /// Paths that match are neither created, changed nor deleted, nor are those below them.
    Lines(Lines),
}

impl Filter {
    /// Reads a filter file: a line each, blank lines and lines that begin with `#` dropped. No line left is
    /// [`Filter::Empty`].
    ///
    /// # Errors
    /// [`BadFilter`] naming the first line that is wrong by its number in the file.
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        let (numbers, lines): (Vec<usize>, Vec<String>) =
            numbered(text).map(|(number, line)| (number, line.to_owned())).unzip();
        if lines.is_empty() {
            return Ok(Self::Empty);
        }
        Lines::new(lines).map(Self::Lines).map_err(|bad| {
            let number = numbers.get(bad.number.saturating_sub(1)).copied().unwrap_or(bad.number);
            BadFilter { number, ..bad }
        })
    }

    /// Whether the filter matches `path` itself; what lies below a matching directory is left alone, too, which is for
    /// the walker to observe.
    pub fn matches(&self, path: &ImagePath) -> bool {
        match self {
            Self::Sparse | Self::Empty => false,
            Self::Lines(lines) => lines.matches(path.as_bytes()),
        }
    }
}

/// The lines of a filter, compiled.
///
/// A line is a regular expression that must match from the beginning of the path (`/tmp` matches `/tmpfoo` as well;
/// write `/tmp(/.*)?$` for the directory and what is in it). It works on bytes: `.` is any byte, newline included. A
/// line that is just `!` inverts the whole filter. Matching takes time linear in the path.
#[derive(Clone)]
pub struct Lines {
    lines: Vec<String>,
    inverted: bool,
    matcher: Arc<Matcher>,
}

impl Lines {
    /// How many lines a filter may have.
    pub const MAX_LINES: usize = 10_000;
    /// The longest line, in bytes.
    pub const MAX_LINE: usize = 4096;
    /// The memory a compiled filter may take, in bytes, however long it is.
    const MAX_COMPILED: usize = 64 * 1024 * 1024;

    /// Compiles `lines`. The compiled filter takes memory in proportion to their length: counted repetitions within
    /// each other (`(a{1000}){1000}`) are refused, since a filter comes from elsewhere.
    ///
    /// # Errors
    /// [`BadFilter`] naming the first line that is no regular expression, too long, one too many, or takes too much.
    pub fn new(lines: Vec<String>) -> Result<Self, BadFilter> {
        let fault = |number: usize, line: &str, why: String| BadFilter {
            number: number + 1,
            line: line.chars().take(120).collect(),
            why,
        };
        if let Some(line) = lines.get(Self::MAX_LINES) {
            return Err(fault(Self::MAX_LINES, line, format!("more than {} lines", Self::MAX_LINES)));
        }
        for (number, line) in lines.iter().enumerate() {
            if line.is_empty() || line.len() > Self::MAX_LINE || line.contains('\n') {
                return Err(fault(number, line, format!("a line has 1 to {} bytes", Self::MAX_LINE)));
            }
        }
        let matcher = compile(&lines).map_err(|(number, line, why)| fault(number, line, why))?;
        let inverted = lines.iter().any(|line| line == INVERT);
        Ok(Self { lines, inverted, matcher: Arc::new(matcher) })
    }

    /// The lines as they were given.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Whether the filter matches the path.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.matcher.matches(path) != self.inverted
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lines").field(&self.lines).finish()
    }
}

impl PartialEq for Lines {
    fn eq(&self, other: &Self) -> bool {
        self.lines == other.lines
    }
}

impl Eq for Lines {}

/// The lines of a filter file that count, each with its number in the file.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim_end_matches('\r')));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The line that inverts the others.
const INVERT: &str = "!";

/// All lines ready to be asked, or the first that is wrong, with the reason.
fn compile(lines: &[String]) -> Result<Matcher, (usize, &str, String)> {
    let length: usize = lines.iter().map(String::len).sum();
    let limit = Lines::MAX_COMPILED.min(256 * (1024 + length));
    let (mut numbers, mut shapes, mut wrong) = (Vec::new(), Vec::new(), None);
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| *line != INVERT) {
        match Shape::of(line) {
            Ok(shape) => {
                numbers.push((number, line));
                shapes.push((line.as_str(), shape));
            }
            Err(error) => {
                wrong = Some((number, line.as_str(), error));
                break;
            }
        }
    }
    // A line that takes too much may stand before the one that is no expression.
    let matcher = Matcher::new(shapes, limit).map_err(|Refused { good, error }| {
        let (number, line) = numbers.get(good).map_or((good, ""), |(number, line)| (*number, line.as_str()));
        (number, line, error.to_string())
    })?;
    wrong.map_or(Ok(matcher), Err)
}

/// A line that is no filter line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("filter line {number} ({line:?}): {why}")]
pub struct BadFilter {
    number: usize,
    line: String,
    why: String,
}

#[cfg(test)]
mod agreement;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(filter: &str, matching: &[&str], other: &[&str]) {
        let filter = Filter::parse(filter).unwrap();
        let matches = |path: &&str| filter.matches(&ImagePath::parse(path.as_bytes()).unwrap());
        assert_eq!(matching.iter().filter(|path| !matches(path)).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert_eq!(other.iter().filter(|path| matches(path)).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn lines_are_anchored_at_the_start_only() {
        check("/tmp", &["/tmp", "/tmpfoo", "/tmp/x"], &["/var/tmp", "/"]);
        check("/tmp(|/.*)$", &["/tmp", "/tmp/x"], &["/tmpfoo"]);
        check("/a|/b", &["/a", "/bc"], &["/x/b", "/c/a"]);
        check("/.*x.*", &["/axb", "/a/b/x"], &["/abc"]);
        check("/etc/[m]td$", &["/etc/mtd"], &["/etc/mtdx"]);
    }

    #[test]
    fn a_newline_in_a_name_hides_nothing() {
        check("/tmp/.*$", &["/tmp/a\nb"], &[]);
        check("/tmp(|/.*)$", &["/tmp/a\nb"], &[]);
        check("/a$", &["/a"], &["/a\nb"]);
    }

    #[test]
    fn bytes_that_are_no_text_match_like_any_other() {
        let filter = Filter::parse("/tmp/.*[.]log$").unwrap();
        assert!(filter.matches(&ImagePath::parse(b"/tmp/\xff\xfe.log").unwrap()));
    }

    #[test]
    fn an_exclamation_mark_inverts_the_whole_filter() {
        check("!\n/etc/.*\n/usr/.*", &["/var/x", "/etc"], &["/etc/x", "/usr/x"]);
        check("/etc/.*\n!\n/usr/.*", &["/var/x"], &["/etc/x", "/usr/x"]);
        check("!", &["/var/x", "/"], &[]);
    }

    #[test]
    fn no_lines_is_not_the_same_as_no_filter() {
        assert_eq!(Filter::parse("\n# only words\n\n"), Ok(Filter::Empty));
        assert_ne!(Filter::Empty, Filter::Sparse);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Filter::parse("# lines\n/ok\n\n/bad(").unwrap_err().to_string();
        assert!(error.contains("line 4") && error.contains("/bad("), "{error}");
        assert!(Filter::parse(&"/x\n".repeat(Lines::MAX_LINES + 1)).is_err());
        assert!(Filter::parse("/a{1000}{1000}{1000}").is_err());
    }

    #[test]
    fn a_short_line_can_not_take_much_memory_or_leave_its_anchor() {
        for bad in ["/a{1000}{100}", "/(.{0,250}){250}", "a)|(?:b", "/a(?x)#"] {
            let error = Filter::parse(&format!("/ok\n{bad}\n/fine")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        check("/tmp/[^/]{1,255}/.{0,255}$", &["/tmp/a/b"], &["/tmp/a"]);
        let many: Vec<_> = (0..1000).map(|n| format!("/var/lib/app{n}/[a-z]{{1,20}}[.]log$")).collect();
        assert!(Lines::new(many).unwrap().matches(b"/var/lib/app999/x.log"));
    }

    /// One element of the small language the slow reference knows.
    #[derive(Clone, Debug)]
    enum Part {
        Literal(u8),
        Any,
        AnyRun,
    }

    #[derive(Clone, Debug)]
    struct Line {
        parts: Vec<Part>,
        end: bool,
    }

    impl Line {
        fn source(&self) -> String {
            let part = |part: &Part| match part {
                Part::Literal(byte) => regex::escape(&char::from(*byte).to_string()),
                Part::Any => ".".into(),
                Part::AnyRun => ".*".into(),
            };
            let mut source: String =
                std::iter::once("/".to_owned()).chain(self.parts.iter().map(part)).collect();
            source.extend(self.end.then_some('$'));
            source
        }

        /// Backtracking over all ways to match, as the words of the manual say.
        fn matches(&self, path: &[u8]) -> bool {
            fn rest(parts: &[Part], text: &[u8], end: bool) -> bool {
                match parts.split_first() {
                    None => !end || text.is_empty(),
                    Some((Part::Literal(byte), more)) => {
                        text.first() == Some(byte) && rest(more, &text[1..], end)
                    }
                    Some((Part::Any, more)) => !text.is_empty() && rest(more, &text[1..], end),
                    Some((Part::AnyRun, more)) => (0..=text.len()).any(|n| rest(more, &text[n..], end)),
                }
            }
            path.first() == Some(&b'/') && rest(&self.parts, &path[1..], self.end)
        }
    }

    fn line() -> impl Strategy<Value = Line> {
        let part = prop_oneof![
            4 => prop::sample::select(b"ab/.\n".to_vec()).prop_map(Part::Literal),
            1 => Just(Part::Any),
            1 => Just(Part::AnyRun),
        ];
        (prop::collection::vec(part, 0..6), any::<bool>()).prop_map(|(parts, end)| Line { parts, end })
    }

    proptest! {
        #[test]
        fn filters_agree_with_a_slow_reference(
            lines in prop::collection::vec(line(), 1..5),
            inverted in any::<bool>(),
            paths in prop::collection::vec("(/[ab.\n]{1,3}){1,3}", 1..20),
        ) {
            let mut sources: Vec<_> = lines.iter().map(Line::source).collect();
            sources.retain(|source| !source.contains('\n'));
            let lines: Vec<_> = lines.iter().filter(|line| !line.source().contains('\n')).collect();
            sources.extend(inverted.then(|| "!".to_owned()));
            prop_assume!(!sources.is_empty());
            let filter = Lines::new(sources).unwrap();
            for path in paths {
                let expected = lines.iter().any(|line| line.matches(path.as_bytes())) != inverted;
                prop_assert_eq!(filter.matches(path.as_bytes()), expected, "{:?}", path);
            }
        }
    }
}

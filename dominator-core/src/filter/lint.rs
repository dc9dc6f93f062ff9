//! What people get wrong in filters, and why a path is left alone.

use std::collections::BTreeMap;
use std::fmt;

use super::form::{End, Form};
use super::shape::{Rest, Shape, Simple};
use super::{BadFilter, Filter, INVERT, Lines, numbered};
use crate::path::ImagePath;

/// A filter file, line by line.
///
/// ```
/// use dominator_core::filter::Lint;
///
/// let lint = Lint::of("# what machines keep\n/tmp\n")?;
/// let finding = &lint.findings()[0];
/// assert_eq!((finding.number, finding.suggestion.as_deref()), (2, Some("/tmp(|/.*)$")));
/// # Ok::<(), dominator_core::filter::BadFilter>(())
/// ```
#[derive(Debug)]
pub struct Lint {
    lines: Vec<Line>,
    inverted: bool,
}

#[derive(Debug)]
struct Line {
    number: usize,
    text: String,
    shape: Shape,
    /// This line alone.
    only: Lines,
}

/// Something about a line that may not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line's number in the file, from 1 on.
    pub number: usize,
    /// The line.
    pub line: String,
    /// What is surprising about it.
    pub surprise: Surprise,
    /// What may have been meant instead.
    pub suggestion: Option<String>,
}

/// What is surprising about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Surprise {
    /// It has no end, and matches whatever begins like it.
    OpenEnd {
        /// A path that may not be meant.
        example: Option<String>,
    },
    /// A `.` in it stands for any byte.
    AnyByte,
    /// It matches no path.
    Never {
        /// Why.
        why: &'static str,
    },
    /// All it matches, or a directory that is in, is matched by another line.
    Shadowed {
        /// The number of that line.
        by: usize,
    },
    /// It has been there before.
    Duplicate {
        /// Where.
        of: usize,
    },
    /// It inverts the filter, and is not the first line or not the only such line.
    Inversion,
    /// It ends with a blank.
    Blank,
    /// It matches what is in a directory, and no line matches the directory.
    ContentsOnly {
        /// The directory.
        directory: String,
    },
    /// It is not of a shape that can be looked up.
    Expression,
}

/// How much a surprise matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The filter does not do what it seems to, or a line does nothing.
    Warning,
    /// It is worth knowing.
    Note,
}

impl Surprise {
    /// The same as a word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::OpenEnd { .. } => "open-end",
            Self::AnyByte => "any-byte",
            Self::Never { .. } => "never",
            Self::Shadowed { .. } => "shadowed",
            Self::Duplicate { .. } => "duplicate",
            Self::Inversion => "inversion",
            Self::Blank => "blank",
            Self::ContentsOnly { .. } => "contents-only",
            Self::Expression => "expression",
        }
    }

    /// How much it matters.
    pub const fn weight(&self) -> Weight {
        match self {
            Self::ContentsOnly { .. } | Self::Expression => Weight::Note,
            Self::OpenEnd { .. }
            | Self::AnyByte
            | Self::Never { .. }
            | Self::Shadowed { .. }
            | Self::Duplicate { .. }
            | Self::Inversion
            | Self::Blank => Weight::Warning,
        }
    }
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenEnd { example: Some(example) } => {
                write!(f, "it has no end and matches all that begins so, {example} too")
            }
            Self::OpenEnd { example: None } => write!(f, "it has no end and matches all that begins so"),
            Self::AnyByte => write!(f, "a . in it is any byte; a dot is [.]"),
            Self::Never { why } => write!(f, "it matches nothing: {why}"),
            Self::Shadowed { by } => write!(f, "line {by} leaves all of that alone already"),
            Self::Duplicate { of } => write!(f, "it is line {of} again"),
            Self::Inversion => {
                write!(f, "it inverts the whole filter, wherever it stands; write it first and once")
            }
            Self::Blank => write!(f, "the blank at its end is part of it"),
            Self::ContentsOnly { directory } => {
                write!(f, "it matches what is in {directory}, but not the directory itself")
            }
            Self::Expression => {
                write!(f, "it has to be run as an expression, which takes longer than to look a path up")
            }
        }
    }
}

/// What a filter says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The path itself or the topmost directory it is in that the filter matches; all in it is left alone with it.
    pub left_alone_with: Option<ImagePath>,
    /// The numbers of the lines that match the path itself, the inverting one not among them.
    pub lines: Vec<usize>,
    /// The numbers of the lines that match each directory the path is in, for those with any.
    pub directories: BTreeMap<ImagePath, Vec<usize>>,
    /// Whether the filter is inverted: what no line matches is matched, then.
    pub inverted: bool,
}

impl Lint {
    /// Takes a filter file apart.
    ///
    /// # Errors
    /// As [`Filter::parse`].
    pub fn of(text: &str) -> Result<Self, BadFilter> {
        Filter::parse(text)?;
        let mut lines = Vec::new();
        for (number, line) in numbered(text) {
            let bad = |why| BadFilter { number, line: line.to_owned(), why };
            let shape =
                if line == INVERT { Shape::Simple(Vec::new()) } else { Shape::of(line).map_err(bad)? };
            lines.push(Line {
                number,
                text: line.to_owned(),
                shape,
                only: Lines::new(vec![line.to_owned()])?,
            });
        }
        let inverted = lines.iter().any(|line| line.text == INVERT);
        Ok(Self { lines, inverted })
    }

    /// How many lines there are, without comments and empty ones.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line, so that the filter is the empty one.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines that count, each with its number in the file.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().map(|line| (line.number, line.text.as_str()))
    }

    /// Everything that is surprising, in order of the lines.
    pub fn findings(&self) -> Vec<Finding> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut findings = Vec::new();
        for (place, line) in self.lines.iter().enumerate() {
            let before = seen.get(line.text.as_str()).copied();
            seen.entry(&line.text).or_insert(line.number);
            if line.text == INVERT {
                findings.extend((place > 0).then(|| line.finding(Surprise::Inversion, None)));
            } else if let Some(of) = before {
                findings.push(line.finding(Surprise::Duplicate { of }, None));
            } else {
                self.look_at(line, &mut findings);
            }
        }
        findings
    }

    /// What the filter says of `path` and of the directories it is in.
    pub fn explain(&self, path: &ImagePath) -> Explanation {
        let mut left_alone_with = None;
        let mut directories = BTreeMap::new();
        let mut lines = Vec::new();
        let ancestors = std::iter::successors(Some(path.clone()), ImagePath::parent);
        for at in ancestors {
            let matching: Vec<usize> = self.matching(&at).map(|line| line.number).collect();
            if !self.is_empty() && matching.is_empty() == self.inverted {
                left_alone_with = Some(at.clone());
            }
            if at == *path {
                lines = matching;
            } else if !matching.is_empty() {
                directories.insert(at, matching);
            }
        }
        Explanation { left_alone_with, lines, directories, inverted: self.inverted }
    }

    fn matching(&self, path: &ImagePath) -> impl Iterator<Item = &Line> {
        let path = path.as_bytes().to_vec();
        self.lines.iter().filter(move |line| line.text != INVERT && line.only.matches(&path))
    }

    fn look_at(&self, line: &Line, findings: &mut Vec<Finding>) {
        let form = Form::of(&line.text, &line.shape);
        if line.text.ends_with([' ', '\t']) {
            let trimmed = line.text.trim_end().to_owned();
            findings.push(line.finding(Surprise::Blank, Some(trimmed)));
        }
        if let Some(why) = form.never {
            let rooted = Some(format!("/{}", line.text)).filter(|text| is_rooted_by_slash(&line.shape, text));
            findings.push(line.finding(Surprise::Never { why }, rooted));
            return;
        }
        if let Some(by) = self.shadowing(line) {
            findings.push(line.finding(Surprise::Shadowed { by }, None));
        }
        if form.end == End::Open {
            let example = line.literal().map(|literal| format!("{literal}foo"));
            findings.push(line.finding(Surprise::OpenEnd { example }, Some(ended(&line.text))));
        }
        if let Some(directory) = self.bare_directory(line) {
            let whole = line.text.strip_suffix('$').unwrap_or(&line.text);
            let whole = whole.strip_suffix("/.*").or(whole.strip_suffix('/'));
            let suggestion = whole.map(|directory| format!("{directory}(|/.*)$"));
            findings.push(line.finding(Surprise::ContentsOnly { directory }, suggestion));
        }
        match form.dotted {
            Some(dotted) => findings.push(line.finding(Surprise::AnyByte, Some(dotted))),
            None if matches!(line.shape, Shape::Complex { .. }) => {
                findings.push(line.finding(Surprise::Expression, None));
            }
            None => {}
        }
    }

    /// The number of a line that makes this one superfluous. Of two that do so for each other, the first stays.
    fn shadowing(&self, line: &Line) -> Option<usize> {
        // Under inversion a directory that matches is looked at, and so is what is in it.
        let below = if self.inverted { Below::LookedAt } else { Below::LeftAlone };
        let covers = |other: &&Line| {
            other.number != line.number
                && other.text != INVERT
                && other.covers(line, below)
                && (other.number < line.number || !line.covers(other, below))
        };
        self.lines.iter().find(covers).map(|other| other.number)
    }

    /// The directory of which a line matches only what is in it, if no other matches the directory.
    fn bare_directory(&self, line: &Line) -> Option<String> {
        let Shape::Simple(all) = &line.shape else { return None };
        let [Simple { prefix, rest: Rest::Anything { .. } }] = all.as_slice() else { return None };
        let directory = prefix.strip_suffix(b"/").filter(|directory| !directory.is_empty())?;
        let path = ImagePath::parse(directory).ok()?;
        let explained = self.explain(&path);
        (!self.inverted && explained.left_alone_with.is_none()).then(|| path.to_string())
    }
}

/// What becomes of what is in a directory that a line matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    LeftAlone,
    LookedAt,
}

impl Line {
    fn finding(&self, surprise: Surprise, suggestion: Option<String>) -> Finding {
        Finding { number: self.number, line: self.text.clone(), surprise, suggestion }
    }

    /// The text it looks for, if it looks for nothing else.
    fn literal(&self) -> Option<String> {
        match &self.shape {
            Shape::Simple(all) => match all.as_slice() {
                [Simple { prefix, rest: Rest::Anything { min: 0 } }] => {
                    String::from_utf8(prefix.clone()).ok()
                }
                _ => None,
            },
            Shape::Complex { .. } => None,
        }
    }

    /// Whether this leaves everything alone that `other` does.
    fn covers(&self, other: &Self, below: Below) -> bool {
        let Shape::Simple(theirs) = &other.shape else { return false };
        // What matches nothing is wrong in another way.
        !theirs.is_empty()
            && theirs.iter().all(|their| match (&their.rest, &self.shape) {
                (Rest::Nothing, _) if self.only.matches(&their.prefix) => true,
                (_, Shape::Simple(ours)) => ours.iter().any(|our| covers(our, their, below)),
                (_, Shape::Complex { .. }) => false,
            })
    }
}

fn covers(our: &Simple, their: &Simple, below: Below) -> bool {
    let Some(more) = their.prefix.strip_prefix(our.prefix.as_slice()) else { return false };
    match (&our.rest, &their.rest) {
        (Rest::Nothing, _) => below == Below::LeftAlone && more.starts_with(b"/"),
        (Rest::Anything { min }, rest) => more.len() + shortest(rest) >= *min,
        (Rest::EndsWith { min, suffix }, Rest::EndsWith { min: their_min, suffix: their_suffix }) => {
            let Some(before) = their_suffix.strip_suffix(suffix.as_slice()) else { return false };
            more.len() + their_min + before.len() >= *min
        }
        (Rest::Contains { needle }, rest) => {
            let part: &[u8] = match rest {
                Rest::EndsWith { suffix, .. } => suffix,
                Rest::Contains { needle } => needle,
                Rest::Nothing | Rest::Anything { .. } => b"",
            };
            [more, part].iter().any(|text| text.windows(needle.len()).any(|window| window == needle))
        }
        (Rest::EndsWith { .. }, Rest::Nothing | Rest::Anything { .. } | Rest::Contains { .. }) => false,
    }
}

/// How many bytes at least come after the prefix.
fn shortest(rest: &Rest) -> usize {
    match rest {
        Rest::Nothing => 0,
        Rest::Anything { min } => *min,
        Rest::EndsWith { min, suffix } => min + suffix.len(),
        Rest::Contains { needle } => needle.len(),
    }
}

/// Whether a line that matches nothing would with a slash before it.
fn is_rooted_by_slash(shape: &Shape, text: &str) -> bool {
    let relative = match shape {
        Shape::Simple(all) => all.iter().all(|simple| !simple.prefix.starts_with(b"/")),
        Shape::Complex { beginnings } => beginnings.iter().all(|beginning| !beginning.starts_with(b"/")),
    };
    relative && Shape::of(text).is_ok_and(|shape| Form::of(text, &shape).never.is_none())
}

/// The line as it would be for one path and what is in it.
fn ended(line: &str) -> String {
    if ["(|/.*)", "(/.*|)", "(/.*)?"].iter().any(|tail| line.ends_with(tail)) {
        return format!("{line}$");
    }
    if line.contains('|') { format!("({line})(|/.*)$") } else { format!("{line}(|/.*)$") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings of a filter: line, word, suggestion.
    fn check(filter: &str, expected: &[(usize, &str, &str)]) {
        let findings = Lint::of(filter).unwrap().findings();
        let found: Vec<_> = findings
            .iter()
            .map(|one| (one.number, one.surprise.word(), one.suggestion.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }

    #[test]
    fn a_filter_without_surprises_has_no_findings() {
        let fine = "# machines keep\n/tmp(|/.*)$\n/etc/[m]tab$\n/etc/resolv[.]conf$\n/.*[.]pyc$\n/etc/cron.*\n/var(/.*)?$";
        check(fine, &[]);
        check("!\n/usr(|/.*)$\n", &[]);
        check("", &[]);
    }

    #[test]
    fn a_line_without_an_end_is_found_with_what_it_matches_too() {
        check("/tmp", &[(1, "open-end", "/tmp(|/.*)$")]);
        check("/tmp(|/.*)", &[(1, "open-end", "/tmp(|/.*)$")]);
        check("/a|/b", &[(1, "open-end", "(/a|/b)(|/.*)$")]);
        check("/dev/tty[0-9]", &[(1, "open-end", "/dev/tty[0-9](|/.*)$")]);
        let findings = Lint::of("\n#\n/tmp\r\n").unwrap().findings();
        assert_eq!(findings[0].number, 3);
        assert!(findings[0].surprise.to_string().contains("/tmpfoo"), "{}", findings[0].surprise);
    }

    #[test]
    fn a_dot_that_is_any_byte_is_found() {
        check("/etc/resolv.conf$", &[(1, "any-byte", "/etc/resolv[.]conf$")]);
        check("/etc/é.b.c$", &[(1, "any-byte", "/etc/é[.]b[.]c$")]);
        check("/etc/a\\.b[.].*$", &[]);
    }

    #[test]
    fn a_line_that_can_never_match_is_found() {
        check("tmp/x$", &[(1, "never", "/tmp/x$")]);
        check("/a$b", &[(1, "never", "")]);
        check("/a/^b$", &[(1, "never", "")]);
        check("/tmp/$", &[(1, "never", "")]);
        check("/tmp//x$", &[(1, "never", "")]);
        check("[a&&b]", &[(1, "never", "")]);
        check("(a|b)[^/]+$", &[(1, "never", "/(a|b)[^/]+$")]);
        check("/$", &[]);
    }

    #[test]
    fn a_line_that_another_makes_superfluous_is_found() {
        check("/tmp(|/.*)$\n/tmp/x$", &[(2, "shadowed", "")]);
        check("/tmp/x$\n/tmp(|/.*)$", &[(1, "shadowed", "")]);
        check("/tmp$\n/tmp/x/.*", &[(2, "shadowed", "")]);
        check("!\n/tmp$\n/tmp/x$", &[]);
        check("/.*[.]gz$\n/var/log/.*[.]tar[.]gz$", &[(2, "shadowed", "")]);
        check("/.*[.]git.*\n/srv/.*/[.]git/.*", &[(2, "shadowed", "")]);
        check("/a(|/.*)$\n/a(/.*)?$", &[(2, "shadowed", "")]);
        check("/a$\n/b$\n/a$", &[(3, "duplicate", "")]);
        check("/h/[^/]+/x$\n/h/me/x$", &[(1, "expression", ""), (2, "shadowed", "")]);
        check("/tmp/a.*\n/tmp/b.*\n/tmpfoo$", &[]);
    }

    #[test]
    fn an_inversion_that_is_easily_overlooked_is_found() {
        check("/a$\n!", &[(2, "inversion", "")]);
        check("!\n/a$\n!", &[(3, "inversion", "")]);
    }

    #[test]
    fn a_directory_whose_contents_only_are_left_alone_is_noted() {
        check("/srv/x/.*", &[(1, "contents-only", "/srv/x(|/.*)$")]);
        check("/srv/x/", &[(1, "contents-only", "/srv/x(|/.*)$")]);
        // The directory is left alone, and so is what is in it.
        check("/srv/x/.*$\n/srv/[x]$", &[(1, "shadowed", "")]);
        check("/srv/x$ ", &[(1, "blank", "/srv/x$"), (1, "never", "")]);
    }

    #[test]
    fn a_path_is_explained_by_its_lines_and_those_of_its_directories() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let explain = |filter: &str, at: &str| Lint::of(filter).unwrap().explain(&path(at));
        let direct = explain("# none\n/a/b$\n/a/.*", "/a/b");
        assert_eq!((direct.left_alone_with, direct.lines), (Some(path("/a/b")), vec![2, 3]));
        let hidden = explain("/a$\n/a/b/c$", "/a/b/c");
        assert_eq!((hidden.left_alone_with, hidden.lines), (Some(path("/a")), vec![2]));
        assert_eq!(hidden.directories, BTreeMap::from([(path("/a"), vec![1])]));
        assert_eq!(explain("/a$", "/b").left_alone_with, None);
        assert_eq!(explain("", "/b").left_alone_with, None);
        let inverted = explain("!\n/a(|/.*)$", "/a/b");
        assert_eq!((inverted.left_alone_with, inverted.lines), (Some(path("/")), vec![2]));
    }

    #[test]
    fn what_is_explained_is_what_the_filter_does() {
        let filter = "/a$\n/b/.*\n/.*[.]c$";
        let (lint, compiled) = (Lint::of(filter).unwrap(), Filter::parse(filter).unwrap());
        for text in ["/", "/a", "/a/x", "/b", "/b/c", "/x.c", "/x.c/d", "/x/y"] {
            let path = ImagePath::parse(text.as_bytes()).unwrap();
            let alone =
                std::iter::successors(Some(path.clone()), ImagePath::parent).any(|at| compiled.matches(&at));
            assert_eq!(lint.explain(&path).left_alone_with.is_some(), alone, "{text}");
            assert_eq!(!lint.explain(&path).lines.is_empty(), compiled.matches(&path), "{text}");
        }
    }
}

//! All lines of a filter, ready to be asked about paths.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::shape::{Rest, Shape, Simple};
use super::trie::{Back, Front, Trie};

/// Lines by what they have in common: one walk down the path finds those whose beginning it has. What their shape does
/// not say, one regular expression of all that is left does, and only for paths that begin as one of those must.
pub(super) struct Matcher {
    beginnings: Trie<Front, Leaf>,
    complex: RegexSet,
}

/// What a path that begins with a certain string has to be like.
#[derive(Default)]
struct Leaf {
    /// It matches if at least so many bytes follow.
    anything: Option<usize>,
    /// It matches if nothing follows.
    nothing: bool,
    /// The regular expressions have to be asked.
    complex: bool,
    /// What follows decides.
    tails: Option<Box<Tails>>,
}

/// Conditions on what follows a beginning.
struct Tails {
    /// How it may end, and how many bytes have to be before that.
    suffixes: Trie<Back, usize>,
    /// What may be in it.
    needles: Option<AhoCorasick>,
}

/// Why lines can't be compiled, and how many of them can.
pub(super) struct Refused {
    pub(super) good: usize,
    pub(super) error: regex::Error,
}

impl Matcher {
    /// How many of the beginnings a path can have may have conditions on what follows: each of them costs a look at the
    /// path from its other end, and matching has to take time linear in the path. Lines beyond that are complex.
    const MAX_TAILED: usize = 8;
    /// What needles may weigh together. The automata that find them take about a kilobyte a byte.
    const MAX_NEEDLES: usize = 4096;
    /// What a needle weighs beside its length.
    const NEEDLE: usize = 16;

    /// Compiles lines of these shapes.
    ///
    /// # Errors
    /// [`Refused`] when those for regular expressions take more than `limit` bytes of memory.
    pub(super) fn new(lines: Vec<(&str, Shape)>, limit: usize) -> Result<Self, Refused> {
        let crowded = crowded(&lines);
        let (mut drafts, mut complex) = (Vec::new(), Vec::new());
        for (number, (line, shape)) in lines.into_iter().enumerate() {
            let beginnings = match shape {
                Shape::Simple(simple) if !crowded.contains(&number) => {
                    drafts.extend(simple.into_iter().map(|simple| (simple.prefix, Draft::of(simple.rest))));
                    continue;
                }
                Shape::Simple(simple) => simple.into_iter().map(|simple| simple.prefix).collect(),
                Shape::Complex { beginnings } => beginnings,
            };
            drafts.extend(beginnings.into_iter().map(|beginning| (beginning, Draft::complex())));
            complex.push((number, line));
        }
        let complex = compile_all(&complex, limit)?;
        Ok(Self { beginnings: Trie::new(drafts, Draft::merge).map(Draft::finish), complex })
    }

    /// Whether any line matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let mut complex = false;
        let simple = self.beginnings.any(path, |leaf, rest| {
            complex |= leaf.complex;
            leaf.matches(rest)
        });
        simple || complex && self.complex.is_match(path)
    }
}

impl Leaf {
    fn matches(&self, rest: &[u8]) -> bool {
        self.anything.is_some_and(|min| rest.len() >= min)
            || self.nothing && rest.is_empty()
            || self.tails.as_ref().is_some_and(|tails| tails.matches(rest))
    }
}

impl Tails {
    fn matches(&self, rest: &[u8]) -> bool {
        self.suffixes.any(rest, |min, before| before.len() >= *min)
            || self.needles.as_ref().is_some_and(|needles| needles.is_match(rest))
    }
}

/// A leaf that is still being added to.
#[derive(Default)]
struct Draft {
    leaf: Leaf,
    suffixes: Vec<(Vec<u8>, usize)>,
    needles: Vec<Vec<u8>>,
}

impl Draft {
    fn of(rest: Rest) -> Self {
        let mut draft = Self::default();
        match rest {
            Rest::Nothing => draft.leaf.nothing = true,
            Rest::Anything { min } => draft.leaf.anything = Some(min),
            Rest::EndsWith { min, suffix } => draft.suffixes.push((suffix, min)),
            Rest::Contains { needle } => draft.needles.push(needle),
        }
        draft
    }

    fn complex() -> Self {
        Self { leaf: Leaf { complex: true, ..Leaf::default() }, ..Self::default() }
    }

    fn merge(&mut self, other: Self) {
        self.leaf.anything = self.leaf.anything.into_iter().chain(other.leaf.anything).min();
        self.leaf.nothing |= other.leaf.nothing;
        self.leaf.complex |= other.leaf.complex;
        self.suffixes.extend(other.suffixes);
        self.needles.extend(other.needles);
    }

    fn finish(self) -> Leaf {
        let Self { mut leaf, suffixes, needles } = self;
        if !suffixes.is_empty() || !needles.is_empty() {
            let needles = (!needles.is_empty()).then(|| automaton(&needles));
            let suffixes = Trie::new(suffixes, |one, other| *one = other.min(*one));
            leaf.tails = Some(Box::new(Tails { suffixes, needles }));
        }
        leaf
    }
}

/// Finds any of the needles. A path is too short for guessing where one might be to pay: it is read byte by byte.
fn automaton(needles: &[Vec<u8>]) -> AhoCorasick {
    AhoCorasick::builder()
        .prefilter(false)
        .kind(Some(AhoCorasickKind::DFA))
        .build(needles)
        .expect("invariant: needles weigh far less than the automaton can hold")
}

/// The lines that are simple, but of which there are too many with conditions on what follows their beginning.
fn crowded(lines: &[(&str, Shape)]) -> BTreeSet<usize> {
    let (mut tailed, mut crowded, mut weight) = (Vec::new(), BTreeSet::new(), 0_usize);
    for (number, (_, shape)) in lines.iter().enumerate() {
        let Shape::Simple(simple) = shape else { continue };
        for Simple { prefix, rest } in simple {
            match rest {
                Rest::Nothing | Rest::Anything { .. } => continue,
                Rest::EndsWith { .. } => {}
                Rest::Contains { needle } => {
                    weight = weight.saturating_add(needle.len() + Matcher::NEEDLE);
                    if weight > Matcher::MAX_NEEDLES {
                        crowded.insert(number);
                    }
                }
            }
            tailed.push((prefix.as_slice(), number));
        }
    }
    // In order, the beginnings of a string stand right before it.
    tailed.sort_unstable();
    let mut within: Vec<&[u8]> = Vec::new();
    for (prefix, number) in tailed {
        while within.pop_if(|outer| !prefix.starts_with(outer)).is_some() {}
        if within.last() == Some(&prefix) {
            continue;
        }
        if within.len() < Matcher::MAX_TAILED {
            within.push(prefix);
        } else {
            crowded.insert(number);
        }
    }
    crowded
}

/// All lines as one set, or the first of them that makes it fail, found by halving, as each attempt may cost as much as
/// the whole.
fn compile_all(lines: &[(usize, &str)], limit: usize) -> Result<RegexSet, Refused> {
    let mut error = match compile(lines, limit) {
        Ok(set) => return Ok(set),
        Err(error) => error,
    };
    // INVARIANT: the first `good` lines compile, the first `bad` do not.
    let (mut good, mut bad) = (0, lines.len());
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match compile(lines.get(..middle).unwrap_or(lines), limit) {
            Ok(_) => good = middle,
            Err(found) => (bad, error) = (middle, found),
        }
    }
    Err(Refused { good: lines.get(good).map_or(0, |(number, _)| *number), error })
}

/// Each line anchored at the start, in a group of its own so that `a|b` is anchored as a whole.
fn compile(lines: &[(usize, &str)], limit: usize) -> Result<RegexSet, regex::Error> {
    /// What the matcher remembers of a small filter; less would make it slow.
    const MIN_MEMORY: usize = 2 * 1024 * 1024;
    RegexSetBuilder::new(lines.iter().map(|(_, line)| format!("^(?:{line})")))
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(limit)
        .dfa_size_limit(limit.max(MIN_MEMORY))
        .build()
}

//! What a line says, where that is simple enough to be looked up instead of run.

use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use regex_syntax::{Parser, ParserBuilder};

/// What a line matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Whatever one of these matches; nothing if there are none.
    Simple(Vec<Simple>),
    /// It takes the regular expression to tell. Only paths that begin with one of these can match.
    Complex {
        /// Empty if it can't match at all.
        beginnings: Vec<Vec<u8>>,
    },
}

/// A path that begins with `prefix`, and of which the rest is as `rest` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Simple {
    pub(super) prefix: Vec<u8>,
    pub(super) rest: Rest,
}

/// What follows a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// Anything of at least so many bytes.
    Anything { min: usize },
    /// Anything of at least so many bytes, then these as the last of the path.
    EndsWith { min: usize, suffix: Vec<u8> },
    /// Anything with these bytes in it.
    Contains { needle: Vec<u8> },
}

impl Shape {
    /// The most alternatives a line is taken apart into.
    const MAX_ALTERNATIVES: usize = 32;
    /// By how much longer than the line they may be together, as a factor and in bytes: what is kept must be in
    /// proportion to what was given.
    const MAX_GROWTH: (usize, usize) = (4, 256);

    /// The shape of `line`, anchored at the start.
    ///
    /// # Errors
    /// Why it is no regular expression, for people.
    pub(super) fn of(line: &str) -> Result<Self, String> {
        let parse = |text: &str| parser().parse(text).map_err(|error| error.to_string());
        // By itself, too: `a)|(?:b` would leave its group and be anchored no more.
        parse(line)?;
        let anchored = parse(&format!("^(?:{line})"))?;
        let limit = line.len().saturating_mul(Self::MAX_GROWTH.0).saturating_add(Self::MAX_GROWTH.1);
        let simple = alternatives(&anchored)
            .filter(|all| all.iter().map(Sequence::len).sum::<usize>() <= limit)
            .and_then(|all| all.into_iter().map(Sequence::simple).collect());
        Ok(simple.map_or_else(|| Self::Complex { beginnings: beginnings(&anchored) }, Self::Simple))
    }
}

/// The syntax of all lines: bytes, `.` is any of them.
pub(super) fn parser() -> Parser {
    ParserBuilder::new().utf8(false).unicode(false).dot_matches_new_line(true).build()
}

/// With what a path has to begin for the expression to match it.
fn beginnings(hir: &Hir) -> Vec<Vec<u8>> {
    match Extractor::new().extract(hir).literals() {
        Some(literals) => literals.iter().map(|literal| literal.as_bytes().to_vec()).collect(),
        None => vec![Vec::new()],
    }
}

/// Literals and gaps from the beginning of the path on, one after the other.
#[derive(Clone, Debug, Default)]
struct Sequence {
    pieces: Vec<Piece>,
    /// Whether the path must begin where the sequence does.
    begun: bool,
    /// Whether the path must end where the sequence does.
    ended: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Vec<u8>),
    /// Any bytes, so many of them, or more when it is open.
    Gap {
        min: usize,
        open: bool,
    },
}

impl Sequence {
    fn literal(bytes: &[u8]) -> Self {
        Self { pieces: vec![Piece::Literal(bytes.to_vec())], ..Self::default() }
    }

    fn gap(min: usize, open: bool) -> Self {
        Self { pieces: vec![Piece::Gap { min, open }], ..Self::default() }
    }

    fn start() -> Self {
        Self { begun: true, ..Self::default() }
    }

    fn end() -> Self {
        Self { ended: true, ..Self::default() }
    }

    fn len(&self) -> usize {
        let len = |piece: &Piece| match piece {
            Piece::Literal(bytes) => bytes.len(),
            Piece::Gap { .. } => 1,
        };
        self.pieces.iter().map(len).sum()
    }

    /// This and then `next`. What asks for the beginning of the path further on, or goes on after its end, is too rare
    /// to be thought through.
    fn then(mut self, next: &Self) -> Option<Self> {
        let late = next.begun && (self.ended || !self.pieces.is_empty());
        if late || self.ended && !next.pieces.is_empty() {
            return None;
        }
        self.begun |= next.begun;
        for piece in &next.pieces {
            match (self.pieces.last_mut(), piece) {
                (Some(Piece::Literal(bytes)), Piece::Literal(more)) => bytes.extend_from_slice(more),
                (Some(Piece::Gap { min, open }), Piece::Gap { min: more_min, open: more_open }) => {
                    *min = min.checked_add(*more_min)?;
                    *open |= more_open;
                }
                _ => self.pieces.push(piece.clone()),
            }
        }
        self.ended |= next.ended;
        Some(self)
    }

    /// The same as prefix and rest, if it is of that kind.
    fn simple(self) -> Option<Simple> {
        let mut pieces = self.pieces.into_iter().peekable();
        let prefix = match pieces.next_if(|piece| matches!(piece, Piece::Literal(_))) {
            Some(Piece::Literal(bytes)) => bytes,
            _ => Vec::new(),
        };
        let rest = match (pieces.next(), pieces.next(), pieces.next(), pieces.next()) {
            (None, ..) if self.ended => Rest::Nothing,
            (None, ..) => Rest::Anything { min: 0 },
            (Some(Piece::Gap { min, open }), None, ..) if open || !self.ended => Rest::Anything { min },
            (Some(Piece::Gap { min, open: true }), Some(Piece::Literal(suffix)), None, _) if self.ended => {
                Rest::EndsWith { min, suffix }
            }
            (Some(Piece::Gap { min: 0, open: true }), Some(Piece::Literal(needle)), after, None)
                if free_end(after.as_ref(), self.ended) =>
            {
                Rest::Contains { needle }
            }
            _ => return None,
        };
        Some(Simple { prefix, rest })
    }
}

/// Whether whatever follows matches `last`, the last piece of a sequence.
fn free_end(last: Option<&Piece>, ended: bool) -> bool {
    match last {
        None => !ended,
        Some(Piece::Gap { min: 0, open }) => *open || !ended,
        Some(_) => false,
    }
}

/// All sequences of which one has to match, or nothing if there is more to it than sequences.
fn alternatives(hir: &Hir) -> Option<Vec<Sequence>> {
    let found = match hir.kind() {
        HirKind::Empty => vec![Sequence::default()],
        HirKind::Literal(literal) => vec![Sequence::literal(&literal.0)],
        HirKind::Class(class) => members(class)?,
        HirKind::Look(Look::Start) => vec![Sequence::start()],
        HirKind::Look(Look::End) => vec![Sequence::end()],
        HirKind::Capture(capture) => alternatives(&capture.sub)?,
        HirKind::Repetition(repetition) if is_any(&repetition.sub) => {
            let min = usize::try_from(repetition.min).ok()?;
            match repetition.max {
                None => vec![Sequence::gap(min, true)],
                Some(max) if max == repetition.min => vec![Sequence::gap(min, false)],
                Some(_) => return None,
            }
        }
        HirKind::Repetition(repetition) if (repetition.min, repetition.max) == (0, Some(1)) => {
            let mut optional = alternatives(&repetition.sub)?;
            optional.push(Sequence::default());
            optional
        }
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(alternatives(part)?);
                if all.len() > Shape::MAX_ALTERNATIVES {
                    return None;
                }
            }
            all
        }
        HirKind::Concat(parts) => concatenated(parts)?,
        HirKind::Look(_) | HirKind::Repetition(_) => return None,
    };
    (found.len() <= Shape::MAX_ALTERNATIVES).then_some(found)
}

fn concatenated(parts: &[Hir]) -> Option<Vec<Sequence>> {
    let mut all = vec![Sequence::default()];
    for part in parts {
        let next = alternatives(part)?;
        if all.len().saturating_mul(next.len()) > Shape::MAX_ALTERNATIVES {
            return None;
        }
        let pairs = all.iter().flat_map(|one| next.iter().map(move |other| one.clone().then(other)));
        all = pairs.collect::<Option<_>>()?;
    }
    Some(all)
}

/// Each byte of a small class, or a gap for the class of all.
fn members(class: &Class) -> Option<Vec<Sequence>> {
    let Class::Bytes(class) = class else { return None };
    if is_whole(class) {
        return Some(vec![Sequence::gap(1, false)]);
    }
    let bytes = class.iter().flat_map(|range| range.start()..=range.end());
    let few: Vec<u8> = bytes.take(Shape::MAX_ALTERNATIVES + 1).collect();
    (few.len() <= Shape::MAX_ALTERNATIVES)
        .then(|| few.iter().map(|byte| Sequence::literal(&[*byte])).collect())
}

pub(super) fn is_any(hir: &Hir) -> bool {
    matches!(hir.kind(), HirKind::Class(Class::Bytes(class)) if is_whole(class))
}

fn is_whole(class: &regex_syntax::hir::ClassBytes) -> bool {
    class.ranges().first().is_some_and(|range| (range.start(), range.end()) == (0, u8::MAX))
}

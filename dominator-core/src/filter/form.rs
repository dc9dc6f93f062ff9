//! How a line is written: what its author may not have meant.

use std::collections::BTreeSet;

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::shape::{Rest, Shape, is_any, parser};

/// What can be told from a line alone.
pub(super) struct Form {
    pub(super) end: End,
    /// Why it can't match a path.
    pub(super) never: Option<&'static str>,
    /// The line with every `.` that stands for one byte written as a dot, if there are any.
    pub(super) dotted: Option<String>,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Whatever follows matches, though the line does not say so.
    Open,
    /// As the line says: at the end of the path, or with whatever follows.
    Said,
}

impl Form {
    /// The form of a line that is an expression.
    pub(super) fn of(line: &str, shape: &Shape) -> Self {
        let Ok(hir) = parser().parse(line) else {
            return Self { end: End::Said, never: None, dotted: None };
        };
        let end = if ends_openly(&hir) { End::Open } else { End::Said };
        Self { end, never: never(&hir, shape), dotted: dotted(line) }
    }
}

fn ends_openly(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty => true,
        // What is in a directory is meant to follow.
        HirKind::Literal(literal) => !literal.0.ends_with(b"/"),
        HirKind::Class(Class::Bytes(_) | Class::Unicode(_)) => true,
        HirKind::Look(look) => *look != Look::End,
        HirKind::Repetition(repetition) if is_any(&repetition.sub) => repetition.max.is_some(),
        HirKind::Repetition(_) => true,
        HirKind::Capture(capture) => ends_openly(&capture.sub),
        HirKind::Concat(parts) => parts.last().is_none_or(ends_openly),
        HirKind::Alternation(parts) => parts.iter().any(ends_openly),
    }
}

fn never(hir: &Hir, shape: &Shape) -> Option<&'static str> {
    if impossible(hir) {
        return Some("nothing comes before the beginning of a path or after its end");
    }
    let prefixes: Vec<&[u8]> = match shape {
        Shape::Simple(all) => all.iter().map(|simple| simple.prefix.as_slice()).collect(),
        Shape::Complex { beginnings } => beginnings.iter().map(Vec::as_slice).collect(),
    };
    if prefixes.iter().all(|prefix| !prefix.is_empty() && !prefix.starts_with(b"/")) {
        return Some("every path begins with /");
    }
    let Shape::Simple(all) = shape else { return None };
    let odd = all.iter().all(|simple| {
        let (part, last): (&[u8], &[u8]) = match &simple.rest {
            Rest::Nothing => (b"", &simple.prefix),
            Rest::Anything { .. } => (b"", b""),
            Rest::EndsWith { suffix, .. } => (suffix, suffix),
            Rest::Contains { needle } => (needle, b""),
        };
        let doubled = [&simple.prefix, part].iter().any(|text| text.windows(2).any(|two| two == b"//"));
        doubled || last.len() > 1 && last.ends_with(b"/")
    });
    odd.then_some("no path but / ends with /, and none has // in it")
}

/// Whether no text at all matches, as far as that is easy to tell.
fn impossible(hir: &Hir) -> bool {
    let properties = hir.properties();
    if properties.minimum_len().is_none() {
        return true;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
        HirKind::Capture(capture) => impossible(&capture.sub),
        HirKind::Repetition(repetition) => repetition.min > 0 && impossible(&repetition.sub),
        HirKind::Alternation(parts) => parts.iter().all(impossible),
        HirKind::Concat(parts) => {
            let takes = |part: &Hir| part.properties().minimum_len().is_some_and(|len| len > 0);
            parts.iter().enumerate().any(|(place, part)| {
                let (before, after) = (parts.get(..place), parts.get(place + 1..));
                let late = part.properties().look_set_prefix().contains(Look::Start);
                let early = part.properties().look_set_suffix().contains(Look::End);
                impossible(part)
                    || late && before.is_some_and(|parts| parts.iter().any(takes))
                    || early && after.is_some_and(|parts| parts.iter().any(takes))
            })
        }
    }
}

/// The line with its lone dots escaped.
fn dotted(line: &str) -> Option<String> {
    let tree = ast::parse::Parser::new().parse(line).ok()?;
    let dots = ast::visit(&tree, Dots::default()).ok()?;
    if dots.is_empty() {
        return None;
    }
    let mut text = line.to_owned();
    for at in dots.iter().rev() {
        text.replace_range(*at..at + 1, "[.]");
    }
    Some(text)
}

/// Where dots stand that are not repeated.
#[derive(Default)]
struct Dots {
    all: BTreeSet<usize>,
    repeated: BTreeSet<usize>,
}

impl ast::Visitor for Dots {
    type Output = BTreeSet<usize>;
    type Err = std::convert::Infallible;

    fn finish(self) -> Result<Self::Output, Self::Err> {
        Ok(self.all.difference(&self.repeated).copied().collect())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        if let Ast::Dot(span) = ast {
            self.all.insert(span.start.offset);
        }
        if let Ast::Repetition(repetition) = ast
            && let Ast::Dot(span) = &*repetition.ast
        {
            self.repeated.insert(span.start.offset);
        }
        Ok(())
    }
}

//! What the README shows is what the examples do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = include_str!("../src/bin/check_compliance.rs");

/// The lines between those, without their indentation.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| !line.starts_with(begin)).skip(1);
    lines.take_while(|line| *line != end).map(str::trim).collect()
}

#[test]
fn the_readmes_check_is_the_examples() {
    let (shown, run) = (between(README, "```rust", "```"), between(EXAMPLE, "fn check(", "}"));
    assert!(!shown.is_empty());
    assert_eq!(run[..shown.len()], shown);
}

#[test]
fn a_check_fits_into_20_lines() {
    let lines = 2 + between(EXAMPLE, "fn check(", "}").len();
    assert!((5..=20).contains(&lines), "{lines} lines");
}

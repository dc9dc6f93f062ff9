//! Filters against the slow reference: every line a regular expression of its own, anchored, the first match counts.

use proptest::prelude::*;
use regex::bytes::{Regex, RegexBuilder};

use super::shape::Shape;
use super::*;

/// What the manual says a line means.
fn reference(line: &str) -> Option<Regex> {
    let build = |text: &str| RegexBuilder::new(text).unicode(false).dot_matches_new_line(true).build().ok();
    build(line).and(build(&format!("^(?:{line})")))
}

fn agree(lines: &[String], inverted: bool, paths: &[Vec<u8>]) {
    let slow: Option<Vec<_>> = lines.iter().map(|line| reference(line)).collect();
    let mut all = lines.to_vec();
    all.extend(inverted.then(|| INVERT.to_owned()));
    let fast = Lines::new(all);
    let (Some(slow), Ok(fast)) = (&slow, &fast) else {
        assert_eq!(slow.is_some(), fast.is_ok(), "{lines:?}: {fast:?}");
        return;
    };
    for path in paths {
        let expected = slow.iter().any(|line| line.is_match(path)) != inverted;
        let shown = path.escape_ascii();
        assert_eq!(fast.matches(path), expected, "{lines:?} (inverted: {inverted}) of {shown}");
    }
}

/// Pieces of lines as people write them, and as they get them nearly right.
const PIECES: [&str; 52] = [
    "/", "a", "b", "ab", "/a", "/b", "/ab", "/a/", ".", ".*", ".+", ".?", ".{2}", ".{2,}", ".{0,2}", "[.]",
    "[a]", "\\.", "\\/", "[ab]", "[^a]", "[^/]*", "[^/]+", "(|/.*)", "(/.*)?", "(/.*|)", "(?:|/.*)", "(a|b)",
    "(a|)", "(|)", "()", "(a|b.*)", "(a$|b)", "(^a|/b)", "a*", "a?", "(a|b)*", "$", "^", "\\z", "\\A", "\\b",
    "(?m:$)", "(?i:A)", "|", "|/", "\n", "\\n", "\\xff", "é", "~", "(?s-u:.)",
];

/// Whole lines of the shapes that are looked up, around words that are in the paths, too.
fn shaped() -> impl Strategy<Value = String> {
    let word = || prop::sample::select(vec!["a", "b", "ab", "a/b", "[.]", "b[.]a", "\\.a", "é", "~", "\\n"]);
    prop_oneof![
        word().prop_map(|word| format!("/{word}")),
        word().prop_map(|word| format!("/{word}$")),
        word().prop_map(|word| format!("/{word}/.*")),
        word().prop_map(|word| format!("/{word}/.*$")),
        word().prop_map(|word| format!("/{word}(|/.*)$")),
        word().prop_map(|word| format!("/{word}(/.*)?$")),
        word().prop_map(|word| format!("/{word}(/.*)?")),
        word().prop_map(|word| format!(".*{word}$")),
        word().prop_map(|word| format!("/.*{word}.*")),
        word().prop_map(|word| format!("/.*{word}.*$")),
        word().prop_map(|word| format!("/.*/{word}(|/.*)$")),
        (word(), word()).prop_map(|(one, other)| format!("/{one}.*{other}$")),
        (word(), word()).prop_map(|(one, other)| format!("/{one}.+{other}$")),
        (word(), word()).prop_map(|(one, other)| format!("/{one}.*{other}")),
        (word(), word()).prop_map(|(one, other)| format!("/{one}/[^/]+/{other}(|/.*)$")),
        (word(), word()).prop_map(|(one, other)| format!("/({one}|{other})(|/.*)$")),
    ]
}

fn line() -> impl Strategy<Value = String> {
    let pieces =
        prop::collection::vec(prop::sample::select(PIECES.to_vec()), 1..6).prop_map(|all| all.concat());
    prop_oneof![shaped(), pieces.clone(), pieces.prop_map(|rest| format!("/{rest}"))]
        .prop_filter("a line has no line feed and is more than `!`", |line| {
            !line.contains('\n') && line != INVERT
        })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "/".as_bytes(),
        b"a",
        b"b",
        b"ab",
        b"/a",
        b"/b",
        b"/a/",
        b".",
        b"\n",
        b"\xff",
        "é".as_bytes(),
        b"~",
        b"A",
        b".a",
        b"b.a",
    ]);
    (any::<bool>(), prop::collection::vec(part, 0..7)).prop_map(|(absolute, parts)| {
        [if absolute { b"/".as_slice() } else { b"" }, &parts.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn every_filter_agrees_with_its_lines_one_by_one(
        lines in prop::collection::vec(line(), 1..9),
        inverted in prop::bool::weighted(0.2),
        paths in prop::collection::vec(path(), 1..24),
    ) {
        agree(&lines, inverted, &paths);
    }
}

#[test]
fn filters_with_more_than_can_be_looked_up_agree_too() {
    let mut lines: Vec<_> =
        (0..40).map(|len| format!("/{}.*{}$", "a".repeat(len), "b".repeat(40 - len))).collect();
    lines.extend((0..40).map(|len| format!("/{}.*{}", "b".repeat(len), "ac".repeat(40 - len))));
    lines.extend((0..400).map(|number| format!("/.*needle-{number}/")));
    let mut paths: Vec<Vec<u8>> = Vec::new();
    for (a, b) in (0..80).map(|n| (n % 45, n / 2)) {
        paths.push(format!("/{}{}", "a".repeat(a), "b".repeat(b)).into_bytes());
        paths.push(format!("/{}{}", "b".repeat(b), "ac".repeat(a)).into_bytes());
        paths.push(format!("/x/needle-{}/{a}", 5 * a + b).into_bytes());
    }
    agree(&lines, false, &paths);
}

#[test]
fn lines_of_every_common_shape_are_looked_up() {
    let simple = |line: &str| matches!(Shape::of(line), Ok(Shape::Simple(_)));
    for line in [
        "/tmp",
        "/tmp$",
        "/tmp/.*",
        "/tmp/.*$",
        "/tmp(|/.*)$",
        "/tmp(/.*)?$",
        "/tmp/.+",
        "/tmp/..*$",
        "/etc/[m]td",
        "/etc/resolv[.]conf$",
        "/etc/resolv\\.conf$",
        "/.*[.]pyc$",
        ".*~$",
        "/.*/[.]git(|/.*)$",
        "/.*x.*",
        "/(proc|sys|dev)/.*",
        "/var/log/.*[.]gz$",
        "/dev/tty[0-9]$",
        "^/a",
        "/a|/b",
        "",
    ] {
        assert!(simple(line), "{line}: {:?}", Shape::of(line));
    }
    for line in ["/home/[^/]+/x", "/a*", "/.*a.*b", "/a$b", "/.b$", "(?i)/abcdefgh", "\\b/"] {
        assert!(!simple(line), "{line}: {:?}", Shape::of(line));
    }
    let beginnings = |line: &str| match Shape::of(line).unwrap() {
        Shape::Complex { beginnings } => beginnings,
        Shape::Simple(simple) => panic!("{line}: {simple:?}"),
    };
    assert_eq!(beginnings("/home/[^/]+/x"), [b"/home/"]);
    assert_eq!(beginnings("[^/]+/x"), [b""]);
}

//! Many strings, and which of them a text begins (or ends) with.

use std::marker::PhantomData;

/// From which end of a text strings are looked for.
pub(super) trait Side {
    /// The next byte from there.
    fn next(text: &[u8]) -> Option<u8>;
    /// What is left of the text without `label`, if that is next.
    fn strip<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]>;
    /// A string as it is read from there, or the other way round.
    fn turn(string: &mut [u8]);
}

/// From the beginning on.
pub(super) struct Front;

/// From the end back.
pub(super) struct Back;

impl Side for Front {
    fn next(text: &[u8]) -> Option<u8> {
        text.first().copied()
    }

    fn strip<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]> {
        text.strip_prefix(label)
    }

    fn turn(_: &mut [u8]) {}
}

impl Side for Back {
    fn next(text: &[u8]) -> Option<u8> {
        text.last().copied()
    }

    fn strip<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]> {
        text.strip_suffix(label)
    }

    fn turn(string: &mut [u8]) {
        string.reverse();
    }
}

/// Strings with a leaf each, as a tree of what they have in common. It takes memory in proportion to their length. The
/// nodes lie in one list, not within each other: a hostile filter has thousands of strings each of which is the
/// beginning of the next, and dropping or walking such a tree must not take the stack.
pub(super) struct Trie<S, L> {
    nodes: Vec<Node<L>>,
    side: PhantomData<fn() -> S>,
}

struct Node<L> {
    /// What leads here from the node above.
    label: Box<[u8]>,
    leaf: Option<L>,
    /// With which byte the label of each node below begins.
    nexts: Box<[u8]>,
    /// Where the nodes below are, one after the other.
    below: usize,
}

impl<S: Side, L> Trie<S, L> {
    /// The tree of `strings`; leaves of equal strings are merged.
    pub(super) fn new(strings: Vec<(Vec<u8>, L)>, merge: impl Fn(&mut L, L)) -> Self {
        let (keys, mut leaves) = sorted::<S, L>(strings, merge);
        let mut nodes = vec![Node::new(Box::default())];
        // Each node with the keys it stands for, and how much of them has led to it.
        let mut waiting = std::collections::VecDeque::from([(0, 0..keys.len(), 0)]);
        while let Some((number, mut range, depth)) = waiting.pop_front() {
            let mut leaf = None;
            // The shortest key is the first.
            if !range.is_empty() && keys.get(range.start).is_some_and(|key| key.len() == depth) {
                leaf = leaves.get_mut(range.start).and_then(Option::take);
                range.start += 1;
            }
            let (below, mut nexts) = (nodes.len(), Vec::new());
            for group in groups(&keys, range, depth) {
                let label = common(&keys, &group, depth);
                nexts.extend(label.first());
                let after = depth + label.len();
                let mut label = label.to_vec();
                S::turn(&mut label);
                waiting.push_back((nodes.len(), group, after));
                nodes.push(Node::new(label.into()));
            }
            if let Some(node) = nodes.get_mut(number) {
                (node.leaf, node.nexts, node.below) = (leaf, nexts.into(), below);
            }
        }
        Self { nodes, side: PhantomData }
    }

    /// The same with other leaves.
    pub(super) fn map<M>(self, each: impl Fn(L) -> M) -> Trie<S, M> {
        let node = |Node { label, leaf, nexts, below }| Node { label, leaf: leaf.map(&each), nexts, below };
        Trie { nodes: self.nodes.into_iter().map(node).collect(), side: PhantomData }
    }

    /// Whether `found` says so of the leaf of any string the text begins with, given what is left of the text after it.
    pub(super) fn any<'t>(&self, text: &'t [u8], mut found: impl FnMut(&L, &'t [u8]) -> bool) -> bool {
        let (mut node, mut left) = (self.nodes.first(), text);
        while let Some(here) = node {
            if here.leaf.as_ref().is_some_and(|leaf| found(leaf, left)) {
                return true;
            }
            let Some(next) = S::next(left) else { return false };
            let Some(child) = here.nexts.iter().position(|byte| *byte == next) else { return false };
            node = self.nodes.get(here.below + child);
            let Some(rest) = node.and_then(|node| S::strip(left, &node.label)) else { return false };
            left = rest;
        }
        false
    }
}

impl<L> Node<L> {
    fn new(label: Box<[u8]>) -> Self {
        Self { label, leaf: None, nexts: Box::default(), below: 0 }
    }
}

/// The different strings as they are read from their side, in order, and the leaf of each.
fn sorted<S: Side, L>(
    mut strings: Vec<(Vec<u8>, L)>,
    merge: impl Fn(&mut L, L),
) -> (Vec<Vec<u8>>, Vec<Option<L>>) {
    strings.iter_mut().for_each(|(string, _)| S::turn(string));
    strings.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (mut keys, mut leaves): (Vec<Vec<u8>>, Vec<Option<L>>) = (Vec::new(), Vec::new());
    for (string, leaf) in strings {
        match leaves.last_mut().and_then(Option::as_mut).filter(|_| keys.last() == Some(&string)) {
            Some(same) => merge(same, leaf),
            None => {
                keys.push(string);
                leaves.push(Some(leaf));
            }
        }
    }
    (keys, leaves)
}

/// The keys of `range` by their byte at `depth`.
fn groups(
    keys: &[Vec<u8>],
    range: std::ops::Range<usize>,
    depth: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let byte = move |number: usize| keys.get(number).and_then(|key| key.get(depth));
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        let first = byte(start).filter(|_| start < range.end)?;
        at = (start..range.end).find(|number| byte(*number) != Some(first)).unwrap_or(range.end);
        Some(start..at)
    })
}

/// What all keys of a group have in common from `depth` on: what the first and the last have, as they are in order.
fn common<'k>(keys: &'k [Vec<u8>], group: &std::ops::Range<usize>, depth: usize) -> &'k [u8] {
    let rest = |number: usize| keys.get(number).and_then(|key| key.get(depth..)).unwrap_or_default();
    let (first, last) = (rest(group.start), rest(group.end.saturating_sub(1)));
    let same = first.iter().zip(last).take_while(|(one, other)| one == other).count();
    first.get(..same).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<S: Side>(strings: &[Vec<u8>], text: &[u8], is_at: impl Fn(&[u8]) -> bool) {
        let trie: Trie<S, Vec<usize>> = Trie::new(
            strings.iter().cloned().enumerate().map(|(number, string)| (string, vec![number])).collect(),
            |one, other| one.extend(other),
        );
        let mut found: Vec<usize> = Vec::new();
        trie.any(text, |numbers, left| {
            for number in numbers {
                assert_eq!(left.len(), text.len() - strings[*number].len());
            }
            found.extend(numbers);
            false
        });
        found.sort_unstable();
        let expected: Vec<_> = (0..strings.len()).filter(|number| is_at(&strings[*number])).collect();
        assert_eq!(found, expected, "{strings:?} {text:?}");
    }

    proptest! {
        #[test]
        fn exactly_the_strings_a_text_begins_or_ends_with_are_found(
            strings in prop::collection::vec(prop::collection::vec(0u8..3, 0..6), 0..20),
            text in prop::collection::vec(0u8..3, 0..8),
        ) {
            check::<Front>(&strings, &text, |string| text.starts_with(string));
            check::<Back>(&strings, &text, |string| text.ends_with(string));
        }
    }

    #[test]
    fn thousands_of_strings_within_each_other_take_no_stack() {
        let strings: Vec<_> = (0..4096).map(|len| (vec![b'a'; len], len)).collect();
        let walk = move || {
            let trie: Trie<Front, usize> = Trie::new(strings, |_, _| {});
            let mut seen = 0;
            trie.any(&[b'a'; 4095], |_, _| {
                seen += 1;
                false
            });
            seen
        };
        let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(walk).unwrap();
        assert_eq!(thread.join().unwrap(), 4096);
    }
}

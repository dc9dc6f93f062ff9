//! Trees are named by what is in them, not by how they came about.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod arbitrary;

use std::collections::BTreeMap;

use arbitrary::{directory, file, inode, name, path};
use dominator_core::inode::{Aspect, Inode, Kind};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Conflict, Directory, DirectoryMap, LinkSets, Snapshot};
use dominator_core::view::View;
use proptest::prelude::*;

fn builder() -> Builder {
    Builder::new(directory()).unwrap()
}

fn finish(builder: Builder) -> Snapshot {
    builder.finish(View::everything().id())
}

fn built(entries: &[(&str, Inode)]) -> Snapshot {
    let mut builder = builder();
    entries.iter().for_each(|(at, inode)| builder.insert(&path(at), inode.clone()).unwrap());
    finish(builder)
}

#[test]
fn a_replaced_file_leaves_no_trace() {
    let replaced = built(&[("/a", file("old")), ("/b", file("b")), ("/a", file("new"))]);
    assert_eq!(replaced.id(), built(&[("/b", file("b")), ("/a", file("new"))]).id());
}

#[test]
fn a_directory_that_replaces_a_directory_keeps_its_entries() {
    let private = Inode { mode: dominator_core::inode::Mode::from_st_mode(0o700), ..directory() };
    let later = built(&[("/d", directory()), ("/d/a", file("a")), ("/d", private.clone())]);
    assert_eq!(later.id(), built(&[("/d", private), ("/d/a", file("a"))]).id());
}

#[test]
fn a_file_that_replaces_a_directory_takes_its_entries_and_their_links_away() {
    let mut builder = builder();
    builder.insert(&path("/d"), directory()).unwrap();
    builder.insert(&path("/d/a"), file("a")).unwrap();
    builder.link(&path("/b"), &path("/d/a")).unwrap();
    builder.insert(&path("/d"), file("d")).unwrap();
    let snapshot = finish(builder);
    assert_eq!(snapshot.id(), built(&[("/b", file("a")), ("/d", file("d"))]).id());
    assert!(snapshot.links.is_empty());
}

#[test]
fn the_root_takes_new_metadata_and_stays_a_directory() {
    let private = Inode { uid: 7, ..directory() };
    let later = built(&[("/a", file("a")), ("/", private.clone())]);
    assert_eq!((later.tree.root.uid, later.inode(&path("/a"))), (7, Some(file("a"))));
    let root = Err(Conflict::NotADirectory { path: path("/") });
    assert_eq!(builder().insert(&path("/"), file("x")), root);
    assert_eq!(Builder::new(file("x")).map(|_| ()), root);
}

#[test]
fn what_has_no_directory_to_be_in_is_named() {
    let mut builder = builder();
    builder.insert(&path("/f"), file("f")).unwrap();
    let missing = Err(Conflict::NoParent { path: path("/d") });
    assert_eq!(builder.insert(&path("/d/a"), file("a")), missing);
    assert_eq!(builder.insert(&path("/f/a"), file("a")), Err(Conflict::NotADirectory { path: path("/f") }));
    assert_eq!(builder.link(&path("/d/a"), &path("/f")), missing);
    for target in ["/nowhere", "/"] {
        let conflict = Conflict::NoTarget { path: path("/x"), target: path(target) };
        assert_eq!(builder.link(&path("/x"), &path(target)), Err(conflict));
    }
    assert_eq!(finish(builder).id(), built(&[("/f", file("f"))]).id(), "what was refused left something");
}

fn link_names(snapshot: &Snapshot) -> Vec<Vec<String>> {
    snapshot.links.iter().map(|set| set.iter().map(ToString::to_string).collect()).collect()
}

#[test]
fn links_of_links_are_one_set_and_a_replaced_name_leaves_it() {
    let mut builder = builder();
    builder.insert(&path("/c"), file("x")).unwrap();
    builder.link(&path("/a"), &path("/c")).unwrap();
    builder.link(&path("/b"), &path("/a")).unwrap();
    builder.link(&path("/b"), &path("/b")).unwrap();
    builder.insert(&path("/c"), file("other")).unwrap();
    let snapshot = finish(builder);
    assert_eq!(link_names(&snapshot), [["/a", "/b"]]);
    assert_eq!(snapshot.verify(4), Ok(()));
}

#[test]
fn a_name_that_moves_to_another_set_leaves_the_first() {
    let mut builder = builder();
    for name in ["/a", "/x"] {
        builder.insert(&path(name), file(name)).unwrap();
    }
    builder.link(&path("/b"), &path("/a")).unwrap();
    builder.link(&path("/y"), &path("/x")).unwrap();
    builder.link(&path("/b"), &path("/x")).unwrap();
    let snapshot = finish(builder);
    assert_eq!(link_names(&snapshot), [["/b", "/x", "/y"]]);
    assert_eq!(snapshot.inode(&path("/b")), Some(file("/x")));
}

#[test]
fn hard_links_are_in_the_tree_id_and_not_in_directories() {
    let apart = built(&[("/a", file("x")), ("/b", file("x"))]);
    let mut builder = builder();
    builder.insert(&path("/a"), file("x")).unwrap();
    builder.link(&path("/b"), &path("/a")).unwrap();
    let linked = finish(builder);
    assert_ne!(apart.id(), linked.id());
    assert_eq!(apart.tree.root, linked.tree.root);
}

#[test]
fn a_moved_directory_shares_everything() {
    let inside = |at: &str| {
        let below = format!("{at}/x");
        built(&[(at, directory()), (below.as_str(), file("x"))])
    };
    let (here, there) = (inside("/here"), inside("/there"));
    assert_eq!(here.inode(&path("/here")), there.inode(&path("/there")));
}

#[test]
fn every_object_is_wanted_once() {
    let empty = inode(0o644, file("").kind);
    let tree = built(&[("/a", file("xyz")), ("/b", file("xyz")), ("/c", empty), ("/d", directory())]);
    assert_eq!(tree.objects(), BTreeMap::from([(ObjectId::of(b"xyz"), 3), (ObjectId::of(b""), 0)]));
}

#[test]
fn trees_no_machine_could_have_are_found_out() {
    let sound = built(&[("/d", directory()), ("/d/a", file("a")), ("/b", file("b"))]);
    assert_eq!(sound.verify(4), Ok(()));
    assert!(sound.verify(3).is_err(), "too many entries");
    let lost = Snapshot { directories: DirectoryMap::default(), ..sound.clone() };
    assert!(lost.verify(4).is_err(), "directories missing");
    let swapped = Snapshot { links: LinkSets::new([vec![path("/b"), path("/d/a")]]), ..sound.clone() };
    assert!(swapped.verify(4).is_err(), "other links than the tree names");
    for set in [["/b", "/d/a"], ["/b", "/nowhere"], ["/d", "/b"]] {
        let links = LinkSets::new([set.iter().map(|name| path(name)).collect()]);
        let root = sound.tree.root.clone();
        let lie = Snapshot::new(View::everything().id(), root, links, sound.directories.clone());
        assert!(lie.verify(4).is_err(), "{set:?}");
    }
}

/// Directories in each other, as many as a path can name and `more`.
fn deep(more: usize) -> Snapshot {
    let mut directories = DirectoryMap::default();
    let mut id = directories.insert(Directory::default());
    for _ in 0..ImagePath::MAX_DEPTH + more {
        let entry = (name("d"), inode(0o755, Kind::Directory { id }));
        id = directories.insert(Directory::new([entry]).unwrap());
    }
    let root = inode(0o755, Kind::Directory { id });
    Snapshot::new(View::everything().id(), root, LinkSets::default(), directories)
}

#[test]
fn the_deepest_tree_is_handled_and_a_deeper_one_refused() {
    assert_eq!(deep(0).verify(10_000), Ok(()));
    assert_eq!(View::everything().apply(&deep(0)).id(), deep(0).id());
    assert!(deep(1).verify(10_000).is_err());
}

#[test]
fn directories_that_share_directories_do_not_exhaust_the_verifier() {
    let mut directories = DirectoryMap::default();
    let mut id = directories.insert(Directory::default());
    for _ in 0..64 {
        let entry = inode(0o755, Kind::Directory { id });
        let entries = ["a", "b"].map(|text| (name(text), entry.clone()));
        id = directories.insert(Directory::new(entries).unwrap());
    }
    let root = inode(0o755, Kind::Directory { id });
    let bomb = Snapshot::new(View::everything().id(), root, LinkSets::default(), directories);
    assert!(bomb.verify(100_000).is_err());
}

/// The entries of a tree in an order picked by `keys`, but directories before what is in them.
fn shuffled(tree: &Snapshot, keys: &[u32]) -> Vec<(ImagePath, Inode)> {
    let mut entries = Vec::new();
    tree.walk(|path, inode| entries.push((path.clone(), inode.clone())));
    let mut keyed: Vec<_> = entries.into_iter().zip(keys.iter().cycle()).collect();
    keyed.sort_by_key(|((path, _), key)| (path.components().count(), **key));
    keyed.into_iter().map(|(entry, _)| entry).collect()
}

proptest! {
    #[test]
    fn inodes_differ_in_nothing_only_when_they_are_equal(
        a in arbitrary::inodes(), b in arbitrary::inodes(), keep in any::<[bool; 5]>(),
    ) {
        // Often alike in all but a little.
        let b = Inode {
            mode: if keep[0] { a.mode } else { b.mode },
            uid: if keep[1] { a.uid } else { b.uid },
            gid: if keep[2] { a.gid } else { b.gid },
            xattrs: if keep[3] { a.xattrs.clone() } else { b.xattrs.clone() },
            kind: if keep[4] { a.kind.clone() } else { b.kind.clone() },
        };
        let (there, back) = (a.differences(&b), b.differences(&a));
        prop_assert_eq!(there.len(), back.len());
        let both_directories = a.is_directory() && b.is_directory();
        prop_assert_eq!(there.is_empty(), a == b || both_directories && a.same_attributes(&b));
        if !a.is_unknown() {
            prop_assert_eq!(there.iter().any(Aspect::is_contents), !a.same_contents(&b));
        }
    }

    #[test]
    fn siblings_in_any_order_make_the_same_tree(
        tree in arbitrary::snapshots(),
        keys in prop::collection::vec(any::<u32>(), 1..20),
        backwards in any::<bool>(),
    ) {
        let mut builder = builder();
        for (path, inode) in shuffled(&tree, &keys) {
            builder.insert(&path, inode).unwrap();
        }
        let mut sets: Vec<Vec<_>> = tree.links.iter().map(<[_]>::to_vec).collect();
        if backwards {
            sets.reverse();
            sets.iter_mut().for_each(|set| set.reverse());
        }
        for set in sets {
            for name in &set[1..] {
                builder.link(name, &set[0]).unwrap();
            }
        }
        prop_assert_eq!(finish(builder).id(), tree.id());
    }

    #[test]
    fn what_was_inserted_last_is_found_there(tree in arbitrary::snapshots()) {
        let mut count = 0;
        tree.walk(|path, inode| {
            count += 1;
            assert_eq!(tree.inode(path).as_ref(), Some(inode));
        });
        prop_assert_eq!(tree.verify(count), Ok(()));
        prop_assert!(tree.verify(count - 1).is_err());
    }

    #[test]
    fn another_inode_anywhere_is_another_tree(
        tree in arbitrary::snapshots(),
        at in arbitrary::paths(1..4),
        inode in arbitrary::inodes(),
    ) {
        let parent = at.parent().unwrap();
        prop_assume!(tree.inode(&parent).is_some_and(|inode| inode.is_directory()) && !inode.is_directory());
        let mut builder = builder();
        tree.walk(|path, inode| builder.insert(path, inode.clone()).unwrap());
        let before = builder.finish(View::everything().id());
        let mut builder = Builder::new(before.tree.root.clone()).unwrap();
        before.walk(|path, inode| builder.insert(path, inode.clone()).unwrap());
        builder.insert(&at, inode.clone()).unwrap();
        let same = before.inode(&at).as_ref() == Some(&inode);
        prop_assert_eq!(finish(builder).id() == before.id(), same);
    }
}

//! A view shows what it says of a tree, and nothing else of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod arbitrary;

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{directory, file, path};
use dominator_core::filter::Filter;
use dominator_core::inode::{Inode, Kind, Timestamp, Xattrs};
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::{Granularity, Ownership, View, XattrClass, XattrPolicy};
use proptest::prelude::*;

fn inodes(snapshot: &Snapshot) -> BTreeMap<ImagePath, Inode> {
    let mut inodes = BTreeMap::new();
    snapshot.walk(|path, inode| drop(inodes.insert(path.clone(), inode.clone())));
    inodes
}

/// All paths but the root, as text.
fn shown(view: &View, snapshot: &Snapshot) -> Vec<String> {
    inodes(&view.apply(snapshot)).keys().filter(|path| !path.is_root()).map(ToString::to_string).collect()
}

/// Directories end in a slash; what stands behind ` = ` is the older name of a hard link.
fn tree(entries: &[&str]) -> Snapshot {
    let mut builder = Builder::new(directory()).unwrap();
    for entry in entries {
        match (entry.strip_suffix('/'), entry.split_once(" = ")) {
            (Some(at), _) => builder.insert(&path(at), directory()).unwrap(),
            (None, Some((at, target))) => builder.link(&path(at), &path(target)).unwrap(),
            (None, None) => builder.insert(&path(entry), file(entry)).unwrap(),
        }
    }
    builder.finish(View::everything().id())
}

fn filtered(lines: &str) -> View {
    View { filters: vec![Filter::parse(lines).unwrap()], ..View::everything() }
}

fn paths(texts: &[&str]) -> BTreeSet<ImagePath> {
    texts.iter().map(|text| path(text)).collect()
}

#[test]
fn a_filtered_directory_takes_all_below_it_along() {
    let tree = tree(&["/tmp/", "/tmp/a/", "/tmp/a/keep", "/tmpfoo", "/etc/", "/etc/tmp"]);
    assert_eq!(shown(&filtered("/tmp$"), &tree), ["/etc", "/etc/tmp", "/tmpfoo"]);
    assert_eq!(shown(&filtered("/tmp/.*"), &tree), ["/etc", "/etc/tmp", "/tmp", "/tmpfoo"]);
}

#[test]
fn an_inverted_filter_shows_only_what_it_names() {
    let tree = tree(&["/etc/", "/etc/a", "/usr/", "/usr/b"]);
    assert_eq!(shown(&filtered("!\n/etc(|/.*)$"), &tree), ["/etc", "/etc/a"]);
    // What is named in a directory that is not is hidden with it.
    assert_eq!(shown(&filtered("!\n/etc/a$"), &tree), [""; 0]);
}

#[test]
fn one_filter_that_matches_is_enough() {
    let tree = tree(&["/a", "/b", "/c"]);
    let filters = ["/a$", "/b$"].map(|line| Filter::parse(line).unwrap());
    let both = View {
        filters: [filters.to_vec(), vec![Filter::Sparse, Filter::Empty]].concat(),
        ..View::everything()
    };
    assert_eq!(shown(&both, &tree), ["/c"]);
}

#[test]
fn the_root_can_not_be_hidden() {
    let tree = tree(&["/a"]);
    for hiding in [
        filtered("/.*"),
        View { protected: paths(&["/", "/a"]), ..View::everything() },
        View { only: Some(BTreeSet::new()), ..View::everything() },
    ] {
        assert_eq!(inodes(&hiding.apply(&tree)).into_keys().collect::<Vec<_>>(), [path("/")], "{hiding:?}");
    }
}

#[test]
fn what_a_machine_protects_is_not_shown_nor_what_is_in_it() {
    let tree = tree(&["/srv/", "/srv/data/", "/srv/data/x", "/srv/data2", "/srv/web"]);
    let view = View { protected: paths(&["/srv/data"]), ..View::everything() };
    assert_eq!(shown(&view, &tree), ["/srv", "/srv/data2", "/srv/web"]);
}

#[test]
fn the_work_directory_of_the_agent_is_never_shown() {
    let tree = tree(&["/.subd/", "/.subd/journal", "/srv/", "/srv/.subd"]);
    let only = View { only: Some(paths(&["/.subd", "/.subd/journal"])), ..View::everything() };
    assert_eq!(shown(&View::everything(), &tree), ["/srv", "/srv/.subd"]);
    assert_eq!(shown(&only, &tree), [""; 0]);
}

#[test]
fn a_sparse_view_shows_its_own_paths_only() {
    let tree = tree(&["/etc/", "/etc/motd", "/etc/passwd", "/usr/", "/usr/bin"]);
    let view = |only: &[&str]| View { only: Some(paths(only)), ..View::everything() };
    assert_eq!(shown(&view(&["/etc", "/etc/motd", "/not/there"]), &tree), ["/etc", "/etc/motd"]);
    assert_eq!(shown(&view(&["/etc/motd"]), &tree), [""; 0], "the way there has to be named, too");
}

#[test]
fn hard_links_shrink_to_the_names_in_view() {
    let tree = tree(&["/a", "/b = /a", "/log/", "/log/c = /a", "/x", "/log/y = /x"]);
    let names = |view: &View| -> Vec<Vec<String>> {
        view.apply(&tree).links.iter().map(|set| set.iter().map(ToString::to_string).collect()).collect()
    };
    assert_eq!(names(&View::everything()), [vec!["/a", "/b", "/log/c"], vec!["/log/y", "/x"]]);
    assert_eq!(names(&filtered("/log$")), [vec!["/a", "/b"]]);
    assert_eq!(names(&filtered("/[ab]$")), [vec!["/log/y", "/x"]]);
    assert_eq!(shown(&filtered("/[ab]$"), &tree), ["/log", "/log/c", "/log/y", "/x"]);
}

/// A file with everything a view may leave out.
fn rich() -> Inode {
    let mut xattrs = Xattrs::default();
    for name in ["security.capability", "security.selinux", "system.posix_acl_access", "user.note"] {
        xattrs.insert(name.as_bytes(), b"x").unwrap();
    }
    Inode { uid: 7, gid: 8, xattrs, ..file("rich") }
}

#[test]
fn attributes_of_other_classes_are_left_out() {
    let names = |policy| {
        let seen = View { xattrs: policy, ..View::everything() }.inode(&rich());
        seen.xattrs.iter().map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(XattrPolicy::NONE), [""; 0]);
    assert_eq!(names(XattrPolicy::of([XattrClass::User])), ["user.note"]);
    let two = XattrPolicy::of([XattrClass::PosixAcl, XattrClass::Capability]);
    assert_eq!(names(two), ["security.capability", "system.posix_acl_access"]);
    assert_eq!(names(XattrPolicy::ALL).len(), 4);
}

#[test]
fn owners_that_can_not_be_set_do_not_count() {
    let view = View { ownership: Ownership::Ignored, ..View::everything() };
    assert_eq!(view.inode(&rich()), Inode { uid: 0, gid: 0, ..rich() });
    let mine = Inode { uid: 1000, gid: 1000, ..rich() };
    assert_eq!(view.inode(&mine), view.inode(&rich()));
}

#[test]
fn times_are_as_coarse_as_the_view_is() {
    let with = |seconds, nanos| {
        let inode = file("x");
        let Kind::Regular { size, object, .. } = inode.kind else { panic!("a file is a file") };
        let mtime = Timestamp::new(seconds, nanos).unwrap();
        Inode { kind: Kind::Regular { mtime, size, object }, ..inode }
    };
    let view = |nanos| View { mtime: Granularity::nanos(nanos).unwrap(), ..View::everything() };
    assert_eq!(view(1).inode(&with(5, 999_999_999)), with(5, 999_999_999));
    assert_eq!(view(100).inode(&with(5, 999_999_999)), with(5, 999_999_900));
    assert_eq!(view(1_000_000_000).inode(&with(5, 999_999_999)), with(5, 0));
    // Before 1970 the nanoseconds still count from the second before.
    assert_eq!(view(1_000_000_000).inode(&with(-1, 1)), with(-1, 0));
}

proptest! {
    #[test]
    fn a_view_shows_exactly_the_paths_it_reaches(view in arbitrary::views(), tree in arbitrary::snapshots()) {
        let seen = inodes(&view.apply(&tree));
        for (path, inode) in inodes(&tree) {
            match seen.get(&path) {
                Some(shown) => {
                    prop_assert!(view.reaches(&path), "{path} is shown");
                    prop_assert!(shown.same_attributes(&view.inode(&inode)), "{path}");
                    prop_assert!(inode.is_directory() || *shown == view.inode(&inode), "{path}");
                }
                None => prop_assert!(!view.reaches(&path), "{path} is hidden"),
            }
        }
        prop_assert!(seen.keys().all(|path| tree.inode(path).is_some()));
    }

    #[test]
    fn a_view_of_a_sound_tree_is_sound(view in arbitrary::views(), tree in arbitrary::snapshots()) {
        prop_assert_eq!(tree.verify(1000), Ok(()));
        prop_assert_eq!(view.apply(&tree).verify(1000), Ok(()));
    }

    #[test]
    fn twice_is_once(view in arbitrary::views(), tree in arbitrary::snapshots()) {
        let once = view.apply(&tree);
        prop_assert_eq!(&once.tree.view, &view.id());
        prop_assert_eq!(view.apply(&once).id(), once.id());
    }

    #[test]
    fn everything_changes_nothing(tree in arbitrary::snapshots()) {
        prop_assume!(tree.inode(&path("/.subd")).is_none());
        prop_assert_eq!(View::everything().apply(&tree).id(), tree.id());
    }

    #[test]
    fn what_is_seen_of_hard_links_is_what_they_were(view in arbitrary::views(), tree in arbitrary::snapshots()) {
        let seen = view.apply(&tree);
        let shrunk = tree.links.iter().map(|set| set.iter().filter(|path| view.reaches(path)).cloned().collect());
        prop_assert_eq!(&seen.links, &dominator_core::tree::LinkSets::new(shrunk));
    }
}

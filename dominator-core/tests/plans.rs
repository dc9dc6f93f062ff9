//! Plans make one tree of another, whatever the two are: checked against a model of a file-system with hard links.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

mod model;

use dominator_core::inode::{Inode, Kind, Why};
use dominator_core::object::ObjectId;
use dominator_core::plan::{Compared, Comparison, DiffError, Plan};
use dominator_core::tree::{Builder, Directories, Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot};
use dominator_core::view::{View, ViewId};
use model::{Model, directory, file, inode, model, path};
use proptest::prelude::*;

/// Compares as the controller does: with nothing of the machine's directories at first.
fn compare(required: &Snapshot, actual: &Snapshot) -> (Compared, usize) {
    let mut directories = DirectoryMap::default();
    let mut links: Option<LinkSets> = None;
    let mut fetched = 0;
    loop {
        let comparison =
            Comparison { required, actual: &actual.tree, links: links.as_ref(), directories: &directories };
        let missing = comparison.missing().unwrap();
        if missing.is_empty() {
            return (comparison.plan().unwrap(), fetched);
        }
        assert_eq!(comparison.plan(), Err(DiffError::Missing(missing.clone())));
        for id in missing {
            fetched += 1;
            match actual.directories.directory(&DirectoryId(id)) {
                Some(directory) => drop(directories.insert(Directory::clone(&directory))),
                None => {
                    assert_eq!(id, actual.links.id().0);
                    links = Some(actual.links.clone());
                }
            }
        }
    }
}

/// Which objects are got when each next lot is taken from what came last. The plan can be made when there is no next.
fn got_by_descent(required: &Snapshot, actual: &Snapshot) -> BTreeSet<ObjectId> {
    let (mut directories, mut got, mut lots) = (DirectoryMap::default(), BTreeSet::new(), 0);
    loop {
        let links = Some(&actual.links).filter(|_| lots > 0);
        let comparison = Comparison { required, actual: &actual.tree, links, directories: &directories };
        let mut missing = match comparison.plan() {
            Ok(_) => return got,
            Err(DiffError::Missing(missing)) => missing,
            Err(error) => panic!("{error}"),
        };
        lots += 1;
        assert_eq!(lots, 1, "nothing is missing after the last lot");
        while !missing.is_empty() {
            let came: Vec<_> = missing
                .iter()
                .filter_map(|id| Some((DirectoryId(*id), actual.directories.directory(&DirectoryId(*id))?)))
                .collect();
            got.append(&mut missing);
            came.iter().for_each(|(id, directory)| directories.share(*id, directory.clone()));
            let comparison = Comparison { required, actual: &actual.tree, links, directories: &directories };
            missing = comparison.missing_below(came.iter().map(|(_, directory)| &**directory));
        }
    }
}

const FILES: [&str; 8] = ["/a", "/b", "/d/a", "/d/b", "/d/s/a", "/e/a", "/e/b", "/f"];
const DIRECTORIES: [&str; 4] = ["/d", "/d/s", "/e", "/f"];

/// A random machine: names partitioned into inodes, directories that may be files instead.
fn machine() -> impl Strategy<Value = Model> {
    let groups = prop::collection::vec((0..2u8, 0..2u8), 4);
    let files = prop::collection::vec(prop::option::weighted(0.8, 0..4usize), FILES.len());
    let directories = prop::collection::vec(prop::option::weighted(0.8, any::<bool>()), DIRECTORIES.len());
    (groups, files, directories, any::<u8>()).prop_map(|(groups, files, directories, hidden)| {
        let mut model = Model::new();
        for (at, mode) in DIRECTORIES.iter().zip(directories) {
            let at = path(at);
            let parent = model.at(&at.parent().unwrap()).is_some_and(Inode::is_directory);
            if let (true, Some(open)) = (parent, mode) {
                model.add(&at, directory(if open { 0o755 } else { 0o700 }));
            }
        }
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, group) in FILES.iter().zip(files) {
            let (at, Some(group)) = (path(at), group) else { continue };
            let free =
                model.at(&at).is_none() && model.at(&at.parent().unwrap()).is_some_and(Inode::is_directory);
            if !free {
                continue;
            }
            match numbers.get(&group) {
                Some(number) => {
                    model.names.insert(at, *number);
                }
                None => {
                    let (contents, mode) = groups[group];
                    let inode = file(["x", "y"][usize::from(contents)], [0o644, 0o600][usize::from(mode)]);
                    numbers.insert(group, model.add(&at, inode));
                }
            }
        }
        model.hidden = numbers.values().copied().filter(|number| hidden & (1 << (number % 8)) != 0).collect();
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_machine_becomes_any_other_in_one_plan_and_the_second_plan_is_empty(
        mut actual in machine(), required in machine(),
    ) {
        let hidden: Vec<_> = actual.hidden.iter().map(|n| (*n, actual.inodes[*n].clone())).collect();
        let must = required.snapshot();
        let (compared, fetched) = compare(&must, &actual.snapshot());
        prop_assert_eq!(got_by_descent(&must, &actual.snapshot()).len(), fetched);
        actual.apply(&compared.plan);
        prop_assert_eq!(actual.snapshot().id(), must.id(), "{:#?}", compared.plan);
        prop_assert_eq!(compare(&must, &actual.snapshot()).0, Compared::default());
        for (number, before) in hidden {
            prop_assert_eq!(&actual.inodes[number], &before, "an inode with a name out of view was changed in place");
        }
    }

    #[test]
    fn inodes_that_are_right_stay(mut actual in machine()) {
        let before = actual.snapshot();
        let (compared, fetched) = compare(&before, &before);
        prop_assert!(compared.plan.is_empty());
        prop_assert_eq!(fetched, 0);
        actual.apply(&compared.plan);
        prop_assert_eq!(actual.snapshot().id(), before.id());
    }

    #[test]
    fn plans_survive_their_encoding(actual in machine(), required in machine()) {
        let (compared, _) = compare(&required.snapshot(), &actual.snapshot());
        let encoded = compared.plan.encode();
        prop_assert_eq!(Plan::decode(&encoded), Ok(compared.plan));
    }
}

fn check(actual: &[(&str, &str, &str, u32)], required: &[(&str, &str, &str, u32)], plan: &[&str]) {
    let (compared, _) = compare(&model(required).snapshot(), &model(actual).snapshot());
    let said: Vec<_> = compared.plan.operations.iter().map(ToString::to_string).collect();
    assert_eq!(said, plan);
}

#[test]
fn nothing_is_put_that_a_link_can_do() {
    let joined = [("/a", "1", "x", 0o644), ("/b", "1", "x", 0o644), ("/c", "1", "x", 0o644)];
    let apart = [("/a", "1", "x", 0o644), ("/b", "2", "x", 0o644), ("/c", "3", "x", 0o644)];
    check(&apart, &joined, &["link /b to /a", "link /c to /a"]);
    check(&joined, &apart, &["put file /b", "put file /c"]);
    check(&[], &joined, &["put file /a", "link /b to /a", "link /c to /a"]);
    check(&joined, &joined, &[]);
}

#[test]
fn metadata_of_a_linked_inode_are_set_once_with_all_its_names() {
    let open = [("/a", "1", "x", 0o644), ("/b", "1", "x", 0o644)];
    let closed = [("/a", "1", "x", 0o600), ("/b", "1", "x", 0o600)];
    check(&open, &closed, &["set metadata of /a /b"]);
    let split = [("/a", "1", "x", 0o600), ("/b", "2", "x", 0o644)];
    check(&open, &split, &["put file /a"]);
}

#[test]
fn kinds_are_swapped_and_deletions_come_last_from_the_leaves_up() {
    let before = [
        ("/d", "", "/", 0o755),
        ("/d/s", "", "/", 0o755),
        ("/d/s/f", "1", "x", 0o644),
        ("/g", "2", "x", 0o644),
    ];
    let after = [("/d", "1", "y", 0o644), ("/g", "", "/", 0o755), ("/g/h", "2", "x", 0o644)];
    check(
        &before,
        &after,
        &["make directory /g", "put file /d", "put file /g/h", "delete /d/s/f", "delete /d/s"],
    );
}

#[test]
fn what_is_unknown_is_neither_changed_nor_deleted_nor_replaced() {
    let mut actual = model(&[("/d", "", "/", 0o755), ("/d/x", "1", "x", 0o644), ("/e", "2", "y", 0o644)]);
    actual.add(&path("/d/u"), Inode::unknown(Why::Unreadable));
    actual.add(&path("/v"), Inode::unknown(Why::Changing));
    let required = model(&[("/d", "9", "z", 0o644), ("/v", "8", "z", 0o644)]);
    let (compared, _) = compare(&required.snapshot(), &actual.snapshot());
    let said: Vec<_> = compared.plan.operations.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["delete /d/x", "delete /e"]);
    assert_eq!(compared.unknown, BTreeSet::from([path("/d"), path("/d/u"), path("/v")]));
}

#[test]
fn directories_above_something_unknown_are_not_deleted_however_far_above() {
    let mut actual = model(&[("/d", "", "/", 0o755), ("/d/s", "", "/", 0o755), ("/d/s/f", "1", "x", 0o644)]);
    actual.add(&path("/d/s/u"), Inode::unknown(Why::Unreadable));
    let (compared, _) = compare(&model(&[]).snapshot(), &actual.snapshot());
    let said: Vec<_> = compared.plan.operations.iter().map(ToString::to_string).collect();
    assert_eq!((said.as_slice(), compared.deleted), (["delete /d/s/f".to_owned()].as_slice(), 1));
}

/// The hard links of both are the same, so that nobody need look at those that are as they must be.
#[test]
fn a_machine_that_contradicts_its_image_s_own_hard_links_is_refused() {
    let required =
        model(&[("/a", "1", "x", 0o644), ("/d", "", "/", 0o755), ("/d/b", "1", "x", 0o644)]).snapshot();
    let apart = model(&[("/a", "1", "x", 0o644), ("/d", "", "/", 0o755), ("/d/b", "2", "y", 0o644)]);
    let gone = model(&[("/a", "1", "x", 0o644), ("/d", "", "/", 0o755)]);
    let mut unknown = model(&[("/a", "1", "x", 0o644)]);
    unknown.add(&path("/d"), Inode::unknown(Why::Changing));
    for actual in [apart, gone, unknown] {
        let mut actual = actual.snapshot();
        actual.tree.links = required.tree.links;
        let comparison = Comparison {
            required: &required,
            actual: &actual.tree,
            links: None,
            directories: &actual.directories,
        };
        assert!(matches!(comparison.plan(), Err(DiffError::Malformed { .. })), "{actual:?}");
    }
}

#[test]
fn a_machine_that_contradicts_itself_is_refused() {
    let required = model(&[("/a", "1", "x", 0o644)]).snapshot();
    let apart = model(&[("/a", "1", "x", 0o644), ("/b", "2", "y", 0o644)]).snapshot();
    for lie in [["/a", "/b"], ["/a", "/nowhere"]] {
        let links = LinkSets::new([lie.iter().map(|p| path(p)).collect()]);
        let actual =
            Snapshot::new(View::everything().id(), apart.tree.root.clone(), links, apart.directories.clone());
        let comparison = Comparison {
            required: &required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        assert!(matches!(comparison.plan(), Err(DiffError::Malformed { .. })), "{lie:?}");
    }
}

#[test]
fn trees_under_different_views_are_not_compared() {
    let snapshot = model(&[]).snapshot();
    let mut other = snapshot.clone();
    other.tree.view = ViewId(ObjectId::of(b"another"));
    let comparison =
        Comparison { required: &snapshot, actual: &other.tree, links: None, directories: &other.directories };
    assert_eq!(comparison.plan(), Err(DiffError::OtherView));
}

#[test]
fn directories_that_share_directories_do_not_stop_the_controller() {
    let mut directories = DirectoryMap::default();
    let mut id = directories.insert(Directory::default());
    for _ in 0..64 {
        let entry = inode(0o755, Kind::Directory { id });
        let names = ["a", "b"].map(|name| dominator_core::path::Name::parse(name.as_bytes()).unwrap());
        let entries = names.map(|name| (name, entry.clone()));
        id = directories.insert(Directory::new(entries).unwrap());
    }
    let root = inode(0o755, Kind::Directory { id });
    let actual = Snapshot::new(View::everything().id(), root, LinkSets::default(), directories);
    let required = model(&[]).snapshot();
    let comparison = Comparison {
        required: &required,
        actual: &actual.tree,
        links: None,
        directories: &actual.directories,
    };
    assert_eq!(comparison.plan(), Err(DiffError::TooLarge));
}

/// Directories that count how often they are asked for one.
struct Counting<'a> {
    directories: &'a DirectoryMap,
    asked: std::cell::Cell<usize>,
}

impl Directories for Counting<'_> {
    fn directory(&self, id: &DirectoryId) -> Option<std::sync::Arc<Directory>> {
        self.asked.set(self.asked.get() + 1);
        self.directories.directory(id)
    }
}

/// A thousand files, ten to a directory, three levels down; those of these numbers are other than usual.
fn thousand(changed: &BTreeSet<u32>) -> Snapshot {
    let mut builder = Builder::new(directory(0o755)).unwrap();
    for number in 0..1000 {
        let (top, below) = (format!("/{}", number / 100), format!("/{}/{}", number / 100, number / 10));
        for at in [top, below.clone()].map(|at| path(&at)) {
            builder.insert(&at, directory(0o755)).unwrap();
        }
        let contents = if changed.contains(&number) { format!("not {number}") } else { number.to_string() };
        builder.insert(&path(&format!("{below}/{number}")), file(&contents, 0o644)).unwrap();
    }
    builder.finish(View::everything().id())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn only_directories_that_differ_are_looked_into(changed in prop::collection::btree_set(0..1000u32, 0..20)) {
        let (required, actual) = (thousand(&BTreeSet::new()), thousand(&changed));
        let directories = Counting { directories: &actual.directories, asked: std::cell::Cell::new(0) };
        let comparison = Comparison {
            required: &required,
            actual: &actual.tree,
            links: None,
            directories: &directories,
        };
        let plan = comparison.plan().unwrap().plan;
        prop_assert_eq!(plan.operations.len(), changed.len());
        let above: BTreeSet<_> = changed
            .iter()
            .flat_map(|number| [vec![], vec![number / 100], vec![number / 100, number / 10]])
            .collect();
        prop_assert_eq!(directories.asked.get(), above.len());
    }
}

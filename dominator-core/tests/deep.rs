//! Trees as deep as a path can be named are ordinary: nobody goes through them by recursion. Each test runs in a thread
//! whose stack would not do for one frame a directory.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)]

mod arbitrary;

use arbitrary::{directory, file, name, path};
use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Compared, Comparison, Plan};
use dominator_core::tree::{Builder, LinkSets, Snapshot};
use dominator_core::view::View;

/// In bytes: an eighth of what threads usually have, and less than 128 a directory.
const STACK: usize = 256 * 1024;
/// How many directories stand in each other; the last has room for one name more.
const DEPTH: usize = ImagePath::MAX_DEPTH - 1;

fn with_little_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK).spawn(test).unwrap().join().unwrap();
}

/// The deepest tree, and the path of its last directory.
fn deepest(file: Option<Inode>) -> (Snapshot, ImagePath) {
    let mut builder = Builder::new(directory()).unwrap();
    let mut at = ImagePath::root();
    for _ in 0..DEPTH {
        at = at.join(&name("d")).unwrap();
        builder.insert(&at, directory()).unwrap();
    }
    if let Some(file) = file {
        builder.insert(&at.join(&name("f")).unwrap(), file).unwrap();
    }
    (builder.finish(View::everything().id()), at)
}

fn compared(required: &Snapshot, actual: &Snapshot) -> Compared {
    let (links, directories) = (Some(&actual.links), &actual.directories);
    Comparison { required, actual: &actual.tree, links, directories }.plan().unwrap()
}

#[test]
fn a_deep_tree_is_built_walked_and_verified() {
    with_little_stack(|| {
        let (tree, last) = deepest(Some(file("x")));
        let mut paths = Vec::new();
        tree.walk(|path, _| paths.push(path.clone()));
        assert_eq!(paths.len(), DEPTH + 2);
        assert_eq!(paths.last().unwrap().as_bytes().len(), ImagePath::MAX_LEN);
        assert_eq!(tree.verify(paths.len() as u64), Ok(()));
        assert_eq!(tree.inode(&last.join(&name("f")).unwrap()), Some(file("x")));
    });
}

#[test]
fn a_deep_tree_that_is_given_up_or_replaced_takes_no_stack() {
    with_little_stack(|| {
        let mut builder = Builder::new(directory()).unwrap();
        for round in 0..2 {
            let mut at = ImagePath::root();
            for _ in 0..DEPTH {
                at = at.join(&name("d")).unwrap();
                builder.insert(&at, directory()).unwrap();
            }
            if round == 0 {
                builder.insert(&path("/d"), file("x")).unwrap();
                assert!(!builder.contains(&at));
            }
        }
        drop(builder);
    });
}

#[test]
fn a_deep_tree_is_seen_under_a_view() {
    with_little_stack(|| {
        let (tree, last) = deepest(None);
        let everything = View::everything();
        assert_eq!(everything.apply(&tree).id(), tree.id());
        assert!(everything.reaches(&last));
        let hidden = View { protected: [path("/d")].into(), ..everything };
        assert!(!hidden.reaches(&last));
        assert!(hidden.apply(&tree).directories.len() == 1);
    });
}

#[test]
fn deep_trees_are_compared() {
    with_little_stack(|| {
        let (one, last) = deepest(Some(file("x")));
        let (other, _) = deepest(Some(file("y")));
        let empty = Builder::new(directory()).unwrap().finish(View::everything().id());
        let said = |compared: &Compared| -> Vec<_> {
            compared.plan.operations.iter().map(ToString::to_string).collect()
        };
        assert_eq!(said(&compared(&one, &other)), [format!("put file {last}/f")]);
        let made = compared(&one, &empty);
        assert_eq!((made.plan.operations.len(), made.added), (DEPTH + 1, DEPTH as u64 + 1));
        assert_eq!(Plan::decode(&made.plan.encode()), Ok(made.plan));
        let deleted = compared(&empty, &one);
        assert_eq!((deleted.plan.operations.len(), deleted.deleted), (DEPTH + 1, DEPTH as u64 + 1));
        assert_eq!(said(&deleted).first().unwrap(), &format!("delete {last}/f"));
        let mut replaced = Builder::new(directory()).unwrap();
        replaced.insert(&path("/d"), file("x")).unwrap();
        let replaced = said(&compared(&replaced.finish(View::everything().id()), &one));
        assert_eq!(replaced.first().unwrap(), "put file /d");
    });
}

#[test]
fn hard_links_far_down_are_compared() {
    with_little_stack(|| {
        let (tree, last) = deepest(Some(file("x")));
        let mut builder = Builder::new(tree.tree.root.clone()).unwrap();
        tree.walk(|path, inode| builder.insert(path, inode.clone()).unwrap());
        builder.link(&path("/f"), &last.join(&name("f")).unwrap()).unwrap();
        let linked = builder.finish(View::everything().id());
        assert_eq!(LinkSets::decode(&linked.links.encode()), Ok(linked.links.clone()));
        assert_eq!(linked.verify(u64::MAX), Ok(()));
        let plan = compared(&linked, &tree).plan;
        assert_eq!(plan.operations.len(), 1, "{plan:?}");
    });
}

//! Trees made of trees.

use std::collections::BTreeSet;

use dominator_core::filter::Filter;
use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Conflict, Snapshot};
use dominator_core::view::View;

/// The tree without what `filter` matches.
pub(crate) fn filtered(tree: &Snapshot, filter: &Filter) -> Snapshot {
    let view = View { filters: vec![filter.clone()], ..View::everything() };
    let Snapshot { tree, links, directories } = view.apply(tree);
    Snapshot::new(View::everything().id(), tree.root, links, directories)
}

/// The tree with these inodes in place of those that have their paths; every name of an inode gets the new one.
///
/// # Errors
/// [`Conflict`] when an inode is none a machine could have.
pub(super) fn with(tree: &Snapshot, replaced: &[(ImagePath, Inode)]) -> Result<Snapshot, Conflict> {
    let mut builder = Builder::new(tree.tree.root.clone())?;
    let mut failed = None;
    tree.walk(|path, inode| {
        if failed.is_none() && !path.is_root() {
            failed = builder.insert(path, inode.clone()).err();
        }
    });
    failed.map_or(Ok(()), Err)?;
    let mut done: BTreeSet<ImagePath> = BTreeSet::new();
    for (path, inode) in replaced {
        builder.insert(path, inode.clone())?;
        let set = tree.links.iter().find(|set| set.contains(path));
        for other in set.into_iter().flatten().filter(|other| *other != path) {
            builder.link(other, path)?;
            done.insert(other.clone());
        }
        done.insert(path.clone());
    }
    for set in tree.links.iter().filter(|set| set.iter().all(|path| !done.contains(path))) {
        if let [first, others @ ..] = set {
            others.iter().try_for_each(|other| builder.link(other, first))?;
        }
    }
    Ok(builder.finish(View::everything().id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::inode::Kind;
    use dominator_core::object::ObjectId;
    use dominator_fs::import::{self, Nowhere};
    use dominator_fs::root::Root;
    use dominator_fs::scan::Cancel;

    fn tree() -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        for file in ["bin/one", "bin/two"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        std::fs::hard_link(dir.path().join("bin/one"), dir.path().join("bin/another")).unwrap();
        std::fs::hard_link(dir.path().join("bin/two"), dir.path().join("bin/twin")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        import::directory(&root, &Filter::Empty, &Cancel::default(), &mut Nowhere).unwrap().snapshot
    }

    #[test]
    fn nothing_replaced_is_the_same_tree_and_a_new_file_has_all_names_of_the_old() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let tree = tree();
        assert_eq!(with(&tree, &[]).unwrap().id(), tree.id());
        assert_eq!(filtered(&tree, &Filter::Empty).id(), tree.id());
        let mut inode = tree.inode(&path("/bin/one")).unwrap();
        if let Kind::Regular { object, size, .. } = &mut inode.kind {
            (*object, *size) = (ObjectId::of(b"new"), 3);
        }
        let new = with(&tree, &[(path("/bin/one"), inode.clone())]).unwrap();
        for name in ["/bin/one", "/bin/another"] {
            assert_eq!(new.inode(&path(name)), Some(inode.clone()), "{name}");
        }
        assert_eq!(new.inode(&path("/bin/two")), tree.inode(&path("/bin/two")));
        assert_eq!(new.links, tree.links);
        let less = filtered(&tree, &Filter::parse("/bin/t.*\n").unwrap());
        assert!(less.inode(&path("/bin/two")).is_none() && less.inode(&path("/bin/one")).is_some());
    }
}

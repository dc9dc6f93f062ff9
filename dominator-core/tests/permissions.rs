//! Who may change what among images is what the table says, line by line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;

use dominator_core::auth::{Identity, Scope};
use dominator_core::filter::Filter;
use dominator_core::image::{Image, Provenance};
use dominator_core::inode::{Inode, Kind, Mode, Xattrs};
use dominator_core::namespace::{Change, GroupName, NotYours, may};
use dominator_core::tree::Builder;
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use proptest::prelude::*;

const TABLE: &str = include_str!("permissions.txt");

fn group(name: &str) -> Option<GroupName> {
    (!name.is_empty()).then(|| name.parse().unwrap())
}

fn caller(user: &str, groups: &str) -> Identity {
    let groups = groups.split(',').filter(|it| *it != "-").map(str::to_owned).collect();
    let (methods, role, node, scope) = (Vec::new(), None, None, Scope::default());
    Identity { user: user.into(), groups, methods, role, node, scope }
}

fn image() -> Image {
    let kind = Kind::Directory { id: Builder::placeholder() };
    let root = Inode { mode: Mode::from_st_mode(0o755), uid: 0, gid: 0, xattrs: Xattrs::default(), kind };
    let tree = Builder::new(root).unwrap().finish(View::everything().id());
    let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
    Image {
        created_by: "maker".into(),
        owner_users: words(["owner", "other"]),
        owner_groups: words(["owners", "more"]),
        provenance: Provenance { created_for: "client".into(), ..Provenance::default() },
        ..Image::new(tree.tree, Filter::Empty, Triggers::default(), XattrPolicy::NONE)
    }
}

/// By what right, or `denied`.
fn outcome(caller: Option<&Identity>, power: bool, change: &str, image: &Image) -> &'static str {
    let (web, all) = (group("web"), group("all"));
    let new = group(change.strip_prefix("chown:").unwrap_or_default());
    let change = match change {
        "image" => Change::Image { image, directory: web.as_ref() },
        "mkdir" => Change::MakeDirectory { parent: web.as_ref() },
        "rmdir" => Change::DeleteDirectory,
        _ => Change::ChownDirectory { parent: all.as_ref(), old: web.as_ref(), new: new.as_ref() },
    };
    may(caller, power, change).map_or("denied", |right| right.word())
}

#[test]
fn each_line_of_the_table_is_decided_as_it_says() {
    let (image, mut outcomes) = (image(), BTreeSet::new());
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [user, groups, power, change, expected] = words[..] else { panic!("{line}") };
        let decided = outcome(Some(&caller(user, groups)), power == "power", change, &image);
        assert_eq!(decided, expected, "{line}");
        outcomes.insert(decided);
    }
    let rights =
        "both-groups created-for creator denied directory-group owner-group owner-user parent-group power";
    assert_eq!(outcomes, rights.split(' ').collect(), "a right without a line");
}

#[test]
fn what_belongs_to_nobody_is_nobodys() {
    let mut nobodys = image();
    (nobodys.created_by, nobodys.provenance) = (String::new(), Provenance::default());
    (nobodys.owner_users, nobodys.owner_groups) = (vec![String::new()], vec![String::new()]);
    let change = Change::Image { image: &nobodys, directory: None };
    for who in [None, Some(&caller("", "-")), Some(&caller("alice", "-"))] {
        assert_eq!(may(who, false, change), Err(NotYours));
        assert_eq!(may(who, false, Change::MakeDirectory { parent: None }), Err(NotYours));
        assert_eq!(
            may(who, false, Change::ChownDirectory { parent: None, old: None, new: None }),
            Err(NotYours)
        );
    }
}

proptest! {
    #[test]
    fn whoever_is_in_fewer_groups_may_not_do_more(
        user in "maker|client|owner|webber|",
        groups in prop::collection::btree_set("web|all|owners|more|new", 0..4),
        fewer in prop::collection::btree_set("web|all|owners|more|new", 0..4),
        change in prop::sample::select(vec!["image", "mkdir", "chown:new", "chown:", "rmdir"]),
    ) {
        let image = image();
        let with = Identity { groups: groups.clone(), ..caller(&user, "-") };
        let without = Identity { groups: groups.difference(&fewer).cloned().collect(), ..with.clone() };
        let may = |who| outcome(Some(who), false, change, &image) != "denied";
        prop_assert!(may(&with) || !may(&without));
        prop_assert_eq!(outcome(None, false, change, &image), "denied");
    }
}

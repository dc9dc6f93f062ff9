//! Strategies for every value that has an encoding: all that can be built, and nothing that can't.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use dominator_core::filter::{Filter, Lines};
use dominator_core::health::{HealthCheck, HealthChecks, Probe};
use dominator_core::image::{Build, Document, Image, Package, Provenance};
use dominator_core::inode::{Device, Inode, Kind, Mode, Timestamp, Why, Xattrs};
use dominator_core::object::{Algorithm, ObjectId};
use dominator_core::path::{ImagePath, Name};
use dominator_core::plan::{Operation, Plan};
use dominator_core::tree::{Builder, Directory, DirectoryId, LinkSets, LinksId, Snapshot, Tree};
use dominator_core::trigger::{Trigger, Triggers};
use dominator_core::view::{Granularity, Ownership, View, ViewId, XattrPolicy};
use proptest::prelude::*;

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

pub(crate) fn inode(mode: u32, kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

pub(crate) fn file(contents: &str) -> Inode {
    let (mtime, size) = (Timestamp::new(1_000_000_000, 999_999_999).unwrap(), contents.len() as u64);
    inode(0o644, Kind::Regular { mtime, size, object: ObjectId::of(contents.as_bytes()) })
}

pub(crate) fn directory() -> Inode {
    inode(0o755, Kind::Directory { id: Builder::placeholder() })
}

pub(crate) fn object_id() -> impl Strategy<Value = ObjectId> {
    any::<[u8; 32]>().prop_map(ObjectId::from_bytes)
}

/// Any bytes a name may have, and often the same few.
pub(crate) fn names() -> impl Strategy<Value = Name> {
    let few = prop::sample::select(vec!["a", "b", "etc", ".subd", "x.log"]).prop_map(name);
    let any =
        prop::collection::vec(1u8.., 1..9).prop_filter_map("a plain name", |raw| Name::parse(&raw).ok());
    prop_oneof![3 => few, 1 => any]
}

pub(crate) fn paths(depth: std::ops::Range<usize>) -> impl Strategy<Value = ImagePath> {
    let join = |names: Vec<Name>| {
        names.iter().fold(ImagePath::root(), |path, name| path.join(name).expect("short names"))
    };
    prop::collection::vec(names(), depth).prop_map(join)
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let known =
        ["security.capability", "security.selinux", "system.posix_acl_access", "system.posix_acl_default"];
    let name = prop_oneof![
        prop::sample::select(known.to_vec()).prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(1u8.., 1..6).prop_map(|rest| [b"user.".as_slice(), &rest].concat()),
    ];
    let value = prop::collection::vec(any::<u8>(), 0..6);
    prop::collection::vec((name, value), 0..4).prop_map(|all| {
        let mut xattrs = Xattrs::default();
        all.iter().for_each(|(name, value)| xattrs.insert(name, value).unwrap());
        xattrs
    })
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

fn kind() -> impl Strategy<Value = Kind> {
    let device = || (time(), any::<u32>(), any::<u32>());
    let target = prop::collection::vec(1u8.., 1..9);
    prop_oneof![
        3 => (time(), any::<u64>(), object_id())
            .prop_map(|(mtime, size, object)| Kind::Regular { mtime, size, object }),
        3 => object_id().prop_map(|id| Kind::Directory { id: DirectoryId(id) }),
        1 => "[a-zé]{1,6}:[0-9]{1,4}".prop_map(|source| Kind::Computed { source }),
        1 => target.prop_map(|target| Kind::Symlink { target: target.into() }),
        1 => device().prop_map(|(mtime, major, minor)| Kind::BlockDevice { mtime, device: Device { major, minor } }),
        1 => device().prop_map(|(mtime, major, minor)| Kind::CharDevice { mtime, device: Device { major, minor } }),
        1 => time().prop_map(|mtime| Kind::Fifo { mtime }),
        1 => prop::sample::select(vec![Why::Unreadable, Why::Changing]).prop_map(|why| Kind::Unknown { why }),
    ]
}

/// Inodes of every kind, with what goes with the kind: a symbolic link has no mode, an unknown has nothing.
pub(crate) fn inodes() -> impl Strategy<Value = Inode> {
    let metadata = (0u32..0o10000, any::<u32>(), any::<u32>(), xattrs());
    (metadata, kind()).prop_map(|((mode, uid, gid, xattrs), kind)| match kind {
        Kind::Unknown { why } => Inode::unknown(why),
        Kind::Symlink { .. } => Inode { mode: Mode::SYMLINK, uid, gid, xattrs, kind },
        kind => Inode { mode: Mode::from_st_mode(mode), uid, gid, xattrs, kind },
    })
}

fn directory_inodes() -> impl Strategy<Value = Inode> {
    (inodes(), object_id())
        .prop_map(|(inode, id)| Inode { kind: Kind::Directory { id: DirectoryId(id) }, ..inode })
}

/// What a plan may put in place.
fn known_files() -> impl Strategy<Value = Inode> {
    inodes().prop_filter("a file", |inode| !inode.is_directory() && !inode.is_unknown())
}

pub(crate) fn directories() -> impl Strategy<Value = Directory> {
    prop::collection::btree_map(names(), inodes(), 0..7).prop_map(|entries| Directory::new(entries).unwrap())
}

pub(crate) fn link_sets() -> impl Strategy<Value = LinkSets> {
    prop::collection::vec(prop::collection::vec(paths(0..4), 0..5), 0..5).prop_map(LinkSets::new)
}

pub(crate) fn trees() -> impl Strategy<Value = Tree> {
    (object_id(), directory_inodes(), object_id()).prop_map(|(view, root, links)| Tree {
        algorithm: Algorithm::Sha256,
        view: ViewId(view),
        root,
        links: LinksId(links),
    })
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    let line = prop::sample::select(vec![
        "/a",
        "/a(|/.*)$",
        "/.*[.]log$",
        "/etc/.*",
        "!",
        "/b$",
        "é",
        "# not a comment",
    ]);
    prop::collection::vec(line.prop_map(str::to_owned), 0..4)
}

pub(crate) fn filters() -> impl Strategy<Value = Filter> {
    let of_lines = lines().prop_map(|lines| match lines.as_slice() {
        [] => Filter::Empty,
        _ => Filter::Lines(Lines::new(lines).unwrap()),
    });
    prop_oneof![1 => Just(Filter::Sparse), 1 => Just(Filter::Empty), 3 => of_lines]
}

pub(crate) fn xattr_policies() -> impl Strategy<Value = XattrPolicy> {
    (0u8..16).prop_map(|bits| XattrPolicy::from_bits(bits).unwrap())
}

pub(crate) fn views() -> impl Strategy<Value = View> {
    let set = || prop::collection::btree_set(paths(0..4), 0..6);
    let granularity = prop_oneof![Just(1), Just(1_000_000_000), 1..=1_000_000_000u32];
    (
        prop::collection::vec(filters(), 0..3),
        set(),
        prop::option::of(set()),
        xattr_policies(),
        prop::sample::select(vec![Ownership::Kept, Ownership::Ignored]),
        granularity.prop_map(|nanos| Granularity::nanos(nanos).unwrap()),
    )
        .prop_map(|(filters, protected, only, xattrs, ownership, mtime)| View {
            filters,
            protected,
            only,
            xattrs,
            ownership,
            mtime,
        })
}

fn triggers() -> impl Strategy<Value = Triggers> {
    let trigger = (lines(), "[a-z]{1,8}", "[0-9a]{0,3}", any::<[bool; 3]>()).prop_map(
        |(match_lines, service, sort_name, [do_reboot, do_reload, high_impact])| Trigger {
            match_lines: match_lines.into_iter().filter(|line| line != "!").collect(),
            service,
            sort_name,
            do_reboot,
            do_reload,
            high_impact,
        },
    );
    prop::collection::vec(trigger, 0..4).prop_map(|list| Triggers::new(list).unwrap())
}

pub(crate) fn health() -> impl Strategy<Value = HealthChecks> {
    let probe = prop_oneof![
        "[a-z.]{1,4}".prop_map(|unit| Probe::Unit(format!("u{unit}"))),
        prop::collection::vec(".{0,4}", 0..3).prop_filter_map("a zero byte", |rest| {
            let words = std::iter::once("/bin/é".to_owned()).chain(rest);
            let words: Vec<_> = words.collect();
            words.iter().all(|word| !word.contains('\0')).then_some(Probe::Command(words))
        }),
        "[a-z]{1,4}:[1-9]".prop_map(|address| Probe::Tcp(address.parse().unwrap())),
        ("/[a-z?=]{0,4}", 100_u16..1000).prop_map(|(target, status)| Probe::Http {
            url: format!("http://[::1]:8080{target}").parse().unwrap(),
            status
        }),
        "/[a-zé]{1,4}".prop_map(|socket| Probe::Unix(ImagePath::parse(socket.as_bytes()).unwrap())),
    ];
    let check = (probe, 1_u64..5000, prop::option::of(any::<u32>()), 10_u64..5000);
    (prop::collection::vec(check, 0..4), 5000_u64..3_600_000).prop_map(|(checks, deadline)| {
        let checks =
            checks.into_iter().enumerate().map(|(number, (probe, timeout, retries, delay))| HealthCheck {
                timeout: Duration::from_millis(timeout),
                retries,
                delay: Duration::from_millis(delay),
                ..HealthCheck::new(format!("check {number}"), probe)
            });
        HealthChecks::new(checks.collect(), Duration::from_millis(deadline)).unwrap()
    })
}

pub(crate) fn images() -> impl Strategy<Value = Image> {
    let map = || prop::collection::btree_map("[a-zé]{0,4}", ".{0,6}", 0..4);
    let list = || prop::collection::vec("[a-z]{0,4}", 0..4);
    let what = (trees(), filters(), triggers(), health(), xattr_policies());
    let whose =
        ("[a-z]{0,8}", any::<u64>(), prop::option::of(prop_oneof![Just(0), any::<u64>()]), list(), list());
    (what, whose, map(), map(), provenances()).prop_map(
        |((tree, filter, triggers, health, xattrs), whose, annotations, tags, provenance)| {
            let (created_by, created_on, expires_at, owner_users, owner_groups) = whose;
            Image {
                tree,
                filter,
                triggers,
                health,
                xattrs,
                created_by,
                created_on,
                expires_at,
                annotations,
                tags,
                owner_users,
                owner_groups,
                provenance,
            }
        },
    )
}

fn provenances() -> impl Strategy<Value = Provenance> {
    let document = || {
        prop::option::of(prop_oneof![
            any::<[u8; 32]>().prop_map(|id| Document::Object(ObjectId::from_bytes(id))),
            "https?://[a-z./]{1,9}".prop_map(|url| Document::Url(url.parse().unwrap())),
        ])
    };
    let package = (".{0,4}", ".{0,4}", any::<u64>());
    let packages = prop::collection::vec(
        package.prop_map(|(name, version, size)| Package { name, version, size }),
        0..3,
    );
    let source = prop::option::of("[a-z]{1,3}(/[0-9]{1,2})?".prop_map(|name| name.parse().unwrap()));
    let build = ("[a-z]{0,3}", "[0-9a-f]{0,4}", ".{0,5}");
    ("[a-z]{0,4}", document(), document(), build, packages, source).prop_map(
        |(created_for, release_notes, build_log, (branch, commit_id, git_url), packages, source_image)| {
            let build = Build { branch, commit_id, git_url };
            Provenance { created_for, release_notes, build_log, build, packages, source_image }
        },
    )
}

pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let entry = || paths(1..5);
    let operation = prop_oneof![
        (entry(), directory_inodes()).prop_map(|(path, inode)| Operation::MakeDirectory { path, inode }),
        (entry(), known_files()).prop_map(|(path, inode)| Operation::Put { path, inode }),
        (entry(), entry()).prop_map(|(path, target)| Operation::Link { path, target }),
        (paths(0..5), directory_inodes())
            .prop_map(|(path, inode)| Operation::SetMetadata { paths: vec![path], inode }),
        (prop::collection::vec(entry(), 1..4), known_files())
            .prop_map(|(paths, inode)| Operation::SetMetadata { paths, inode }),
        (entry(), any::<bool>()).prop_map(|(path, directory)| Operation::Delete { path, directory }),
    ];
    prop::collection::vec(operation, 0..7).prop_map(|operations| Plan { operations })
}

/// Whole trees with hard links; what has no directory to be in is left out.
pub(crate) fn snapshots() -> impl Strategy<Value = Snapshot> {
    let link = prop::option::weighted(0.3, paths(1..4));
    let entries = prop::collection::vec((paths(1..4), inodes(), any::<bool>(), link), 0..40);
    (directory_inodes(), entries).prop_map(|(root, entries)| {
        let mut builder = Builder::new(root).unwrap();
        for (path, inode, make_directory, link) in entries {
            let inode = if make_directory { Inode { kind: directory().kind, ..inode } } else { inode };
            let _placed = builder.insert(&path, inode);
            if let Some(link) = link {
                let _linked = builder.link(&link, &path);
            }
        }
        builder.finish(View::everything().id())
    })
}

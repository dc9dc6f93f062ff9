//! What imports and exports promise: an image is what its source was, to the last bit, or there is none.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test may fail by panicking"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::inode::{Device, Inode, Kind};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::StoreError;
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_core::view::{XattrClass, XattrPolicy};
use dominator_fs::export::{self, ExportError};
use dominator_fs::import::{self, ArchiveFault, ImportError, Imported, ObjectSink};
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::seam::Kernel;
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs_testkit::{compared, deep, described, left_out, nasty, needs_root, observed};
use tar::{EntryType, Header};

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn store(dir: &Path) -> ObjectStore {
    ObjectStore::open(&dir.join("objects")).unwrap()
}

fn import_directory(store: &ObjectStore, from: &Path, filter: &Filter) -> Result<Imported, ImportError> {
    let mut batch = store.batch();
    let imported = import::directory(&Root::open(from).unwrap(), filter, &Cancel::default(), &mut batch)?;
    drop(batch.finish().unwrap());
    Ok(imported)
}

fn import_tar(store: &ObjectStore, archive: impl Read, filter: &Filter) -> Result<Imported, ImportError> {
    let mut batch = store.batch();
    let imported = import::tar(archive, filter, store.spool().unwrap(), &mut batch)?;
    drop(batch.finish().unwrap());
    Ok(imported)
}

/// The image is one the store takes, and comes out of it as it went in.
fn accepted(dir: &Path, store: &ObjectStore, imported: &Imported) -> Snapshot {
    let images = ImageStore::open(&dir.join("images"), store.clone()).unwrap();
    let image =
        Image::new(imported.snapshot.tree.clone(), Filter::Empty, Triggers::default(), imported.xattrs);
    let name = "web/1".parse().unwrap();
    drop(images.add(&name, &image).unwrap());
    (*images.tree(&name).unwrap()).clone()
}

fn export(store: &ObjectStore, tree: &Snapshot, to: &Path) -> export::Exported {
    fs::create_dir(to).unwrap();
    let mut objects = store;
    export::directory(tree, &Root::open(to).unwrap(), &mut objects, &Kernel).unwrap()
}

/// A nasty tree, without what this process may not read.
fn readable(source: &Path) {
    nasty(source);
    if !needs_root("importing what only root can read") {
        fs::remove_file(source.join("mode-0000")).unwrap();
        fs::remove_file(source.join("mode-0111")).unwrap();
    }
}

#[test]
fn what_can_not_be_read_is_named_and_nothing_is_imported() {
    unnameable();
    if rustix::process::geteuid().is_root() {
        // A path too long for the model is all that root can't read.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    nasty(&source);
    let imported = import_directory(&store(dir.path()), &source, &Filter::Empty);
    let Err(ImportError::Unreadable { paths, count: 2 }) = imported else { panic!("{imported:?}") };
    assert!(paths[0].starts_with("/mode-0000 could not be read"), "{paths:?}");
}

fn unnameable() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    deep(&source, ImagePath::MAX_LEN / 2 + 1);
    let imported = import_directory(&store(dir.path()), &source, &Filter::Empty);
    assert!(matches!(imported, Err(ImportError::Unreadable { count: 1.., .. })), "{imported:?}");
}

#[test]
fn a_directory_comes_out_of_an_image_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    readable(&source);
    let store = store(dir.path());
    let imported = import_directory(&store, &source, &Filter::Empty).unwrap();
    let tree = accepted(dir.path(), &store, &imported);
    assert_eq!(described(&tree), observed(&source, &[]));
    let exported = export(&store, &tree, &target);
    if needs_root("a_directory_comes_out_of_an_image_as_it_went_in, as far as owners are concerned,") {
        assert_eq!(exported.left_out, []);
        assert_eq!(compared(&source, &target, &[]), "");
    }
    let again = import_directory(&store, &target, &Filter::Empty).unwrap();
    if exported.left_out.is_empty() {
        assert_eq!(again.snapshot.id(), imported.snapshot.id());
    }
}

#[test]
fn what_the_filter_matches_is_not_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("tmp/deep")).unwrap();
    fs::write(source.join("tmp/deep/file"), b"not wanted").unwrap();
    fs::write(source.join("kept"), b"wanted").unwrap();
    let store = store(dir.path());
    let filter = Filter::parse("/tmp/.*\n").unwrap();
    let imported = import_directory(&store, &source, &filter).unwrap();
    assert!(imported.snapshot.inode(&path("/tmp")).is_some());
    assert!(imported.snapshot.inode(&path("/tmp/deep")).is_none());
    assert_eq!(store.size(&ObjectId::of(b"not wanted")).unwrap(), None);
    assert_eq!(store.size(&ObjectId::of(b"wanted")).unwrap(), Some(6));
    accepted(dir.path(), &store, &imported);
}

/// Changes a file between the scan and its being read again, as somebody who writes in the directory does.
struct Meddler<'a> {
    inner: dominator_fs::store::objects::AddBatch,
    file: &'a Path,
    bytes: &'a [u8],
}

impl ObjectSink for Meddler<'_> {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        fs::remove_file(self.file).unwrap();
        if !self.bytes.is_empty() {
            fs::write(self.file, self.bytes).unwrap();
        }
        self.inner.want(offered)
    }

    fn put(&mut self, id: ObjectId, size: u64, contents: &mut dyn Read) -> Result<(), StoreError> {
        self.inner.put(id, size, contents)
    }
}

#[test]
fn a_file_that_changes_during_the_import_is_noticed() {
    for bytes in [&b"other"[..], b"longer than it was", b"s", b""] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        let file = source.join("file");
        fs::write(&file, b"first").unwrap();
        let store = store(dir.path());
        let mut sink = Meddler { inner: store.batch(), file: &file, bytes };
        let root = Root::open(&source).unwrap();
        let imported = import::directory(&root, &Filter::Empty, &Cancel::default(), &mut sink);
        let Err(ImportError::Changed { path: changed }) = imported else { panic!("{imported:?}") };
        assert_eq!(changed, path("/file"));
    }
}

#[test]
fn an_export_goes_to_an_empty_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let imported = import_directory(&store, &source, &Filter::Empty).unwrap();
    fs::write(source.join("there"), b"").unwrap();
    let root = Root::open(&source).unwrap();
    let exported = export::directory(&imported.snapshot, &root, &mut &store, &Kernel);
    assert!(matches!(exported, Err(ExportError::NotEmpty)));
}

#[test]
fn an_export_of_a_corrupt_object_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("file"), b"right").unwrap();
    let imported = import_directory(&store, &source, &Filter::Empty).unwrap();
    let id = ObjectId::of(b"right").to_string();
    fs::write(dir.path().join("objects").join(&id[..2]).join(&id[2..]), b"wrong").unwrap();
    let exported = export::directory(&imported.snapshot, &Root::open(&target).unwrap(), &mut &store, &Kernel);
    assert!(matches!(exported, Err(ExportError::Source(StoreError::Corrupt { .. }))), "{exported:?}");
}

/// What GNU tar makes of a directory.
fn gnu_tar(source: &Path, options: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name", "-C"]).arg(source);
    let output = tar.args(options).args(["-cf", "-", "."]).stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
    output.stdout
}

#[test]
fn an_archive_of_gnu_tar_is_the_directory_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    readable(&source);
    let store = store(dir.path());
    let archive = gnu_tar(&source, &["--format=posix"]);
    let imported = import_tar(&store, &*archive, &Filter::Empty).unwrap();
    accepted(dir.path(), &store, &imported);
    let mut expected = observed(&source, &[]);
    // An archive made without --acls has no access control lists.
    for entry in expected.values_mut() {
        let xattrs = entry.get_mut("xattrs").and_then(|xattrs| xattrs.as_object_mut()).unwrap();
        xattrs.retain(|name, _| !name.starts_with("system.posix_acl"));
        // GNU tar makes pipes of their own of the names of one.
        if entry["type"] == "fifo" {
            entry.as_object_mut().unwrap().remove("links");
        }
    }
    let described = described(&imported.snapshot);
    for (path, entry) in &expected {
        assert_eq!(described.get(path), Some(entry), "{path}");
    }
    assert_eq!(described.len(), expected.len());
}

#[test]
fn the_other_formats_of_gnu_tar_keep_all_but_fractions_of_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("a".repeat(200))).unwrap();
    fs::write(source.join("a".repeat(200)).join("b".repeat(200)), b"deep").unwrap();
    fs::write(source.join(OsStr::from_bytes(b"not\xffutf8\n")), b"odd").unwrap();
    fs::write(source.join("first"), b"shared").unwrap();
    fs::hard_link(source.join("first"), source.join("second")).unwrap();
    symlink("t".repeat(300), source.join("long-target")).unwrap();
    let store = store(dir.path());
    let gnu =
        import_tar(&store, &*gnu_tar(&source, &["--format=gnu", "--no-xattrs"]), &Filter::Empty).unwrap();
    let pax = import_tar(&store, &*gnu_tar(&source, &["--format=posix"]), &Filter::Empty).unwrap();
    assert_eq!(gnu.xattrs, XattrPolicy::NONE);
    let seconds = |tree: &Snapshot| {
        let mut entries = described(tree);
        for entry in entries.values_mut().filter_map(|entry| entry.as_object_mut()) {
            entry.remove("mtime_ns");
        }
        entries
    };
    assert_eq!(seconds(&gnu.snapshot), seconds(&pax.snapshot));
    assert_eq!(gnu.snapshot.links.iter().count(), 1);
    accepted(dir.path(), &store, &gnu);
}

/// A member of an archive as somebody with a grudge might write it.
struct Entry<'a> {
    name: &'a [u8],
    kind: EntryType,
    link: &'a [u8],
    contents: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self { name: b"file", kind: EntryType::Regular, link: b"", contents: b"" }
    }
}

fn file<'a>(name: &'a [u8], contents: &'a [u8]) -> Entry<'a> {
    Entry { name, contents, ..Entry::default() }
}

fn link<'a>(name: &'a [u8], kind: EntryType, link: &'a [u8]) -> Entry<'a> {
    Entry { name, kind, link, ..Entry::default() }
}

fn block(entry: &Entry<'_>) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().unwrap().name[..entry.name.len()].copy_from_slice(entry.name);
    header.as_ustar_mut().unwrap().linkname[..entry.link.len()].copy_from_slice(entry.link);
    header.set_entry_type(entry.kind);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_size(entry.contents.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(entry.contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(block).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A record of an extended header, with its own length before it.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut lens = (1..).map(|digits| rest.len() + digits);
    let len = lens.find(|len| len.to_string().len() + rest.len() == *len).unwrap();
    [len.to_string().as_bytes(), &rest].concat()
}

fn pax(record: &[u8]) -> Entry<'_> {
    Entry { name: b"PaxHeaders/x", kind: EntryType::XHeader, contents: record, ..Entry::default() }
}

fn imported(archive: &[u8], filter: &str) -> Result<Imported, ImportError> {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let imported = import_tar(&store, archive, &Filter::parse(filter).unwrap())?;
    accepted(dir.path(), &store, &imported);
    Ok(imported)
}

#[test]
fn hostile_members_are_refused_by_name() {
    let check = |entries: &[Entry<'_>], name: &str| {
        let refused = imported(&archive(entries), "");
        let Err(ImportError::Member { member, fault }) = refused else { panic!("{name}: {refused:?}") };
        assert_eq!(member, name, "{fault}");
        fault
    };
    for name in ["../etc/passwd", "a/../../b", "/..", "a/.."] {
        assert_eq!(check(&[file(name.as_bytes(), b"x")], name), ArchiveFault::Path);
    }
    let out = || link(b"out", EntryType::Symlink, b"/etc");
    for entries in [[out(), file(b"out/passwd", b"x")], [out(), link(b"out/x/y", EntryType::Symlink, b"z")]] {
        let name = String::from_utf8_lossy(entries[1].name).into_owned();
        assert!(matches!(check(&entries, &name), ArchiveFault::Conflict(_)));
    }
    let escape = link(b"hard", EntryType::Link, b"../../etc/shadow");
    assert_eq!(check(&[escape], "hard"), ArchiveFault::Path);
    for target in [&b"/etc/shadow"[..], b"later", b"directory"] {
        let directory = link(b"directory/", EntryType::Directory, b"");
        let entries = [directory, link(b"hard", EntryType::Link, target), file(b"later", b"x")];
        assert!(matches!(check(&entries, "hard"), ArchiveFault::Conflict(_)));
    }
    let contents = Entry { kind: EntryType::Symlink, link: b"x", contents: b"y", ..Entry::default() };
    assert_eq!(check(&[contents], "file"), ArchiveFault::Contents);
    assert_eq!(check(&[link(b"file", EntryType::Symlink, b"")], "file"), ArchiveFault::Field("target"));
    assert_eq!(check(&[link(b"file", EntryType::GNUSparse, b"")], "file"), ArchiveFault::Sparse);
    let volume = check(&[link(b"file", EntryType::new(b'V'), b"")], "file");
    assert_eq!(volume, ArchiveFault::Kind("of type 'V'".into()));
    for (key, value) in [
        ("size", &b"-10000"[..]),
        ("size", b"18446744073709551615"),
        ("uid", b"x"),
        ("uid", b"4294967296"),
        ("mtime", b"x"),
    ] {
        let fault = check(&[pax(&record(key, value)), file(b"file", b"")], "file");
        assert!(matches!(fault, ArchiveFault::Field(field) if field == key), "{key}: {fault:?}");
    }
    let refused = check(&[pax(b"7 a=b\n"), file(b"file", b"")], "PaxHeaders/x");
    assert_eq!(refused, ArchiveFault::Field("extended header"));
}

#[test]
fn an_archive_that_was_cut_anywhere_is_refused() {
    let whole = archive(&[
        pax(&record("SCHILY.xattr.user.note", b"abc")),
        file(b"a", &[0; 700]),
        link(b"d/", EntryType::Directory, b""),
        file(b"d/b", b"contents"),
    ]);
    assert!(imported(&whole, "").is_ok());
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for len in (0..whole.len()).step_by(128).chain([1, whole.len() - 1]) {
        let cut = import_tar(&store, &whole[..len], &Filter::Empty);
        let broken = matches!(&cut, Err(ImportError::Archive { fault: ArchiveFault::Truncated, .. }));
        assert!(broken, "{len}: {cut:?}");
    }
}

#[test]
fn an_archive_that_was_damaged_or_goes_on_is_refused() {
    let whole = archive(&[file(b"a", b"x")]);
    let mut damaged = whole.clone();
    damaged[1] ^= 1;
    let fault = |bytes: &[u8]| match imported(bytes, "") {
        Err(ImportError::Archive { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&damaged), ArchiveFault::Checksum);
    assert_eq!(fault(&[&whole[..], &whole].concat()), ArchiveFault::Trailing);
    assert!(imported(&[&whole[..], &[0; 9216]].concat(), "").is_ok(), "filled up with zeros");
    let mut long = Header::new_ustar();
    long.set_entry_type(EntryType::XHeader);
    long.set_size(1 << 33);
    long.set_cksum();
    assert!(matches!(fault(long.as_bytes()), ArchiveFault::LongHeader { .. }));
    for (magic, name) in
        [(&b"\x1f\x8b\x08"[..], "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")]
    {
        let refused = imported(magic, "");
        assert!(matches!(refused, Err(ImportError::Compressed { format }) if format == name));
    }
}

#[test]
fn a_path_that_comes_twice_is_what_it_was_last() {
    let directory = |name| link(name, EntryType::Directory, b"");
    let tree = imported(
        &archive(&[
            file(b"a", b"first"),
            link(b"other", EntryType::Link, b"a"),
            file(b"a", b"second"),
            directory(b"d"),
            file(b"./d//kept", b"kept"),
            directory(b"/d/"),
            file(b"e/gone", b"gone"),
            file(b"e", b"now a file"),
        ]),
        "",
    )
    .unwrap()
    .snapshot;
    let object = |text: &str| tree.inode(&path(text)).as_ref().and_then(Inode::object).map(|(id, _)| id);
    assert_eq!(object("/a"), Some(ObjectId::of(b"second")));
    assert_eq!(object("/other"), Some(ObjectId::of(b"first")));
    assert_eq!(object("/d/kept"), Some(ObjectId::of(b"kept")));
    assert_eq!(object("/e"), Some(ObjectId::of(b"now a file")));
    assert!(tree.links.is_empty());
}

#[test]
fn directories_that_were_not_mentioned_are_roots_and_the_agents_own_is_left_out() {
    let tree = imported(
        &archive(&[file(b"usr/share/doc", b"x"), file(b".subd/objects/evil", b"x"), file(b"./.subd", b"x")]),
        "",
    );
    let tree = tree.unwrap().snapshot;
    for implied in ["/", "/usr", "/usr/share"] {
        let inode = tree.inode(&path(implied)).unwrap();
        assert_eq!((inode.mode.bits(), inode.uid, inode.gid), (0o755, 0, 0), "{implied}");
    }
    assert!(tree.inode(&path("/.subd")).is_none());
    let file = tree.inode(&path("/usr/share/doc")).unwrap();
    assert_eq!((file.mode.bits(), file.uid, file.gid), (0o644, 1, 2));
}

#[test]
fn a_filter_leaves_out_whole_directories_but_no_half_of_a_hard_link() {
    let entries = [file(b"tmp/a", b"x"), file(b"usr/b", b"y"), link(b"usr/c", EntryType::Link, b"usr/b")];
    let tree = imported(&archive(&entries), "/tmp\n").unwrap().snapshot;
    assert!(tree.inode(&path("/tmp")).is_none());
    assert_eq!(tree.links.iter().count(), 1);
    let refused =
        imported(&archive(&[file(b"tmp/a", b"x"), link(b"b", EntryType::Link, b"tmp/a")]), "/tmp\n");
    let Err(ImportError::Member { fault, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(fault, ArchiveFault::Filtered { target: path("/tmp/a") });
}

#[test]
fn extended_headers_say_what_headers_can_not() {
    let body = [
        record("uid", b"4000000000"),
        record("SCHILY.devmajor", b"4095"),
        record("SCHILY.devminor", b"1048575"),
        record("mtime", b"-1.250000"),
        record("path", b"dev/far-away"),
        record("SCHILY.acl.access", b"user::rwx"),
        record("SCHILY.xattr.trusted.x", b"yz"),
        record("SCHILY.xattr.user.a", b"b\nc"),
    ]
    .concat();
    let entries = [pax(&body), link(b"short", EntryType::Char, b""), file(b"plain", b"")];
    let imported = imported(&archive(&entries), "").unwrap();
    let inode = imported.snapshot.inode(&path("/dev/far-away")).unwrap();
    assert_eq!((inode.uid, inode.gid), (4_000_000_000, 2));
    let Kind::CharDevice { mtime, device } = inode.kind else { panic!("{inode:?}") };
    assert_eq!(device, Device { major: 4095, minor: 1_048_575 });
    assert_eq!((mtime.seconds(), mtime.nanos()), (-2, 750_000_000));
    assert_eq!(inode.xattrs.iter().collect::<Vec<_>>(), [(&b"user.a"[..], &b"b\nc"[..])]);
    assert_eq!(imported.attributes_dropped, 2);
    assert!(imported.xattrs.covers(b"user.x") && !imported.xattrs.covers(b"security.capability"));
    let plain = imported.snapshot.inode(&path("/plain")).unwrap();
    assert_eq!((plain.uid, plain.xattrs.is_empty()), (1, true), "they are of one member only");
}

#[test]
fn an_import_has_the_extended_attributes_that_were_selected_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"x").unwrap();
    let set = |name: &str| {
        rustix::fs::setxattr(source.join("file"), name, b"1", rustix::fs::XattrFlags::empty()).is_ok()
    };
    if !set("user.a") {
        return left_out("selected extended attributes", "this file-system keeps none");
    }
    let archive = gnu_tar(&source, &["--xattrs", "--format=posix"]);
    let names = |imported: &Imported| {
        let mut names = Vec::new();
        imported.snapshot.walk(|_, inode| names.extend(inode.xattrs.iter().map(|(name, _)| name.to_vec())));
        names
    };
    for (policy, expected) in
        [(XattrPolicy::ALL, 1), (XattrPolicy::of([XattrClass::Capability]), 0), (XattrPolicy::NONE, 0)]
    {
        let selection = import::Selection { filter: &Filter::Empty, xattrs: policy };
        let root = Root::open(&source).unwrap();
        let from_directory =
            import::directory(&root, selection, &Cancel::default(), &mut import::Nowhere).unwrap();
        let spool = tempfile::tempfile().unwrap();
        let from_tar = import::tar(archive.as_slice(), selection, spool, &mut import::Nowhere).unwrap();
        for imported in [from_directory, from_tar] {
            assert_eq!(names(&imported).len(), expected, "{policy:?}");
            assert_eq!(imported.xattrs.and(policy), imported.xattrs, "{policy:?}");
        }
    }
}

//! The front door: what a check reports.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use dominator_core::filter::Filter;
use dominator_core::inode::{Inode, Kind, Mode, Why, Xattrs};
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::View;
use dominator_fs::compliance::{CheckError, Options, Report, Verdict, What, check};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, ScanError, Scanner};
use dominator_fs_testkit::nasty;

fn golden(dir: &Path) -> Snapshot {
    let scanner = Scanner::new(Root::open(dir).unwrap(), View::everything().into());
    scanner.scan(&Cancel::default()).unwrap().snapshot
}

fn checked(dir: &Path, image: &Snapshot, filter: &str) -> Report {
    let filter = Filter::parse(filter).unwrap();
    check(&Root::open(dir).unwrap(), image, &filter, &Options::default()).unwrap()
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// What a check finds after `change` was done to a nasty tree.
fn after(change: impl Fn(&Path), expected: &[(&str, What, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let image = golden(dir.path());
    change(dir.path());
    let report = checked(dir.path(), &image, "");
    let found: Vec<_> =
        report.deviations.iter().map(|d| (d.path.to_string(), d.what, d.detail.clone())).collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(path, what, detail)| ((*path).to_owned(), *what, (*detail).to_owned()))
        .collect();
    assert_eq!(found, expected);
    // A nasty tree holds a file without any permission, which only root can look at.
    let untouched =
        if rustix::process::geteuid().is_root() { Verdict::Compliant } else { Verdict::CouldNotLook };
    assert_eq!(report.verdict(), if expected.is_empty() { untouched } else { Verdict::Deviant });
}

#[test]
fn an_untouched_machine_is_compliant() {
    after(|_| {}, &[]);
    after(|dir| drop(fs::read(dir.join("many/1")).unwrap()), &[]);
}

#[test]
fn every_kind_of_deviation_is_named() {
    after(
        |dir| fs::remove_file(dir.join("many/1")).unwrap(),
        &[("/many/1", What::Missing, "missing, must be a file")],
    );
    after(
        |dir| fs::create_dir(dir.join("many/new")).unwrap(),
        &[("/many/new", What::Unexpected, "directory, must not be there")],
    );
    after(
        |dir| {
            fs::remove_file(dir.join("dots")).unwrap();
            fs::create_dir(dir.join("dots")).unwrap();
        },
        &[("/dots", What::Kind, "directory, must be a symlink")],
    );
    after(
        |dir| {
            fs::remove_file(dir.join("absolute")).unwrap();
            symlink("/etc/passwd", dir.join("absolute")).unwrap();
            drop(std::os::unix::fs::lchown(dir.join("absolute"), Some(12_345), Some(0)));
        },
        &[("/absolute", What::Contents, "points to \"/etc/passwd\", must point to \"/etc/shadow\"")],
    );
    after(
        |dir| fs::set_permissions(dir.join("many"), fs::Permissions::from_mode(0o4711)).unwrap(),
        &[("/many", What::Metadata, "mode 4711, must be 0755")],
    );
}

#[test]
fn a_broken_hard_link_is_a_deviation_though_all_contents_are_right() {
    after(
        |dir| {
            let (old, copy) = (dir.join("links-three"), dir.join("copy"));
            fs::copy(&old, &copy).unwrap();
            let file = fs::File::options().write(true).open(&copy).unwrap();
            file.set_modified(fs::metadata(&old).unwrap().modified().unwrap()).unwrap();
            fs::rename(&copy, &old).unwrap();
        },
        &[("/links-three", What::Links, "no hard link, must be hard link of /links/deeper/two, /links/one")],
    );
}

#[test]
fn same_size_and_time_do_not_hide_other_contents() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("login");
    fs::write(&file, b"good").unwrap();
    let image = golden(dir.path());
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, b"evil").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let report = checked(dir.path(), &image, "");
    assert_eq!(report.deviations.iter().map(|d| d.what).collect::<Vec<_>>(), [What::Contents]);
    assert_ne!(report.actual, report.required);
}

#[test]
fn a_directory_that_holds_what_is_not_in_view_is_kept_and_no_deviation() {
    let dir = tempfile::tempdir().unwrap();
    let image = golden(dir.path());
    fs::create_dir_all(dir.path().join("spool/mail")).unwrap();
    fs::write(dir.path().join("spool/mail/letter"), b"").unwrap();
    let report = checked(dir.path(), &image, "/spool/mail/");
    assert_eq!(
        (report.verdict(), report.kept),
        (Verdict::Compliant, ["/spool", "/spool/mail"].map(path).into())
    );
    assert_eq!(checked(dir.path(), &image, "").verdict(), Verdict::Deviant);
}

#[test]
fn a_sparse_image_cares_for_its_own_paths_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ours"), b"x").unwrap();
    let image = golden(dir.path());
    fs::write(dir.path().join("theirs"), b"y").unwrap();
    let check =
        |filter| check(&Root::open(dir.path()).unwrap(), &image, &filter, &Options::default()).unwrap();
    assert_eq!(check(Filter::Sparse).verdict(), Verdict::Compliant);
    assert_eq!(check(Filter::Empty).verdict(), Verdict::Deviant);
    fs::remove_file(dir.path().join("ours")).unwrap();
    assert_eq!(check(Filter::Sparse).deviations[0].what, What::Missing);
}

#[test]
fn of_a_computed_file_only_metadata_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("motd");
    fs::write(&file, b"welcome to this very machine").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let scanned = golden(dir.path());
    let seen = scanned.inode(&path("/motd")).unwrap();
    let kind = Kind::Computed { source: "generator:6977".into() };
    let mut image = Builder::new(scanned.tree.root.clone()).unwrap();
    image.insert(&path("/motd"), Inode { kind, ..seen }).unwrap();
    let image = image.finish(View::everything().id());
    assert_eq!(checked(dir.path(), &image, "").verdict(), Verdict::Compliant);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(checked(dir.path(), &image, "").deviations[0].to_string(), "/motd: mode 0666, must be 0644");
}

/// Run as somebody else, in a process of its own: the test that starts it is root and could read everything.
#[test]
fn what_can_not_be_read_is_neither_right_nor_wrong() {
    const INSIDE: &str = "DOMINATOR_TEST_UNREADABLE";
    if let Some(dir) = std::env::var_os(INSIDE) {
        return unreadable(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    for (name, mode) in [("secret", 0o0), ("open", 0o644), ("closed/inside", 0o644)] {
        fs::write(dir.path().join(name), b"x").unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    if rustix::process::geteuid().is_root() {
        let this = std::env::current_exe().unwrap();
        // Where the test program lies, only root may be able to go.
        let copy = dir.path().join("test-program");
        // By another process: what is forked meanwhile in other threads must not have it open for writing.
        let install = std::process::Command::new("install").args(["-m", "755"]).arg(this).arg(&copy).status();
        assert!(install.unwrap().success());
        let mut command = std::process::Command::new(&copy);
        command.args(["--exact", "what_can_not_be_read_is_neither_right_nor_wrong"]).env(INSIDE, dir.path());
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
        assert!(command.current_dir("/").status().unwrap().success());
    } else {
        unreadable(dir.path());
    }
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn unreadable(dir: &Path) {
    let scanner = Scanner::new(Root::open(dir).unwrap(), View::everything().into());
    let scan = scanner.scan(&Cancel::default()).unwrap();
    let facts: Vec<_> = scan.facts.iter().map(|fact| (fact.path.to_string(), fact.why)).collect();
    let expected = ["/closed", "/secret"].map(|path| (path.to_owned(), Why::Unreadable));
    assert_eq!(facts, expected);
    assert_eq!(scan.held, [path("/")].into());
    let everything = scan.snapshot;
    assert!(everything.inode(&path("/open")).unwrap().object().is_some());
    let mut image = Builder::new(everything.tree.root.clone()).unwrap();
    everything.walk(|path, inode| {
        if !inode.is_unknown() {
            image.insert(path, inode.clone()).unwrap();
        }
    });
    let symlink = Inode {
        mode: Mode::SYMLINK,
        uid: 0,
        gid: 0,
        xattrs: Xattrs::default(),
        kind: Kind::Symlink { target: (*b"x").into() },
    };
    image.insert(&path("/secret"), symlink.clone()).unwrap();
    let could_not_look = checked(dir, &image.finish(View::everything().id()), "");
    assert_eq!(could_not_look.verdict(), Verdict::CouldNotLook);
    assert_eq!((could_not_look.deviations.len(), could_not_look.unknown.len()), (0, 2));
    let mut image = Builder::new(everything.tree.root).unwrap();
    image.insert(&path("/gone"), symlink).unwrap();
    let deviant = checked(dir, &image.finish(View::everything().id()), "");
    assert_eq!((deviant.verdict(), deviant.unknown.len()), (Verdict::Deviant, 2));
}

#[test]
fn a_cancelled_check_and_a_broken_image_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut image = golden(dir.path());
    let options = Options::default();
    options.cancel.cancel();
    let cancelled = check(&root, &image, &Filter::Empty, &options);
    assert!(matches!(cancelled, Err(CheckError::Scan(ScanError::Cancelled))));
    image.directories = Default::default();
    let broken = check(&root, &image, &Filter::Empty, &Options::default());
    assert!(matches!(broken, Err(CheckError::Image { .. })));
}

//! Somebody with an account on the machine, who works against the scan while it runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use dominator_core::inode::{Kind, Why};
use dominator_core::object::ObjectId;
use dominator_fs_testkit::{left_out, needs_root};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FileType, Mode, OFlags, RenameFlags};

use crate::observer::{Observer, path};
use crate::outside::{CHAIN, Outside, special};
use crate::process::{Storm, rage, role};

const SCANS: usize = 1_000;

/// `tree` is scanned; `aside` holds, under the same names, what takes their places.
fn stage(base: &Path, outside: &Path) -> BTreeSet<ObjectId> {
    let (tree, aside) = (base.join("tree"), base.join("aside"));
    let mut contents = BTreeSet::new();
    let mut write = |path: &Path, text: String| {
        contents.insert(ObjectId::of(text.as_bytes()));
        fs::write(path, text).unwrap();
    };
    fs::create_dir_all(tree.join("calm")).unwrap();
    fs::create_dir(&aside).unwrap();
    for (number, target) in ["dir", "dir/deeper", "dir", "secret", "null", "pipe"].iter().enumerate() {
        for directory in ["d", "calm/d"].map(|name| tree.join(format!("{name}{number}"))) {
            for (depth, below) in CHAIN.iter().enumerate() {
                fs::create_dir_all(directory.join(below)).unwrap();
                write(&directory.join(below).join("inside"), format!("inside {number}, {depth} deep"));
            }
        }
        let relative = Path::new("../outside").join(target);
        let either = if number % 2 == 0 { &relative } else { &outside.join(target) };
        symlink(either, aside.join(format!("d{number}"))).unwrap();
        for name in ["pipe", "link", "relative", "socket", "null", "directory", "file"] {
            write(&tree.join(format!("{name}{number}")), format!("{name} {number}"));
        }
        let aside = |name: &str| aside.join(format!("{name}{number}"));
        special(&aside("pipe"), FileType::Fifo).unwrap();
        symlink(outside.join(target), aside("link")).unwrap();
        symlink(&relative, aside("relative")).unwrap();
        drop(UnixListener::bind(aside("socket")).unwrap());
        fs::create_dir(aside("directory")).unwrap();
        write(&aside("directory").join("inside"), format!("not a file {number}"));
        write(&aside("file"), format!("another file {number}"));
        if special(&aside("null"), FileType::CharacterDevice).is_err() {
            special(&aside("null"), FileType::Fifo).unwrap();
        }
    }
    contents
}

/// Exchanges all of them, or all directories, over and over.
fn swap_in_a_tight_loop(base: &Path, role: &str) {
    let open = |name: &str| {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(base.join(name), flags, Mode::empty()).unwrap()
    };
    let (tree, aside): (OwnedFd, OwnedFd) = (open("tree"), open("aside"));
    let mut names: Vec<_> =
        fs::read_dir(base.join("aside")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.retain(|name| role == "swap" || name.to_string_lossy().starts_with('d'));
    rage(|dice| {
        let from = dice.below(names.len() as u64);
        for name in names.iter().cycle().skip(usize::try_from(from).unwrap()).take(names.len()) {
            rustix::fs::renameat_with(&tree, name, &aside, name, RenameFlags::EXCHANGE).unwrap();
        }
    });
}

#[test]
fn nothing_that_is_swapped_during_a_scan_leads_out_or_hangs_it() {
    const TEST: &str = "attack::nothing_that_is_swapped_during_a_scan_leads_out_or_hangs_it";
    if let Some((role, base)) = role() {
        return swap_in_a_tight_loop(&base, &role);
    }
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    let outside = Outside::make(&base.path().join("outside"));
    let contents = stage(base.path(), &outside.path);
    let mut observer = Observer::on(&tree);
    let calm = observer.agree(&tree, &[])[0].snapshot.inode(&path("/calm"));
    let attackers = ["swap", "directories"].map(|role| Storm::begin(TEST, role, base.path()));
    for _ in 0..SCANS {
        for look in observer.look() {
            let seen: BTreeSet<_> = look.snapshot.objects().into_keys().collect();
            assert!(!seen.contains(&Outside::secret()), "a symbolic link was followed");
            assert!(seen.is_subset(&contents), "contents that no file ever had");
            assert_eq!(look.snapshot.inode(&path("/calm")), calm);
            look.snapshot.walk(|path, _| assert!(!path.as_bytes().ends_with(b"/secret"), "{path}"));
            let unsettled = look.facts.iter().all(|fact| fact.why == Why::Changing);
            assert!(unsettled, "{:?}", look.facts);
        }
    }
    let rounds: Vec<_> = attackers.map(Storm::end).into();
    assert!(rounds.iter().all(|rounds| *rounds > SCANS as u64), "hardly an attack: {rounds:?}");
    outside.was_left_alone();
    observer.agree(&tree, &[]);
}

/// Mounts and unmounts what is outside over a directory and a file, over and over.
fn mount_in_a_tight_loop(base: &Path) {
    const NONE: Option<&str> = None;
    let places = [("outside/dir", "tree/d0"), ("outside/secret", "tree/link0")]
        .map(|(from, to)| (base.join(from), base.join(to)));
    rage(|_| {
        for (from, to) in &places {
            mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).unwrap();
        }
        for (_, to) in &places {
            umount2(to, MntFlags::MNT_DETACH).unwrap();
        }
    });
}

#[test]
fn mounts_that_come_and_go_during_a_scan_lead_nowhere() {
    const TEST: &str = "attack::mounts_that_come_and_go_during_a_scan_lead_nowhere";
    if let Some((_, base)) = role() {
        return mount_in_a_tight_loop(&base);
    }
    if !needs_root(TEST) {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    let outside = Outside::make(&base.path().join("outside"));
    let contents = stage(base.path(), &outside.path);
    let scene = || {
        const NONE: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).ok()?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).ok()?;
        let (mut observer, mut beneath) = (Observer::on(&tree), Observer::beneath(&tree));
        let [still, _] = beneath.agree(&tree, &[]);
        let storm = Storm::begin(TEST, "mount", base.path());
        for round in 0..SCANS {
            // Who looks beneath mounts sees nothing of all that.
            for look in (round % 4 == 0).then(|| beneath.look()).into_iter().flatten() {
                assert_eq!((look.snapshot.id(), look.facts), (still.snapshot.id(), Vec::new()));
            }
            for look in observer.look() {
                let seen: BTreeSet<_> = look.snapshot.objects().into_keys().collect();
                assert!(seen.is_subset(&contents), "contents that are not below the root");
                look.snapshot.walk(|path, _| assert!(!path.as_bytes().ends_with(b"/secret"), "{path}"));
            }
        }
        let rounds = storm.end();
        assert!(rounds > SCANS as u64, "hardly an attack: {rounds}");
        observer.agree(&tree, &[]);
        Some(())
    };
    // Its own mounts end with the thread.
    let seen = std::thread::scope(|scope| scope.spawn(scene).join().unwrap());
    if seen.is_none() {
        return left_out(TEST, "mounts of its own are refused");
    }
    outside.was_left_alone();
}

#[test]
fn a_lease_that_somebody_holds_on_a_file_does_not_hold_the_scan() {
    const HOLD: &str = "
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], 'r+b')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";
    let base = tempfile::tempdir().unwrap();
    let leased = base.path().join("leased");
    fs::write(&leased, b"mine").unwrap();
    fs::write(base.path().join("beside"), b"x").unwrap();
    let mut holder = Command::new("python3")
        .args(["-c", HOLD])
        .arg(&leased)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
    assert_eq!(held, "held\n");
    let mut observer = Observer::on(base.path());
    // Who waits for the lease sees the file as soon as the kernel takes it away, most of a minute later.
    for look in observer.look() {
        assert_eq!(
            look.snapshot.inode(&path("/leased")).unwrap().kind,
            Kind::Unknown { why: Why::Unreadable }
        );
        assert!(look.snapshot.inode(&path("/beside")).unwrap().object().is_some());
    }
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    observer.agree(base.path(), &[]);
}

#[test]
fn pipes_sockets_and_devices_are_looked_at_without_being_opened() {
    let base = tempfile::tempdir().unwrap();
    let outside = Outside::make(&base.path().join("tree"));
    drop(UnixListener::bind(outside.path.join("dir/socket")).unwrap());
    let mut observer = Observer::on(&outside.path);
    for look in observer.look() {
        assert_eq!(look.facts, []);
        assert_eq!(look.counts.files, 2 * (CHAIN.len() as u64 + 1));
    }
    let opened: BTreeSet<_> = outside.opened().into_iter().collect();
    assert_eq!(opened, ["", "deeper", "dir", "inside", "secret"].map(String::from).into());
}

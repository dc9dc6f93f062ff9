//! Disks and permissions that fail for single paths: a scan is a whole tree with a fact for exactly these, it is right
//! in everything else, and the next one is right there, too, once nothing fails any more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use dominator_core::inode::Why;
use dominator_fs::scan::{Scan, ScanError};
use dominator_fs_testkit::{Disk, Entries, described, left_out, observed, with_mounts};
use serde_json::{Value, json};

use crate::observer::{Observer, same};
use crate::process::{again, role};

/// What a look at the tree came to, as one process tells another.
fn told(look: &Result<Scan, ScanError>) -> Value {
    match look {
        Ok(scan) => {
            let facts: BTreeMap<_, _> =
                scan.facts.iter().map(|fact| (fact.path.to_string(), fact.why.to_string())).collect();
            json!({"entries": described(&scan.snapshot), "facts": facts})
        }
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// The process for which calls fail: it looks, and leaves what it saw and what it remembers.
fn look_and_tell(base: &Path) {
    let mut observer = Observer::on(&base.join("tree"));
    let looks: Vec<_> = observer.try_look().iter().map(told).collect();
    fs::write(base.join("told"), serde_json::to_vec(&looks).unwrap()).unwrap();
    observer.save(base);
}

/// Whether strace is here and may trace; where nothing may be left out, its absence is a failure.
fn needs_strace(test: &str) -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let can = traced.is_ok_and(|status| status.success());
    assert!(can || std::env::var_os("CI").is_none(), "{test} needs strace");
    if !can {
        left_out(test, "it needs strace, and to be let trace");
    }
    can
}

/// A tree with one of each, and one whose names take several calls to be told.
fn prepare(tree: &Path) {
    fs::create_dir_all(tree.join("beside")).unwrap();
    fs::write(tree.join("beside/file"), vec![7; 400_000]).unwrap();
    fs::write(tree.join("the-file"), vec![8; 400_000]).unwrap();
    fs::write(tree.join("the-linked"), b"of two names").unwrap();
    fs::hard_link(tree.join("the-linked"), tree.join("beside/linked")).unwrap();
    symlink("the-file", tree.join("the-link")).unwrap();
    fs::create_dir_all(tree.join("the-directory/below")).unwrap();
    fs::write(tree.join("the-directory/below/file"), b"deep").unwrap();
    fs::create_dir(tree.join("the-long-directory")).unwrap();
    for number in 0..500 {
        fs::write(tree.join(format!("the-long-directory/{number:0>200}")), b"x").unwrap();
    }
}

/// Looks at the tree while strace does `inject` to the calls that name `victim`. Both looks must end in `expected`, and
/// the one that follows, which knows what they left, in the truth.
fn check(test: &str, inject: &str, victim: &str, expected: impl Fn(&Entries) -> Value) {
    let base = tempfile::tempdir().unwrap();
    let base = base.path().canonicalize().unwrap();
    let tree = base.join("tree");
    prepare(&tree);
    let whole = tree.join(victim);
    let option = format!("inject={inject}");
    let strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-P",
        victim,
        "-P",
        whole.to_str().unwrap(),
        "-e",
        &option,
    ];
    let outcome = again(&strace, test, "look", &base).output().unwrap();
    let said = [outcome.stdout, outcome.stderr].concat();
    assert!(outcome.status.success(), "{inject} of {victim}: {}", String::from_utf8_lossy(&said));
    let looks: Vec<Value> = serde_json::from_slice(&fs::read(base.join("told")).unwrap()).unwrap();
    let expected = expected(&observed(&tree, &[]));
    for look in &looks {
        let found = |key: &str| serde_json::from_value::<Entries>(look[key].clone()).unwrap_or_default();
        if let Value::Object(entries) = &expected["entries"] {
            same(&found("entries"), &entries.clone().into_iter().collect());
        }
        assert_eq!(
            (&look["facts"], &look["error"]),
            (&expected["facts"], &expected["error"]),
            "{inject} of {victim}"
        );
    }
    let mut observer = Observer::resumed(&tree, &base);
    observer.agree_at_once(&tree, &[]);
    observer.agree(&tree, &[]);
}

/// Everything as it is, but for the paths nothing is known of, and what is below them.
fn but_for(truth: &Entries, doubtful: &[(&str, Why)]) -> Value {
    let mut entries = truth.clone();
    for (path, _) in doubtful {
        entries.retain(|name, _| !name.starts_with(&format!("{path}/")));
        entries.insert((*path).into(), json!({"type": "unknown"})).unwrap();
    }
    let facts: BTreeMap<_, _> = doubtful.iter().map(|(path, why)| (*path, why.to_string())).collect();
    json!({"entries": entries, "facts": facts})
}

#[test]
fn what_fails_for_one_path_is_a_fact_for_this_path_and_nothing_else() {
    const TEST: &str = "faults::what_fails_for_one_path_is_a_fact_for_this_path_and_nothing_else";
    if let Some((_, base)) = role() {
        return look_and_tell(&base);
    }
    if !needs_strace(TEST) {
        return;
    }
    for (inject, victim, why) in [
        ("openat,openat2:error=EACCES", "the-file", Why::Unreadable),
        ("openat,openat2:error=EIO", "the-file", Why::Unreadable),
        ("openat,openat2:error=ENOENT", "the-file", Why::Changing),
        ("read,pread64:error=EIO", "the-file", Why::Unreadable),
        ("read,pread64:error=EIO:when=2+", "the-file", Why::Unreadable),
        ("statx:error=EIO", "the-file", Why::Unreadable),
        ("flistxattr:error=EIO", "the-file", Why::Unreadable),
        ("readlinkat:error=EIO", "the-link", Why::Unreadable),
        ("statx:error=EACCES", "the-directory", Why::Unreadable),
        ("openat,openat2:error=EACCES", "the-directory", Why::Unreadable),
        ("flistxattr:error=EIO", "the-directory", Why::Unreadable),
        ("getdents64:error=EIO", "the-directory", Why::Unreadable),
        ("getdents64:error=EIO:when=2+", "the-long-directory", Why::Unreadable),
    ] {
        check(TEST, inject, victim, |truth| but_for(truth, &[(&format!("/{victim}"), why)]));
    }
    // One name of a file fails: which file it names is not known then, so the other stands alone.
    check(TEST, "statx:error=EACCES", "the-linked", |truth| {
        let mut truth = truth.clone();
        for name in ["/the-linked", "/beside/linked"] {
            truth.get_mut(name).unwrap().as_object_mut().unwrap().remove("links").unwrap();
        }
        but_for(&truth, &[("/the-linked", Why::Unreadable)])
    });
}

#[test]
fn calls_that_are_interrupted_or_want_to_be_made_again_are_made_again() {
    const TEST: &str = "faults::calls_that_are_interrupted_or_want_to_be_made_again_are_made_again";
    if let Some((_, base)) = role() {
        return look_and_tell(&base);
    }
    if !needs_strace(TEST) {
        return;
    }
    for (inject, victim) in [
        ("read,pread64:error=EINTR:when=1..2", "the-file"),
        ("openat2:error=EAGAIN:when=1..3", "the-directory"),
        ("openat2:error=EINTR:when=1..3", "the-directory"),
    ] {
        check(TEST, inject, victim, |truth| but_for(truth, &[]));
    }
}

#[test]
fn a_process_that_runs_out_of_something_says_so_and_blames_no_file() {
    const TEST: &str = "faults::a_process_that_runs_out_of_something_says_so_and_blames_no_file";
    if let Some((_, base)) = role() {
        return look_and_tell(&base);
    }
    if !needs_strace(TEST) {
        return;
    }
    let exhausted = ScanError::Exhausted { source: std::io::ErrorKind::Other.into() }.to_string();
    for (inject, victim) in [
        ("openat,openat2:error=EMFILE", "the-file"),
        ("openat,openat2:error=ENFILE", "the-directory"),
        ("read,pread64:error=ENOMEM", "the-file"),
        ("getdents64:error=ENOMEM", "the-directory"),
    ] {
        check(TEST, inject, victim, |_| json!({"error": exhausted}));
    }
}

/// On a file-system of its own, one inode of which is then wiped out. Nobody else sees that mount: another test could take
/// it along, and what was written would not be on the disk yet when it is gone from here.
#[test]
fn a_damaged_inode_is_a_fact() {
    const TEST: &str = "faults::a_damaged_inode_is_a_fact";
    with_mounts(TEST, || {
        let disk = match Disk::with(32 << 20, "errors=continue") {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let tree = disk.path().join("tree");
        prepare(&tree);
        let expected = but_for(&observed(&tree, &[]), &[("/the-file", Why::Unreadable)]);
        disk.damage(|device| {
            let wipe = ["-w", "-R", "clri /tree/the-file"];
            let wiped = Command::new("debugfs").args(wipe).arg(device).status().unwrap();
            assert!(wiped.success());
        });
        for look in Observer::on(&tree).try_look() {
            assert_eq!(told(&look), expected);
        }
    });
}

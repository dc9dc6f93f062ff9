use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, makedev};
use rustix::io::Errno;

/// Fills `dir` with one of everything Linux can put in a directory. Device nodes, foreign owners and capabilities only
/// when the process may make them; extended attributes only where the file-system keeps them.
///
/// # Panics
/// When something that always can be made can't.
pub fn nasty(dir: &Path) {
    let at = |name: &[u8]| dir.join(OsStr::from_bytes(name));
    names(dir);
    contents(dir);
    modes(dir);
    fs::create_dir_all(at(b"links/deeper")).expect("directories");
    fs::write(at(b"links/one"), b"of many names").expect("a file");
    fs::hard_link(at(b"links/one"), at(b"links/deeper/two")).expect("a hard link");
    fs::hard_link(at(b"links/one"), at(b"links-three")).expect("a hard link");
    symlink("nowhere", at(b"links/symbolic")).expect("a symbolic link");
    fs::hard_link(at(b"links/symbolic"), at(b"links/symbolic-too")).expect("a hard link to a symbolic link");
    for (name, target) in [
        (&b"loop"[..], &b"loop"[..]),
        (b"dots", b".././../etc//passwd/"),
        (b"absolute", b"/etc/shadow"),
        (b"bytes", b"a\nb\xff\\"),
        (b"directory-link", b"links"),
        (b"long", &[b'x'; 4000]),
    ] {
        symlink(OsStr::from_bytes(target), at(name)).expect("a symbolic link");
    }
    mknod(&at(b"pipe"), FileType::Fifo, 0).expect("a pipe");
    fs::hard_link(at(b"pipe"), at(b"pipe-too")).expect("a hard link to a pipe");
    drop(std::os::unix::net::UnixListener::bind(at(b"socket")).expect("a socket"));
    fs::create_dir_all(at(b".subd/objects")).expect("the agent's own");
    fs::create_dir_all(at(b"links/.subd")).expect("not the agent's own");
    attributes(dir);
    if rustix::process::geteuid().is_root() {
        privileged(dir);
    }
    set_times(&at(b"old"), -5, 999_999_999);
    set_times(&at(b"future"), 5_000_000_000, 1);
}

/// A chain of `depth` directories named `d` below `dir`, with a file in the last, whose name is one letter, too.
///
/// # Panics
/// When the file-system refuses.
pub fn deep(dir: &Path, depth: usize) {
    chain(dir, "d", depth);
}

/// Makes a chain of `depth` directories below `dir`, each named `name`, with a file in the last; deeper than any path may
/// be long, if need be.
///
/// # Panics
/// When the file-system refuses.
pub fn chain(dir: &Path, name: &str, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::open(dir, flags, Mode::empty()).expect("the directory opens");
    for _ in 0..depth {
        rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).expect("one directory deeper");
        here = rustix::fs::openat(&here, name, flags, Mode::empty()).expect("it opens");
    }
    let file = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&here, "b", file, Mode::from_raw_mode(0o600)).expect("a file"));
}

fn names(dir: &Path) {
    let long = [b'n'; 255];
    for name in [
        &b" "[..],
        b"-rf",
        b"new\nline",
        b"tab\tand\x7f",
        b"back\\slash",
        b"\\x41",
        b"\xff\xfe",
        b"...",
        b"~",
        &long,
    ] {
        fs::write(dir.join(OsStr::from_bytes(name)), name).expect("a file of an odd name");
    }
    for name in ["a", "a-b", "a.b", "é", "\u{202e}", "日本"] {
        fs::create_dir_all(dir.join("odd").join(name)).expect("a directory of an odd name");
        fs::write(dir.join("odd").join(name).join("inside"), name).expect("a file");
    }
}

fn contents(dir: &Path) {
    fs::write(dir.join("empty"), b"").expect("an empty file");
    fs::write(dir.join("old"), b"before 1970").expect("a file");
    fs::write(dir.join("future"), b"after 2038").expect("a file");
    for size in [1, 4095, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 1_000_000] {
        fs::write(dir.join(format!("size-{size}")), vec![b'z'; size]).expect("a file");
    }
    let mut sparse = File::create(dir.join("sparse")).expect("a sparse file");
    sparse.seek(SeekFrom::Start(8 << 20)).expect("a hole");
    sparse.write_all(b"end").expect("its end");
    for number in 0..100 {
        fs::create_dir_all(dir.join("many")).expect("a directory");
        fs::write(dir.join(format!("many/{number}")), format!("{number}")).expect("a file");
    }
}

fn modes(dir: &Path) {
    for mode in [0o0, 0o111, 0o444, 0o644, 0o1644, 0o2755, 0o4755, 0o6777, 0o7777] {
        let file = dir.join(format!("mode-{mode:04o}"));
        fs::write(&file, b"").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its mode");
    }
    for mode in [0o700, 0o1777, 0o2775, 0o7755] {
        let below = dir.join(format!("directory-{mode:04o}"));
        fs::create_dir(&below).expect("a directory");
        fs::set_permissions(&below, Permissions::from_mode(mode)).expect("its mode");
    }
}

fn attributes(dir: &Path) {
    let file = dir.join("attributes");
    fs::write(&file, b"see getfattr").expect("a file");
    let long = [b'v'; 1500];
    for (name, value) in
        [("user.short", &b"v"[..]), ("user.empty", b""), ("user.long", &long), ("user.b\u{e9}", b"\0\xff")]
    {
        if rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).is_err() {
            return;
        }
    }
    rustix::fs::setxattr(dir.join("links"), "user.of-a-directory", b"x", XattrFlags::empty())
        .expect("an attribute");
}

/// What only root can make. Not every container lets even root; what it does not let is left out.
fn privileged(dir: &Path) {
    allowed(mknod(&dir.join("null"), FileType::CharacterDevice, makedev(1, 3)));
    allowed(mknod(&dir.join("large-numbers"), FileType::CharacterDevice, makedev(511, 0xf_ffff)));
    allowed(mknod(&dir.join("block"), FileType::BlockDevice, makedev(7, 99)));
    let owned = dir.join("owned");
    fs::write(&owned, b"by somebody").expect("a file");
    drop(chown(&owned, Some(12_345), Some(54_321)));
    drop(lchown(dir.join("absolute"), Some(12_345), Some(0)));
    let capable = dir.join("capable");
    fs::write(&capable, b"ping").expect("a file");
    // Revision 2, cap_net_raw permitted and effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    allowed(rustix::fs::setxattr(&capable, "security.capability", &capability, XattrFlags::empty()));
}

/// Whether root was let is for the container to say; anything else is a fault of ours.
fn allowed(outcome: rustix::io::Result<()>) {
    assert!(matches!(outcome, Ok(()) | Err(Errno::PERM | Errno::NOTSUP)), "{outcome:?}");
}

fn mknod(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device)
}

fn set_times(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("times");
}

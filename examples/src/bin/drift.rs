//! In what do two directories differ? Equal directories have equal ids, so only where ids differ is there anything to see.
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use dominator_core::inode::Inode;
use dominator_core::tree::{Directories, DirectoryId, Entry, Snapshot};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};

fn scan(directory: &Path) -> Result<Snapshot, Box<dyn Error>> {
    let scan = Scanner::new(Root::open(directory)?, Arc::new(View::everything())).scan(&Cancel::default())?;
    scan.facts.iter().for_each(|fact| println!("? {fact}"));
    Ok(scan.snapshot)
}

/// Prints what became of a directory that was `old` and is `new`.
fn drift(trees: [&Snapshot; 2], [old, new]: [Option<DirectoryId>; 2], indent: usize) {
    let [before, after] = trees;
    let old = old.and_then(|id| before.directories.directory(&id)).unwrap_or_default();
    let new = new.and_then(|id| after.directories.directory(&id)).unwrap_or_default();
    let names: BTreeSet<&[u8]> = old.iter().chain(new.iter()).map(|entry| entry.name()).collect();
    for name in names {
        let (was, is) = (old.entry(name), new.entry(name));
        if was == is {
            continue; // and so is everything below
        }
        let (sign, what) = match [was, is].map(|entry| entry.map(|entry| entry.inode())) {
            [Some(was), Some(is)] => ('~', changed(&was, &is)),
            [None, Some(inode)] => ('+', inode.kind_name().to_owned()),
            [inode, None] => ('-', inode.map(|inode| inode.kind_name().to_owned()).unwrap_or_default()),
        };
        let line = format!("{:indent$}{sign} {}  {what}", "", String::from_utf8_lossy(name));
        println!("{}", line.trim_end());
        drift(trees, [was, is].map(|entry| entry.as_ref().and_then(Entry::directory)), indent + 2);
    }
}

fn changed(was: &Inode, is: &Inode) -> String {
    let mut what = Vec::new();
    if was.kind_name() != is.kind_name() {
        what.push(format!("{}, was {}", is.kind_name(), was.kind_name()));
    } else if !was.same_contents(is) {
        what.push("contents".into());
    } else if !was.is_directory() && was.kind != is.kind {
        what.push("time".into());
    }
    if was.mode != is.mode {
        what.push(format!("mode {}, was {}", is.mode, was.mode));
    }
    if (was.uid, was.gid) != (is.uid, is.gid) {
        what.push(format!("owner {}:{}, was {}:{}", is.uid, is.gid, was.uid, was.gid));
    }
    if was.xattrs != is.xattrs {
        what.push("attributes".into());
    }
    what.join("; ")
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let [golden, machine] = ["golden", "machine"].map(|name| directory.path().join(name));
    for root in [&golden, &machine] {
        fs::create_dir_all(root.join("etc/ssh"))?;
        fs::create_dir_all(root.join("usr/lib/unchanged"))?;
        for name in ["etc/motd", "etc/passwd", "etc/ssh/sshd_config", "usr/lib/unchanged/library.so"] {
            fs::write(root.join(name), "as it came\n")?;
            fs::File::options().write(true).open(root.join(name))?.set_modified(std::time::UNIX_EPOCH)?;
        }
        symlink("/usr/share/zoneinfo/UTC", root.join("etc/localtime"))?;
    }
    fs::write(machine.join("etc/motd"), "Go away.\n")?;
    fs::set_permissions(machine.join("etc/passwd"), PermissionsExt::from_mode(0o666))?;
    fs::remove_file(machine.join("etc/localtime"))?;
    fs::create_dir_all(machine.join("etc/cron.d"))?;
    fs::write(machine.join("etc/cron.d/backdoor"), "* * * * * root /tmp/x\n")?;
    fs::remove_dir_all(machine.join("etc/ssh"))?;
    fs::write(machine.join("etc/ssh"), "a file now\n")?;

    let (golden, machine) = (scan(&golden)?, scan(&machine)?);
    drift([&golden, &machine], [&golden, &machine].map(|tree| tree.tree.root.directory()), 0);
    Ok(())
}

//! Is a directory what a golden one says it must be? [`check`] is all it takes.
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dominator_core::filter::Filter;
use dominator_fs::compliance::{self, Options, Verdict};
use dominator_fs::import::{self, Nowhere};
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;

fn check(golden: &Path, root: &Path) -> Result<Verdict, Box<dyn Error>> {
    let filter = Filter::parse("/var/log/.*")?;
    let image = import::directory(&Root::open(golden)?, &filter, &Cancel::default(), &mut Nowhere)?;
    let options = Options { xattrs: image.xattrs, ..Options::default() };
    let report = compliance::check(&Root::open(root)?, &image.snapshot, &filter, &options)?;
    for deviation in &report.deviations {
        println!("{deviation}");
    }
    for fact in &report.unknown {
        println!("{fact}");
    }
    Ok(report.verdict())
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (golden, root) = (directory.path().join("golden"), directory.path().join("root"));
    make_tree(&golden)?;
    make_tree(&root)?;
    println!("a faithful copy: {:?}", check(&golden, &root)?);

    fs::write(root.join("etc/motd"), "Go away.\n")?;
    fs::set_permissions(root.join("etc/passwd"), PermissionsExt::from_mode(0o666))?;
    fs::remove_file(root.join("etc/localtime"))?;
    fs::write(root.join("etc/cron.backdoor"), "* * * * * root /tmp/x\n")?;
    fs::write(root.join("var/log/messages"), "logs are none of the image's business\n")?;
    println!("after a visitor: {:?}", check(&golden, &root)?);
    Ok(())
}

/// A little machine. Times count, so all of it gets the same.
fn make_tree(root: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(root.join("var/log"))?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for (name, contents) in [("motd", "Welcome.\n"), ("passwd", "root:x:0:0:root:/root:/bin/sh\n")] {
        let path = root.join("etc").join(name);
        fs::write(&path, contents)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        fs::File::options().write(true).open(&path)?.set_modified(time)?;
    }
    Ok(std::os::unix::fs::symlink("/usr/share/zoneinfo/UTC", root.join("etc/localtime"))?)
}

//! Makes one directory what another is, step by step, and takes it back: an update without agent, controller or network.
#![allow(clippy::print_stdout, reason = "it is what examples do")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use dominator_core::plan::{Comparison, Plan};
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::traits::traits_of;
use dominator_fs::update::{Reason, Recovery, Updater};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (golden, machine) = (directory.path().join("golden"), directory.path().join("machine"));
    make_tree(&golden, "Welcome.\n")?;
    symlink("/usr/share/zoneinfo/UTC", golden.join("etc/localtime"))?;
    make_tree(&machine, "Go away.\n")?;
    fs::write(machine.join("etc/cron.backdoor"), "* * * * * root /tmp/x\n")?;

    // What of both is compared is what this process can see and set there.
    let root = Root::open(&machine)?;
    let traits = traits_of(&root);
    let view = View { xattrs: traits.xattrs, ownership: traits.ownership, ..View::everything() };
    let required = scan(&Root::open(&golden)?, &view)?;
    let before = scan(&root, &view)?;
    let comparison = Comparison {
        required: &required,
        actual: &before.tree,
        links: Some(&before.links),
        directories: &before.directories,
    };
    let plan = comparison.plan()?.plan;
    plan.operations.iter().for_each(|operation| println!("to do: {operation}"));

    // Whatever a process before this one was cut off at is finished or undone here.
    let (mut updater, recovery) = Updater::open(root.clone(), Arc::new(Kernel))?;
    assert!(matches!(recovery, Recovery::Clean));
    fetch(&updater, &plan, &required, &golden)?;

    let staged = updater.begin(&plan, &view)?.stage()?;
    println!("staged:  nothing has changed, {}", scan(&root, &view)?.id() == before.id());
    let swapped = staged.journal(b"what the next process is told, should this one die", None)?.swap()?;
    println!("swapped: {} operations in {:?}", swapped.report().applied, swapped.report().window);
    let committed = swapped.commit()?;
    println!("durable: as it must be, {}", scan(&root, &view)?.id() == required.id());
    assert!(committed.report.is_success());

    let report = updater.undo(Reason::Asked)?;
    println!("undone:  as before, {}, in {:?}", scan(&root, &view)?.id() == before.id(), report.window);
    Ok(())
}

fn scan(root: &Root, view: &View) -> Result<Snapshot, Box<dyn Error>> {
    Ok(Scanner::new(root.clone(), Arc::new(view.clone())).scan(&Cancel::default())?.snapshot)
}

/// Takes in the contents a plan needs: from the golden directory here, from a store or a network elsewhere.
fn fetch(updater: &Updater, plan: &Plan, from: &Snapshot, golden: &Path) -> Result<(), Box<dyn Error>> {
    let mut missing = plan.objects();
    let mut intake = updater.objects().intake();
    for path in plan.paths() {
        let Some((id, size)) = from.inode(path).and_then(|inode| inode.object()) else { continue };
        if missing.remove(&id).is_some() {
            intake.begin(id, size)?;
            intake.data(&fs::read(golden.join(path.to_string().trim_start_matches('/')))?)?;
        }
    }
    intake.finish()?;
    Ok(())
}

fn make_tree(root: &Path, greeting: &str) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/motd"), greeting)?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::set_permissions(root.join("etc/passwd"), PermissionsExt::from_mode(0o644))?;
    Ok(())
}

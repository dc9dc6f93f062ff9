//! For tests only: does one thing to a root, on one thread, so that it can be killed at any system call; and cuts the
//! power of a file-system.
//!
//! ```text
//! crash-victim update|try ROOT FAULT PLAN
//! crash-victim undo|clean-up|recover|first-start|second-start|overdue ROOT FAULT
//! crash-victim cut MOUNTPOINT
//! ```
//!
//! Says what it promises, in a line of its own, once it is so.
#![allow(clippy::print_stdout, reason = "that is how it promises")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::plan::Plan;
use dominator_core::port::UpdateReport;
use dominator_fs::root::Root;
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::update::{BootId, Judged, Reason, Trial, Updater};
use dominator_fs_testkit::crash::Fault;
use dominator_fs_testkit::scenario::view_of;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["cut", at] => cut(Path::new(at)),
        ["update", root, fault, plan] => {
            let plan = Plan::decode(&std::fs::read(plan)?)?;
            let (root, mut updater) = open(root, fault)?;
            wholly(&updater.apply(&plan, &view_of(&root))?)?;
            println!("promised: new");
            Ok(())
        }
        ["undo", root, fault] => {
            open(root, fault)?.1.undo(Reason::Asked)?;
            println!("promised: old");
            Ok(())
        }
        ["clean-up", root, fault] => {
            let (_, mut updater) = open(root, fault)?;
            println!("promised: new");
            updater.clean_up()?;
            Ok(())
        }
        ["recover", root, fault] => {
            open(root, fault)?;
            println!("promised: new");
            Ok(())
        }
        ["try", root, fault, plan] => {
            let plan = Plan::decode(&std::fs::read(plan)?)?;
            let (root, mut updater) = open(root, fault)?;
            let trial = Trial { deadline: Duration::from_secs(60), judged: Judged::AfterServices };
            let journalled = updater.begin(&plan, &view_of(&root))?.stage()?.journal(b"", Some(trial))?;
            wholly(&journalled.swap()?.commit()?.report)?;
            updater.accept()?;
            println!("promised: accepted");
            Ok(())
        }
        ["first-start", root, fault] => {
            Updater::open_at_boot(Root::open(Path::new(root))?, seam(fault), BootId::of(b"first"))?;
            println!("promised: counted");
            Ok(())
        }
        ["second-start", root, fault] => {
            Updater::open_at_boot(Root::open(Path::new(root))?, seam(fault), BootId::of(b"cut off"))?;
            println!("promised: old");
            Ok(())
        }
        ["overdue", root, fault] => {
            open(root, fault)?.1.undo_on_record(Reason::Overdue)?;
            println!("promised: old");
            Ok(())
        }
        other => Err(format!("{other:?} is nothing this program does").into()),
    }
}

fn wholly(report: &UpdateReport) -> Result<(), Box<dyn Error>> {
    if report.is_success() { Ok(()) } else { Err(format!("{report:?}").into()) }
}

fn open(root: &str, fault: &str) -> Result<(Root, Updater), Box<dyn Error>> {
    let root = Root::open(Path::new(root))?;
    let (updater, _) = Updater::open(root.clone(), seam(fault))?;
    Ok((root, updater))
}

fn seam(fault: &str) -> Arc<dyn Seam> {
    let kernel: Arc<dyn Seam> = Arc::new(Kernel);
    match Fault::named(fault) {
        Some(fault) => fault.into_seams()(kernel),
        None => kernel,
    }
}

/// What is not on the disk by now never will be.
#[expect(unsafe_code, reason = "no crate offers this call")]
fn cut(at: &Path) -> Result<(), Box<dyn Error>> {
    /// Without the log, as a power cut does.
    const NO_LOG_FLUSH: u32 = 2;
    let dir = std::fs::File::open(at)?;
    // SAFETY: both ext4 and xfs take a pointer to a number of 32 bits here, which they read.
    unsafe {
        let shutdown = rustix::ioctl::Setter::<{ rustix::ioctl::opcode::read::<u32>(b'X', 125) }, u32>::new(
            NO_LOG_FLUSH,
        );
        rustix::ioctl::ioctl(&dir, shutdown)?;
    }
    Ok(())
}

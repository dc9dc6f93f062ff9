use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::{left_out, needs_root};

const NONE: Option<&str> = None;

/// Runs a test where it may mount things that nobody else sees, and that are gone when it ends; without the privilege it
/// says that it does not.
///
/// # Panics
/// When the test does.
pub fn with_mounts(name: &'static str, test: impl FnOnce() + Send + 'static) {
    if !needs_root(name) {
        return;
    }
    let outcome = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            return left_out(name, &format!("mounts of its own are refused: {error}"));
        }
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("mounts of its own");
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Mounts an empty file-system in memory at `at`. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn mount_tmpfs(at: &Path, options: &str) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
}

/// Mounts a file or directory at another place as well. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn mount_bind(from: &Path, at: &Path) {
    mount(Some(from), at, NONE, MsFlags::MS_BIND, NONE).expect("a bind mount");
}

/// Mounts several directories, one over the other, at `at`; nothing can be written there. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn mount_overlay(at: &Path, layers: &[&str]) {
    let options = format!("lowerdir={}", layers.join(":"));
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(&*options)).expect("an overlay");
}

/// Mounts a directory at `at` that can be written to: `upper` takes what changes, with `work` beside it on the same
/// file-system, and what `lower` has is seen through it. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn mount_layers(at: &Path, lower: &Path, upper: &Path, work: &Path) {
    let [lower, upper, work] = [lower, upper, work].map(Path::display);
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(&*options)).expect("an overlay");
}

/// Makes what is mounted at `at` writable, or not. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn remount(at: &Path, access: Access) {
    let flags = match access {
        Access::Read => MsFlags::MS_RDONLY,
        Access::Write => MsFlags::empty(),
    };
    let remounted = || mount(NONE, at, NONE, MsFlags::MS_REMOUNT | flags, NONE);
    let mut attempts = 0;
    // A process that another test starts at this moment has all that is open until it becomes another program.
    while let Err(error) = remounted() {
        attempts += 1;
        assert!(error == Errno::EBUSY && attempts < 60_000, "{error}: it can't be remounted");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a mount is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Writing as well.
    Write,
}

/// Takes away what is mounted at `at`, also when it is in use. Only within [`with_mounts`].
///
/// # Panics
/// When it can't be.
pub fn unmount(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).expect("no mount any more");
}

use dominator_core::port::UpdateReport;

use super::Updater;
use super::journal::Journal;
use super::step::Prepared;
use crate::mounts::Mounts;
use crate::publish::Durable;

/// An update on its way: what it is in the state of is its second type, and each state has only what may be done next.
///
/// ```text
/// Updater::begin → Fetched → stage → Staged → journal → Journalled → swap → Swapped → commit → Committed
/// ```
///
/// ```no_run
/// # use dominator_core::{plan::Plan, view::View};
/// # fn update(plan: &Plan, view: &View) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use dominator_fs::{root::Root, seam::Kernel, update::{Reason, Updater}};
///
/// let root = Root::open("/srv/machine".as_ref())?;
/// let (mut updater, _what_became_of_the_one_before) = Updater::open(root, Arc::new(Kernel))?;
/// let journalled = updater.begin(plan, view)?.stage()?.journal(b"a note to whoever comes after a crash", None)?;
/// let committed = journalled.swap()?.commit()?;
/// if !committed.report.is_success() {
///     updater.undo(Reason::Unhealthy)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// Until `swap` nothing in view has changed, and [`Update::abandon`] gives the objects back. Dropping an update that was
/// journalled leaves it to be finished or undone when the root is opened next.
#[derive(Debug)]
#[must_use = "an update changes nothing until it is swapped, and is not durable until it is committed"]
pub struct Update<'u, S> {
    pub(super) updater: &'u mut Updater,
    pub(super) state: S,
}

/// All objects are here and there is room for what they will become.
#[derive(Debug)]
pub struct Fetched<'p> {
    pub(super) checked: super::fetched::Checked<'p>,
}

/// Every new inode exists beside the tree, durable and with its final metadata.
#[derive(Debug)]
pub struct Staged {
    pub(super) prepared: Prepared,
}

/// What will be done, and how to take it back, is on the disk.
#[derive(Debug)]
pub struct Journalled {
    pub(super) prepared: Prepared,
    pub(super) journal: Journal,
    pub(super) mounts: Mounts,
}

/// Every path is as it must be, but might not be after a power cut.
#[derive(Debug)]
pub struct Swapped {
    pub(super) prepared: Prepared,
    pub(super) journal: Journal,
    pub(super) report: UpdateReport,
}

/// An update that is in place and survives a power cut. It can be undone until it is cleaned up.
#[derive(Debug)]
pub struct Committed {
    /// What was done.
    pub report: UpdateReport,
    /// Evidence.
    pub durable: Durable,
}

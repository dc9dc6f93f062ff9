use std::time::Duration;

use super::{Operation, Plan};
use crate::inode::Kind;
use crate::path::ImagePath;

/// A plan as people read it: before it is carried out, and in the record of what was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanSummary {
    /// How many directories are made.
    pub directories: u64,
    /// How many files are put in place.
    pub files: u64,
    /// How many symbolic links.
    pub symlinks: u64,
    /// How many devices and pipes.
    pub specials: u64,
    /// How many hard links are made.
    pub links: u64,
    /// Of how many inodes only metadata change.
    pub metadata: u64,
    /// How many paths are deleted.
    pub deletions: u64,
    /// How much the files hold, in bytes.
    pub bytes: u64,
    /// What is done to services, in order.
    pub services: Vec<PlannedAction>,
    /// What stays although the image does not have it, as it holds what is not in view or is mounted on; at most
    /// [`PlanSummary::MAX_PATHS`].
    pub kept: Vec<ImagePath>,
    /// What is never looked at; at most [`PlanSummary::MAX_PATHS`].
    pub protected: Vec<ImagePath>,
    /// How long paths will be changing, about.
    pub window: Duration,
}

/// What is done to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAction {
    /// Which.
    pub service: String,
    /// What: `stop`, `start`, `reload`, `restart` or `reboot`.
    pub action: String,
}

impl PlanSummary {
    /// How many paths are named at most in each place.
    pub const MAX_PATHS: usize = 100;
    /// How many actions are named at most.
    pub const MAX_ACTIONS: usize = 5000;
    /// About how long the swap takes for one operation; `docs/performance.md` has what was measured.
    const WINDOW_OF_OPERATION: Duration = Duration::from_micros(20);

    /// What the operations are.
    pub fn of(plan: &Plan) -> Self {
        let mut summary = Self::default();
        for operation in &plan.operations {
            summary.count(operation);
        }
        let operations = u32::try_from(plan.operations.len()).unwrap_or(u32::MAX);
        summary.window = Self::WINDOW_OF_OPERATION.saturating_mul(operations);
        summary
    }

    /// The same with what is done to services.
    #[must_use]
    pub fn with_services(mut self, services: impl IntoIterator<Item = PlannedAction>) -> Self {
        self.services = services.into_iter().take(Self::MAX_ACTIONS).collect();
        self
    }

    /// The same with what stays and what is not looked at.
    #[must_use]
    pub fn with_paths<'a>(
        mut self,
        kept: impl IntoIterator<Item = &'a ImagePath>,
        protected: impl IntoIterator<Item = &'a ImagePath>,
    ) -> Self {
        self.kept = kept.into_iter().take(Self::MAX_PATHS).cloned().collect();
        self.protected = protected.into_iter().take(Self::MAX_PATHS).cloned().collect();
        self
    }

    /// How many operations there are.
    pub fn operations(&self) -> u64 {
        [
            self.directories,
            self.files,
            self.symlinks,
            self.specials,
            self.links,
            self.metadata,
            self.deletions,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    fn count(&mut self, operation: &Operation) {
        let counter = match operation {
            Operation::MakeDirectory { .. } => &mut self.directories,
            Operation::Put { inode, .. } => match &inode.kind {
                Kind::Regular { size, .. } => {
                    self.bytes = self.bytes.saturating_add(*size);
                    &mut self.files
                }
                Kind::Computed { .. } => &mut self.files,
                Kind::Symlink { .. } => &mut self.symlinks,
                Kind::BlockDevice { .. }
                | Kind::CharDevice { .. }
                | Kind::Fifo { .. }
                // Plans put neither of these.
                | Kind::Directory { .. }
                | Kind::Unknown { .. } => &mut self.specials,
            },
            Operation::Link { .. } => &mut self.links,
            Operation::SetMetadata { .. } => &mut self.metadata,
            Operation::Delete { .. } => &mut self.deletions,
        };
        *counter += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::{Inode, Mode, Timestamp, Xattrs};
    use crate::object::ObjectId;

    #[test]
    fn a_summary_counts_every_operation_once_and_what_files_hold() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let put = |name: &str, kind| Operation::Put {
            path: path(name),
            inode: Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind },
        };
        let file = |size| Kind::Regular { mtime: Timestamp::default(), size, object: ObjectId::of(b"x") };
        let target = b"a".to_vec().into();
        let plan = Plan {
            operations: vec![
                put("/a", file(10)),
                put("/b", file(5)),
                put("/l", Kind::Symlink { target }),
                put("/p", Kind::Fifo { mtime: Timestamp::default() }),
                Operation::Link { path: path("/c"), target: path("/a") },
                Operation::Delete { path: path("/d"), directory: true },
            ],
        };
        let kept = [path("/k")];
        let summary = PlanSummary::of(&plan).with_paths(&kept, []);
        assert_eq!((summary.files, summary.bytes, summary.symlinks, summary.specials), (2, 15, 1, 1));
        assert_eq!((summary.links, summary.deletions, summary.operations()), (1, 1, 6));
        assert_eq!((summary.kept.as_slice(), summary.window), (&kept[..], Duration::from_micros(120)));
    }
}

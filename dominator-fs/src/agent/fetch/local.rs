use std::collections::BTreeSet;

use dominator_core::plan::{Operation, Plan};
use dominator_core::port::UpdateReport;

use super::super::Shared;
use super::super::activation::Unmade;
use crate::scan::Scan;
use crate::update::{Local, Updater};

type Made = Result<UpdateReport, Unmade>;

/// Makes an update, with contents from files of the machine where objects were not fetched because of them. What turns out
/// not to be there any more is fetched next time.
pub(in crate::agent) fn with_local(
    shared: &Shared,
    scan: &Scan,
    plan: &Plan,
    updater: &mut Updater,
    make: &mut dyn FnMut(&mut Updater) -> Made,
) -> Made {
    let mut made = make(updater);
    if let Some(missing) = made.as_ref().err().and_then(Unmade::missing) {
        let wanted = missing.iter().copied().filter(|id| !shared.is_distrusted(id)).collect();
        let going: BTreeSet<_> = plan.operations.iter().filter_map(deleted).collect();
        let local = Local::find(&scan.snapshot, &wanted, |path| going.contains(path));
        if !local.is_empty() {
            tracing::info!(objects = local.len(), "contents are taken from files of the machine");
            updater.offer(local);
            made = make(updater);
            updater.offer(Local::default());
        }
    }
    match &made {
        Ok(_) => shared.distrusted().clear(),
        Err(unmade) => shared.distrusted().extend(unmade.missing().into_iter().flatten()),
    }
    made
}

fn deleted(operation: &Operation) -> Option<&dominator_core::path::ImagePath> {
    if let Operation::Delete { path, directory: false } = operation { Some(path) } else { None }
}

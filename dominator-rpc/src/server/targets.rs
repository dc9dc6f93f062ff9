//! What calls are about, in the words of the audit log: enough to find it again, never all of it.

use std::fmt::Write as _;

use dominator_core::image::ImageName;
use dominator_core::port::{FetchRequest, Reconfiguration, RemovedConflicts, UpdateRequest};

/// How many paths of an update are named.
const PATHS: usize = 8;

/// What an update is to make, and of what; its first paths when it is to make no image, as when a file is pushed.
pub(super) fn update(order: &UpdateRequest) -> String {
    let count = order.plan.operations.len();
    match (&order.image, &order.sparse) {
        (Some(image), None) => format!("image {image}, {count} operations"),
        (None, Some(sparse)) => format!("sparse image {sparse}, {count} operations"),
        (Some(image), Some(sparse)) => {
            format!("image {image} and sparse image {sparse}, {count} operations")
        }
        (None, None) => {
            let mut text = format!("no image, {count} operations");
            for (nth, path) in order.plan.paths().take(PATHS).enumerate() {
                let separator = if nth == 0 { ": " } else { ", " };
                // Writing to a string does not fail.
                write!(text, "{separator}{path}").unwrap_or_default();
            }
            if order.plan.paths().count() > PATHS {
                text.push_str(" and more");
            }
            text
        }
    }
}

/// How much is fetched, and from where.
pub(super) fn fetch(order: &FetchRequest) -> String {
    format!("{} objects from {}", order.needs.objects.len(), order.sources.join(", "))
}

/// Of which image bad memories are forgotten.
pub(super) fn forgive(image: Option<&ImageName>) -> String {
    image.map_or_else(|| "all images".into(), |image| format!("image {image}"))
}

/// Which limits become what.
pub(super) fn configuration(change: &Reconfiguration) -> String {
    let percent = |name, share: Option<_>| share.map(|share| format!("{name} {share}"));
    let words = [
        percent("cpu", change.cpu),
        percent("scan speed", change.scan_speed),
        percent("network speed", change.network_speed),
        change.network_bytes.map(|bytes| format!("network {bytes} bytes/s")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What was removed of what undoing had kept.
pub(super) fn removed(removed: &RemovedConflicts) -> String {
    let mut text = format!("{} bytes", removed.bytes);
    for path in removed.paths.iter().take(PATHS) {
        write!(text, ", {path}").unwrap_or_default();
    }
    if removed.more > 0 || removed.paths.len() > PATHS {
        text.push_str(" and more");
    }
    text
}

//! Updates take effect on real machines: systemd as process 1, `subd` as one of its services, and nginx, cron and services
//! of ours that are reloaded, restarted and stopped. Takes minutes, root, mmdebstrap and a mirror; it is run when
//! `DOMINATOR_MACHINES` is set, and says so when it is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod agent;
mod health;
mod rules;
mod services;
mod stage;
mod unit;

use dominator_testkit::{is_root, say};

/// Whether machines can be made here.
fn has_machines(test: &str) -> bool {
    if std::env::var_os("DOMINATOR_MACHINES").is_none() {
        say(&format!("{test} was not run: DOMINATOR_MACHINES is not set"));
        return false;
    }
    assert!(is_root(test), "a machine can't be made without root");
    true
}

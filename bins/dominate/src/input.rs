use std::ffi::OsStr;
use std::path::Path;

use dominator_core::filter::Filter;
use dominator_core::trigger::Triggers;
use dominator_daemon::{Failure, input};

/// The filter a flag names: none leaves nothing alone, an empty name makes a sparse image.
pub(crate) fn filter(named: Option<&OsStr>) -> Result<Filter, Failure> {
    named.map_or(Ok(Filter::Empty), |name| input::filter(Path::new(name)))
}

/// The triggers a flag names.
pub(crate) fn triggers(path: Option<&Path>) -> Result<Triggers, Failure> {
    path.map_or_else(|| Ok(Triggers::default()), input::triggers)
}

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use dominator_core::filter::{Filter, Lines};
use dominator_core::trigger::Triggers;
use dominator_daemon::{During, Failure};

/// The longest filter file, in bytes: every line as long as it may be.
const MAX_FILTER: usize = Lines::MAX_LINES * (Lines::MAX_LINE + 2);

/// The filter a flag names: none leaves nothing alone, an empty name makes a sparse image.
pub(crate) fn filter(named: Option<&OsStr>) -> Result<Filter, Failure> {
    match named {
        None => Ok(Filter::Empty),
        Some(name) if name.is_empty() => Ok(Filter::Sparse),
        Some(name) => {
            let path = Path::new(name);
            let what = || format!("{} is no filter file", path.display());
            let text = String::from_utf8(read(path, MAX_FILTER)?).during(what)?;
            Filter::parse(&text).during(what)
        }
    }
}

/// The triggers a flag names.
pub(crate) fn triggers(path: Option<&Path>) -> Result<Triggers, Failure> {
    let Some(path) = path else { return Ok(Triggers::default()) };
    let json = read(path, Triggers::MAX_JSON)?;
    Triggers::from_json(&json).during(|| format!("{} is no file of triggers", path.display()))
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let what = || format!("can't read {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).during(what)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).during(what)?;
    if bytes.len() > limit {
        return Err(Failure::new(format!("{} is longer than the {limit} bytes it may have", path.display())));
    }
    Ok(bytes)
}

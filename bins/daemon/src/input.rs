//! Filters, triggers and health checks from files that people name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use dominator_core::filter::{BadFilter, Filter, Lines, Lint};
use dominator_core::health::HealthChecks;
use dominator_core::trigger::Triggers;

use crate::failure::{During, Failure};

/// The longest filter file, in bytes: every line as long as it may be.
pub const MAX_FILTER: usize = Lines::MAX_LINES * (Lines::MAX_LINE + 2);

/// The filter in a file; an empty name makes a sparse image.
///
/// # Errors
/// [`Failure`], naming the file, when it can't be read, is longer than [`MAX_FILTER`], or is no filter.
pub fn filter(path: &Path) -> Result<Filter, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(Filter::Sparse);
    }
    parse_filter(path, Filter::parse)
}

/// The filter in a file, line by line, to be looked at.
///
/// # Errors
/// As [`filter`].
pub fn lint(path: &Path) -> Result<Lint, Failure> {
    parse_filter(path, Lint::of)
}

fn parse_filter<T>(path: &Path, parse: impl Fn(&str) -> Result<T, BadFilter>) -> Result<T, Failure> {
    let what = || format!("{} is no filter file", path.display());
    let text = String::from_utf8(read(path, MAX_FILTER)?).during(what)?;
    parse(&text).during(what)
}

/// The triggers in a file; an empty name is none.
///
/// # Errors
/// [`Failure`], naming the file, when it can't be read, is longer than [`Triggers::MAX_JSON`], or is no list of triggers.
pub fn triggers(path: &Path) -> Result<Triggers, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(Triggers::default());
    }
    let json = read(path, Triggers::MAX_JSON)?;
    Triggers::from_json(&json).during(|| format!("{} is no file of triggers", path.display()))
}

/// The health checks in a file.
///
/// # Errors
/// [`Failure`], naming the file, when it can't be read, is longer than [`HealthChecks::MAX_JSON`], or is none.
pub fn health(path: &Path) -> Result<HealthChecks, Failure> {
    let json = read(path, HealthChecks::MAX_JSON)?;
    HealthChecks::from_json(&json).during(|| format!("{} is no file of health checks", path.display()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::chain;

    #[test]
    fn a_file_that_is_none_is_named_and_an_empty_name_is_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines");
        std::fs::write(&path, [b'/', 0xff]).unwrap();
        for error in [filter(&path).unwrap_err(), triggers(&path).unwrap_err(), health(&path).unwrap_err()] {
            assert!(chain(&error).contains("lines is no fil"), "{error}");
        }
        std::fs::write(&path, vec![b' '; Triggers::MAX_JSON + 1]).unwrap();
        assert!(triggers(&path).unwrap_err().to_string().contains("longer than"));
        assert_eq!(filter(Path::new("")).unwrap(), Filter::Sparse);
        assert_eq!(triggers(Path::new("")).unwrap(), Triggers::default());
    }
}

//! The one error of the binaries: what was being done, and why it failed.

use std::error::Error;
use std::fmt;

use dominator_core::port::Chain;

/// Something a daemon or tool tried and could not do. Libraries say whose fault it is; a binary adds what it was for.
#[derive(Debug)]
pub struct Failure {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// The failure of `what`, which `source` explains.
    pub fn caused(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Says what was being done when a result went wrong.
pub trait During<T> {
    /// Turns the error into the [`Failure`] of `what`.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure::caused(what(), source))
    }
}

/// An error with all its causes, outermost first, on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_every_cause_once() {
        let inner = Failure::caused("can't read /x", std::io::Error::other("disk on fire"));
        let outer = Failure::caused("can't start", inner);
        assert_eq!(chain(&outer), "can't start: can't read /x: disk on fire");
        assert_eq!(
            chain(&Failure::caused("disk on fire", std::io::Error::other("disk on fire"))),
            "disk on fire"
        );
    }
}

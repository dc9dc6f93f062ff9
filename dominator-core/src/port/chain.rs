use std::error::Error;
use std::fmt;

/// Shows an error with all its causes, outermost first, on one line; what a wrapper only repeats is said once.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let words = cause.to_string();
            if !said.ends_with(&words) {
                write!(f, ": {words}")?;
                said = words;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Told {
        words: &'static str,
        source: Option<Box<Told>>,
    }

    #[test]
    fn every_cause_is_named_once() {
        let told = |words, source: Option<Told>| Told { words, source: source.map(Box::new) };
        let disk = || told("disk on fire", None);
        let outer = told("can't start", Some(told("can't read /x", Some(disk()))));
        assert_eq!(Chain(&outer).to_string(), "can't start: can't read /x: disk on fire");
        let repeated = told("can't read: disk on fire", Some(told("disk on fire", Some(disk()))));
        assert_eq!(Chain(&repeated).to_string(), "can't read: disk on fire");
    }
}

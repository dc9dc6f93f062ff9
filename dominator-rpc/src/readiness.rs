//! Whether a server can do what it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What a server needs before it can do what it is for, and what of that is missing. Clones are the same value.
///
/// A server that lives and is not ready should be left alone and given no work; one that does not live should be started
/// again.
///
/// ```
/// use dominator_rpc::readiness::Readiness;
///
/// let readiness = Readiness::new();
/// let stores = readiness.condition("stores", "they are being opened");
/// assert_eq!(readiness.missing(), [("stores", "they are being opened".to_owned())]);
/// stores.met();
/// assert!(readiness.is_ready());
/// ```
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    missing: BTreeMap<&'static str, String>,
    ending: bool,
}

/// Something without which a server is not ready. One that is dropped unmet stays so.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

/// How a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does its work.
    Ready,
    /// Something is missing.
    NotReady,
    /// It ends, and will never be ready again.
    Ending,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Of a server that needs nothing yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Needs something from now on, which is not there, and why it is not. The words are shown to everybody who asks.
    pub fn condition(&self, name: &'static str, why: impl Into<String>) -> Condition {
        let condition = Condition { name, readiness: self.clone() };
        condition.missing(why);
        condition
    }

    /// What is missing, in order of the names, and why.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let state = self.0.borrow();
        let ending = state.ending.then(|| ("running", "it was told to end".to_owned()));
        let missing = state.missing.iter().map(|(name, why)| (*name, why.clone()));
        ending.into_iter().chain(missing).collect()
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.standing() == Standing::Ready
    }

    /// How the server stands.
    pub fn standing(&self) -> Standing {
        self.0.borrow().standing()
    }

    /// Says that the server ends: it is not ready any more, whatever happens.
    pub fn end(&self) {
        self.0.send_modify(|state| state.ending = true);
    }

    /// Waits until the server ends. Safe to cancel.
    pub async fn ended(&self) {
        // The sender lives in this value, so there is no error.
        drop(self.0.subscribe().wait_for(|state| state.ending).await);
    }

    /// Waits until the server stands otherwise than `seen`, and tells how. Safe to cancel.
    pub async fn changed(&self, seen: Standing) -> Standing {
        let mut states = self.0.subscribe();
        let changed = states.wait_for(|state| state.standing() != seen).await;
        // The sender lives in this value, so there is no error.
        changed.map_or(seen, |state| state.standing())
    }
}

impl State {
    fn standing(&self) -> Standing {
        match (self.ending, self.missing.is_empty()) {
            (true, _) => Standing::Ending,
            (false, true) => Standing::Ready,
            (false, false) => Standing::NotReady,
        }
    }
}

impl Condition {
    /// It is there.
    pub fn met(&self) {
        self.readiness.0.send_if_modified(|state| state.missing.remove(self.name).is_some());
    }

    /// It is not, and why.
    pub fn missing(&self, why: impl Into<String>) {
        let why = why.into();
        self.readiness.0.send_if_modified(|state| {
            let is_news = state.missing.get(self.name) != Some(&why);
            state.missing.insert(self.name, why);
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_ready_when_nothing_is_missing_and_never_again_when_it_ends() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let [stores, certificate] =
            ["stores", "certificate"].map(|name| readiness.condition(name, "not yet"));
        stores.met();
        assert_eq!(readiness.missing(), [("certificate", "not yet".to_owned())]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.changed(Standing::NotReady).await }
        });
        certificate.met();
        assert_eq!(waiting.await.unwrap(), Standing::Ready);
        certificate.missing("it expired");
        assert_eq!(readiness.missing(), [("certificate", "it expired".to_owned())]);
        certificate.met();
        readiness.end();
        assert_eq!(readiness.standing(), Standing::Ending);
        assert_eq!(readiness.missing(), [("running", "it was told to end".to_owned())]);
    }

    #[test]
    fn what_was_given_up_stays_missing() {
        let readiness = Readiness::new();
        drop(readiness.condition("stores", "they are being opened"));
        assert!(!readiness.is_ready());
    }
}

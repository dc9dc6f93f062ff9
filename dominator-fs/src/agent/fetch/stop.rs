use dominator_core::port::{Cause, StoreError};
use tokio::sync::watch;

/// Says to a fetch that it must end: nobody waits for it any more, or something else is wanted.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Stop(watch::Sender<bool>);

/// Ends a fetch when it is dropped.
#[derive(Debug)]
pub(in crate::agent) struct Waiting(Stop);

impl Stop {
    pub(in crate::agent) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// For whoever waits for the fetch.
    pub(in crate::agent) fn waiting(&self) -> Waiting {
        Waiting(self.clone())
    }

    pub(in crate::agent) fn say(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_said(&self) -> bool {
        *self.0.borrow()
    }

    /// What comes of `work`; an error as soon as it is said.
    pub(super) async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let mut said = self.0.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as this.
            _ = said.wait_for(|said| *said) => Err(Self::error()),
            outcome = work => Ok(outcome),
        }
    }

    fn error() -> StoreError {
        let what = "what was fetched is not wanted any more".to_owned();
        StoreError::Failed { what, cause: Cause::new("the fetch was ended") }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.say();
    }
}

//! The lock of an agent, held while an order takes several steps: nobody else's orders come between.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use dominator_core::port::{Agent, AgentError, Lease, LockRequest, LockToken};
use dominator_daemon::report::remark;
use dominator_daemon::{During, Failure};

/// How long before the next renewal: two may be lost before somebody else gets the lock.
const RENEWAL: Duration = Duration::from_secs(5);

/// Does `work` with the lock of the agent, and gives that back. An agent that has no lock does without.
///
/// # Errors
/// [`Failure`] of the work, or naming who holds the lock.
pub(crate) async fn holding<T>(
    agent: &dyn Agent,
    work: impl AsyncFnOnce(Option<LockToken>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let token = LockToken(RandomState::new().build_hasher().finish());
    match agent.lock(request(token, Lease::MAX)).await {
        Ok(()) => {}
        Err(AgentError::Unsupported) => {
            remark("subtool", "the agent has no lock: others may give it orders meanwhile");
            return work(None).await;
        }
        Err(error) => return Err(error).during(|| "can't have the agent to ourselves".into()),
    }
    let result = tokio::select! {
        result = work(Some(token)) => result,
        never = renewing(agent, token) => match never {},
    };
    // A lock that is not given back ends by itself.
    drop(agent.lock(request(token, Lease::NONE)).await);
    result
}

/// A renewal that fails is tried again: if the lock was lost the agent refuses our next order and says who has it.
async fn renewing(agent: &dyn Agent, token: LockToken) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(RENEWAL).await;
        drop(agent.lock(request(token, Lease::MAX)).await);
    }
}

fn request(token: LockToken, lease: Lease) -> LockRequest {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".into());
    let mut who = format!("subtool of {user}");
    who.truncate(who.floor_char_boundary(LockRequest::MAX_WHO));
    LockRequest { token, who, lease }
}

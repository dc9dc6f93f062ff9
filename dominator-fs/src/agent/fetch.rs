//! Getting objects: from the first source that has them, as far as it keeps to the rules, the rest from the next.
//!
//! A source is believed in nothing. What it sends is counted before it is written and hashed while it is; it may neither
//! stand still nor drip. The first thing wrong ends its part, and what it did is told when no other source makes up for it.
//! No source can hold the machine: what nobody waits for any more, or is not wanted any more, is fetched no further.

mod attempt;
mod local;
mod pacing;
mod patience;
mod room;
mod stop;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::port::{AgentError, FetchReport, FetchRequest, Refusal, SourceFailure, StoreError};

pub(super) use local::with_local;
pub use patience::Patience;
pub(super) use stop::Stop;

use super::order::{Order, failed};
use super::{Shared, blocking};
use crate::update::ObjectCache;
use attempt::Attempt;
use patience::Hurry;
use room::Wanted;
use writer::Writer;

/// Gets the objects that are not here yet, until `stop` is said.
pub(super) async fn fetch(
    shared: Arc<Shared>,
    request: FetchRequest,
    stop: Stop,
) -> Result<FetchReport, AgentError> {
    shared.admit(request.lock)?;
    if let Some(words) = shared.look_at_the_switch() {
        return Err(Refusal::Stopped(words).into());
    }
    shared.may_write()?;
    let FetchRequest { needs, mut sources, lock } = request;
    sources.truncate(FetchRequest::MAX_SOURCES);
    let needs = Arc::new(needs);
    let order = Order::fetch(shared, &needs, lock, &stop).await?;
    let shared = Arc::clone(&order.shared);
    let Wanted { cache, wanted, local } =
        blocking("look for objects", move || room::wanted(&shared, &needs)).await?;
    let fetched = if wanted.is_empty() {
        Ok(FetchReport::default())
    } else {
        from_sources(&order.shared, cache, wanted, sources, &stop).await
    };
    let shared = Arc::clone(&order.shared);
    blocking("look at the disk", move || {
        shared.look_at_the_disk();
        Ok(())
    })
    .await?;
    drop(order);
    fetched.map(|report| FetchReport { local, ..report })
}

/// A source that is slower than one may expect is left for the next one, and asked again when no other had it all.
async fn from_sources(
    shared: &Arc<Shared>,
    cache: ObjectCache,
    wanted: BTreeMap<ObjectId, u64>,
    sources: Vec<String>,
    stop: &Stop,
) -> Result<FetchReport, AgentError> {
    let mut writer = Writer::new(cache, wanted);
    let (mut failures, mut slow) = (Vec::new(), Vec::new());
    let last = sources.len().saturating_sub(1);
    let mut turns: VecDeque<_> = sources
        .into_iter()
        .enumerate()
        .map(|(number, address)| (address, if number < last { Hurry::Others } else { Hurry::Nobody }))
        .collect();
    while let Some((address, hurry)) = turns.pop_front() {
        let attempt = Attempt::new(shared, &address, hurry, stop).await;
        let (after, outcome) = attempt.run(writer).await?;
        writer = after;
        match outcome.map_err(AgentError::Fetch)? {
            None => break,
            Some(_) if stop.is_said() => {
                return Err(AgentError::NotNow(
                    "the fetch was ended: nobody waits for it any more".to_owned(),
                ));
            }
            Some((object, error)) => {
                if hurry == Hurry::Others && shared.throttle.patience().is_bearable(&error) {
                    slow.push((address.clone(), Hurry::Nobody));
                }
                let failure = SourceFailure { source: address, object, error };
                tracing::warn!(%failure, "a source of objects failed");
                failures.push(failure);
            }
        }
        if turns.is_empty() {
            turns.extend(std::mem::take(&mut slow));
        }
    }
    let (mut report, missing) = writer.end();
    if missing > 0 {
        return Err(AgentError::Fetch(StoreError::Sources(failures)));
    }
    report.failed = failures.iter().map(ToString::to_string).collect();
    Ok(report)
}

/// What `work` of the writer came to, and the writer again.
async fn on_disk<T: Send + 'static>(
    mut writer: Writer,
    work: impl FnOnce(&mut Writer) -> T + Send + 'static,
) -> Result<(Writer, T), AgentError> {
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(&mut writer);
        (writer, outcome)
    });
    done.await.map_err(|error| failed("write objects", error))
}

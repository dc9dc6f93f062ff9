use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use dominator_core::backoff::{Backoff, Spread};
use dominator_core::catalog::{ImageUpdate, Position, Selection};
use dominator_core::herd::Moment;
use dominator_core::image::{ImageName, ImageState};
use dominator_core::port::{Cause, Chain, ImageError, ImageStore as _, Replication as _};
use dominator_core::replica::{Held, Settled, Task};
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::complete::complete;
use super::resuming::Resuming;
use crate::metrics::Metrics;
use crate::readiness::Condition;

/// How many names are looked at at once.
const NAMES: usize = 256;
/// The pauses after the master could not be reached: a first and a longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How often a master that tells no changes is asked for its list.
const LOOK: Duration = Duration::from_secs(2);
/// How often metrics and readiness are told how it stands.
const TELL: Duration = Duration::from_secs(1);
/// How many of the names that are newly held in one look have a line of their own in the log.
const TOLD: usize = 10;

/// Keeps a replica what its master is.
#[derive(Debug)]
pub struct Replicator {
    shared: Arc<Shared>,
    spread: Spread,
    began: Instant,
    told: Option<(Metrics, Condition)>,
}

impl Replicator {
    pub(super) fn new(shared: Arc<Shared>, spread: Spread) -> Self {
        Self { shared, spread, began: Instant::now(), told: None }
    }

    /// Tells `metrics` how it stands, and meets `condition` once all that the master has said at first is done.
    #[must_use]
    pub fn telling(self, metrics: Metrics, condition: Condition) -> Self {
        Self { told: Some((metrics, condition)), ..self }
    }

    /// Goes on until it is dropped; safe to cancel: what was fetched stays.
    pub async fn run(self) -> Infallible {
        tokio::select! {
            never = self.listen() => never,
            never = self.work() => never,
            never = self.tell() => never,
        }
    }

    async fn tell(&self) -> Infallible {
        let Some((metrics, condition)) = &self.told else { return std::future::pending().await };
        let mut is_ready = false;
        loop {
            let status = self.shared.status();
            metrics.replica(&status);
            // Later it has what it had then, whatever becomes of the master.
            is_ready |= status.in_sync;
            match (is_ready, status.trouble) {
                (true, _) => condition.met(),
                (false, Some(why)) => condition.missing(format!("its master can't be followed: {why}")),
                (false, None) => condition.missing("it does not have all yet that its master has"),
            }
            sleep(TELL).await;
        }
    }

    /// Hears what the master has, again and again.
    async fn listen(&self) -> Infallible {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, self.spread);
        let mut position = None;
        loop {
            let began = Instant::now();
            let heard = self.hear(&mut position).await;
            if began.elapsed() > PAUSES.1 {
                backoff.succeeded();
            }
            match heard {
                Ok(()) => {
                    backoff.succeeded();
                    self.reached();
                    sleep(LOOK).await;
                }
                Err(error) => {
                    self.shared.replica().lost();
                    self.not_reached(&error);
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Follows what the master tells, from `position` on, until that breaks off.
    async fn hear(&self, position: &mut Option<Position>) -> Result<(), ImageError> {
        let mut updates = match self.shared.master.images.updates(&Selection::default(), *position).await {
            Ok(updates) => updates,
            // One of a version that tells no changes is asked for all there is.
            Err(ImageError::Unsupported) => return self.ask().await,
            Err(error) => return Err(error),
        };
        self.reached();
        while let Some(update) = updates.try_next().await? {
            self.take(update, position).await?;
        }
        Err(ImageError::Unreachable(Cause::new("the stream of updates ended")))
    }

    /// What was heard is in memory before the position says so; a break in between has it told again.
    async fn take(&self, update: ImageUpdate, position: &mut Option<Position>) -> Result<(), ImageError> {
        match update {
            ImageUpdate::Begin => {
                *position = None;
                self.shared.replica().list_begins();
            }
            ImageUpdate::Image { name, .. } => self.shared.replica().listed([name]),
            ImageUpdate::Current(at) => {
                let here = self.shared.here.images.list().await?;
                self.shared.replica().list_ends(here);
                *position = Some(at);
                self.shared.news.notify_one();
            }
            ImageUpdate::Change { position: at, change } => {
                if let Some((name, _)) = change.image() {
                    self.shared.replica().changed(name.clone());
                }
                *position = Some(at);
                self.shared.news.notify_one();
            }
            ImageUpdate::Directory(_) | _ => {}
        }
        Ok(())
    }

    async fn ask(&self) -> Result<(), ImageError> {
        let there = self.shared.master.images.list().await?;
        let here = self.shared.here.images.list().await?;
        let mut replica = self.shared.replica();
        replica.list_begins();
        replica.listed(there);
        replica.list_ends(here);
        drop(replica);
        self.shared.news.notify_one();
        Ok(())
    }

    fn reached(&self) {
        if self.shared.trouble().take().is_some() {
            tracing::info!(master = self.shared.master.address, "the master is followed");
        }
    }

    fn not_reached(&self, error: &ImageError) {
        let why = Chain(error).to_string();
        let before = self.shared.trouble().replace(why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(master = self.shared.master.address, "the master can't be followed: {why}");
        }
    }

    /// Brings about, name by name, what the master has said.
    async fn work(&self) -> Infallible {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, self.spread);
        loop {
            let names = self.shared.replica().to_look_at(self.now(), NAMES);
            if names.is_empty() {
                self.wait().await;
                continue;
            }
            match self.settle(&names).await {
                Ok(()) => backoff.succeeded(),
                Err(error) => {
                    self.not_reached(&error);
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Until there may be something to look at.
    async fn wait(&self) {
        let wake_at = self.shared.replica().wake_at();
        let due = async {
            match wake_at {
                Some(at) => sleep(at.0.saturating_sub(self.now().0)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.news.notified() => {}
            () = due => {}
        }
    }

    /// Looks at names, and does what follows from it.
    ///
    /// # Errors
    /// When the master can't be reached. What was not settled then is looked at again.
    async fn settle(&self, names: &[ImageName]) -> Result<(), ImageError> {
        let there = match self.shared.master.images.states(names).await {
            Ok(states) => states,
            Err(error) => return self.settle_apart(names, error).await,
        };
        let here = match self.shared.here.images.states(names).await {
            Ok(states) => states,
            Err(error) => return self.settle_apart(names, error).await,
        };
        let mut newly_held = Vec::new();
        for ((name, here), there) in names.iter().zip(here).zip(there) {
            if let Some(why) = self.settle_one(name, here, there).await? {
                newly_held.push((name, why));
            }
        }
        tell_held(&newly_held);
        Ok(())
    }

    /// One image that can't be read must not keep the others from being looked at.
    async fn settle_apart(&self, names: &[ImageName], error: ImageError) -> Result<(), ImageError> {
        if matches!(error, ImageError::Unreachable(_)) {
            return Err(error);
        }
        if let [name] = names {
            self.shared.replica().looked(name, ImageState::Absent, ImageState::Absent, 0);
            self.failed(name, &error);
            return Ok(());
        }
        for name in names {
            Box::pin(self.settle(std::slice::from_ref(name))).await?;
        }
        Ok(())
    }

    async fn settle_one(
        &self,
        name: &ImageName,
        here: ImageState,
        there: ImageState,
    ) -> Result<Option<Held>, ImageError> {
        let settled = self.shared.replica().looked(name, here, there, self.seconds());
        let task = match settled {
            Settled::Agreed | Settled::StillHeld(_) => return Ok(None),
            Settled::NewlyHeld(why) => return Ok(Some(why)),
            Settled::Do(task) => task,
        };
        match self.perform(name, task).await {
            Ok(()) => self.shared.replica().done(name),
            Err(error @ ImageError::Unreachable(_)) => {
                self.shared.replica().interrupted(name);
                return Err(error);
            }
            Err(error) => self.failed(name, &error),
        }
        Ok(None)
    }

    fn failed(&self, name: &ImageName, error: &ImageError) {
        self.shared.replica().failed(name, self.now());
        tracing::warn!(image = %name, "what the master has was not taken over: {}", Chain(error));
    }

    async fn perform(&self, name: &ImageName, task: Task) -> Result<(), ImageError> {
        let Shared { master, here, .. } = &*self.shared;
        match task {
            Task::Delete => {
                here.images.delete(name).await?;
                tracing::info!(image = %name, "deleted, as the master or an operator has said");
            }
            Task::Fetch => {
                let image = self.with_objects(name).await?;
                match here.images.add(name, image).await {
                    // It was uploaded here meanwhile; whether it is the same is seen next time.
                    Err(ImageError::Exists { .. }) => self.shared.replica().changed(name.clone()),
                    added => added?,
                }
                tracing::info!(image = %name, "fetched from the master");
            }
            Task::Refresh | Task::Replace => {
                let image = self.with_objects(name).await?;
                here.images.replace(name, image).await?;
                let master = &master.address;
                tracing::info!(image = %name, master, "changed, as it was at the master");
            }
        }
        Ok(())
    }

    /// The master's image, all of whose objects are here.
    async fn with_objects(&self, name: &ImageName) -> Result<dominator_core::image::Image, ImageError> {
        let Shared { master, here, .. } = &*self.shared;
        let image = master.images.image(name).await?;
        let source = Resuming::new(Arc::new(master.objects.clone()), self.spread);
        complete(&*here.objects, Some(&source), &image).await?;
        Ok(Arc::unwrap_or_clone(image))
    }

    fn now(&self) -> Moment {
        Moment(self.began.elapsed())
    }

    fn seconds(&self) -> u64 {
        (self.shared.here.clock)().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
    }
}

/// Tells of images that the master does not have as they are here, and does not say were deleted.
fn tell_held(held: &[(&ImageName, Held)]) {
    for (name, why) in held.iter().take(TOLD) {
        tracing::error!(image = %name, "kept, though the master has it otherwise: {}", why.words());
    }
    if let Some(more) = held.len().checked_sub(TOLD).filter(|more| *more > 0) {
        tracing::error!(more, "kept, too; imagetool get-replication-master names them");
    }
}

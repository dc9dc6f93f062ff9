use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dominator_core::backoff::{Backoff, Spread};
use dominator_core::herd::{Required, Wanted};
use dominator_core::image::{Image, ImageName};
use dominator_core::port::{Cause, ImageError, ImageStore, MachineTraits};
use dominator_core::tree::Snapshot;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, OnceCell, Semaphore, watch};

use crate::wire::{self, text};

/// How many kinds of machines are kept in mind for one image.
const KINDS: usize = 64;
/// The pauses between two attempts to get an image: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The pause after the server did not accept our certificate, we did not accept its, or it said that we may not: only
/// somebody who changes these can mend it.
const REFUSED: Duration = Duration::from_secs(300);
/// The longest pause while the server says that there is no such image: that is soon told, and people wait for it.
const ABSENT: Duration = Duration::from_secs(2);

/// The images machines must be. Each is got once, for as long as a machine needs it.
pub(super) struct ImageCache {
    store: Arc<dyn ImageStore>,
    known: Mutex<HashMap<ImageName, Weak<KnownImage>>>,
    asked: Mutex<Vec<(Weak<KnownImage>, watch::Sender<State>)>>,
    ring: Notify,
    renewal: Notify,
    /// Which images are asked for when, in this process and not in others.
    spread: RandomState,
}

/// An image some machine must be.
pub(super) struct KnownImage {
    name: ImageName,
    state: watch::Receiver<State>,
    kinds: Mutex<Vec<Kind>>,
}

/// What an image is for machines of certain traits.
type Kind = (Arc<MachineTraits>, Arc<OnceCell<Arc<Required>>>);

#[derive(Clone)]
enum State {
    NotReady(String),
    Ready(Arc<Image>, Arc<Snapshot>),
}

impl ImageCache {
    pub(super) fn new(store: Arc<dyn ImageStore>) -> Self {
        let (known, asked) = (Mutex::default(), Mutex::default());
        Self { store, known, asked, ring: Notify::new(), renewal: Notify::new(), spread: RandomState::new() }
    }

    /// Whoever refused us may not do so any more.
    pub(super) fn renewed(&self) {
        self.renewal.notify_waiters();
    }

    /// The image of that name, which [`ImageCache::run`] gets if it is not known yet.
    pub(super) fn image(&self, name: &ImageName) -> Arc<KnownImage> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(name).and_then(Weak::upgrade) {
            return image;
        }
        known.retain(|_, image| image.strong_count() > 0);
        let (sender, state) = watch::channel(State::NotReady("being fetched".into()));
        let image = Arc::new(KnownImage { name: name.clone(), state, kinds: Mutex::default() });
        known.insert(name.clone(), Arc::downgrade(&image));
        let asked = (Arc::downgrade(&image), sender);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        self.ring.notify_one();
        image
    }

    /// Gets images as they are asked for. Never ends; dropping it ends it.
    pub(super) async fn run(&self) {
        let mut loading = FuturesUnordered::new();
        loop {
            let asked = std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
            loading.extend(asked.into_iter().map(|(image, state)| self.load(image, state)));
            tokio::select! {
                () = self.ring.notified() => {}
                Some(()) = loading.next() => {}
            }
        }
    }

    /// Tries to get one image until it is here or nobody wants it any more.
    async fn load(&self, image: Weak<KnownImage>, state: watch::Sender<State>) {
        let spread = Spread::drawn(self.spread.hash_one(Weak::as_ptr(&image)));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, spread);
        while let Some(name) = image.upgrade().map(|image| image.name.clone()) {
            // From now on, so that no renewal is missed while it is tried.
            let mut renewed = pin!(self.renewal.notified());
            renewed.as_mut().enable();
            let got = match self.store.image(&name).await {
                Ok(image) => self.store.tree(&name).await.map(|tree| State::Ready(image, tree)),
                Err(error) => Err(error),
            };
            let pause = match &got {
                Err(ImageError::NotFound { .. }) => backoff.pause_up_to(ABSENT),
                Err(error) if is_refusal(error) => backoff.refused(REFUSED),
                Ok(_) | Err(_) => backoff.pause(),
            };
            match got {
                Ok(ready) => {
                    tracing::info!(image = %name, "image is ready");
                    state.send_replace(ready);
                    return;
                }
                Err(error) => {
                    let why = text(&error);
                    tracing::warn!(image = %name, why, "image is not ready");
                    state.send_if_modified(|state| {
                        let changed = !matches!(state, State::NotReady(before) if *before == why);
                        *state = State::NotReady(why);
                        changed
                    });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = renewed => backoff.succeeded(),
            }
        }
    }
}

/// Whether a certificate, or what it lists, stands in the way: nothing that passes by itself.
fn is_refusal(error: &ImageError) -> bool {
    if let ImageError::Unreachable(cause) = error {
        return wire::is_refusal(cause);
    }
    matches!(error, ImageError::Denied(_))
}

impl KnownImage {
    /// The image as far as it is here.
    pub(super) fn wanted(&self) -> Wanted {
        match &*self.state.borrow() {
            State::NotReady(why) => Wanted::NotReady(self.name.clone(), why.clone()),
            State::Ready(image, _) => Wanted::Ready(self.name.clone(), image.clone()),
        }
    }

    /// Tells when it has become something else.
    pub(super) fn changes(&self) -> ImageChanges {
        ImageChanges(self.state.clone())
    }

    /// What a machine of these traits must be: made once for all machines alike, on a thread that may take its time.
    pub(super) async fn required(
        &self,
        traits: Arc<MachineTraits>,
        room: &Semaphore,
    ) -> Result<Arc<Required>, Cause> {
        let State::Ready(image, tree) = self.state.borrow().clone() else {
            return Err(Cause::new("the image is not there any more"));
        };
        let kind = self.kind(&traits);
        let made = kind.get_or_try_init(async || {
            let room = room.acquire().await.map_err(Cause::new)?;
            let name = self.name.clone();
            let made = tokio::task::spawn_blocking(move || Required::new(name, image, &tree, traits)).await;
            drop(room);
            made.map(Arc::new).map_err(Cause::new)
        });
        made.await.cloned()
    }

    fn kind(&self, traits: &Arc<MachineTraits>) -> Arc<OnceCell<Arc<Required>>> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kind)) = kinds.iter().find(|(known, _)| known == traits) {
            return kind.clone();
        }
        if kinds.len() >= KINDS {
            kinds.remove(0);
        }
        let kind = Arc::new(OnceCell::new());
        kinds.push((traits.clone(), kind.clone()));
        kind
    }
}

/// The changes of an image.
pub(super) struct ImageChanges(watch::Receiver<State>);

impl ImageChanges {
    /// Waits for the next change; for ever, when there are no more. Safe to cancel.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::transport::ConnectError;

    /// A server that has no images.
    #[derive(Default)]
    struct Empty {
        asked: AtomicUsize,
    }

    #[async_trait]
    impl ImageStore for Empty {
        async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
            Ok(Vec::new())
        }

        async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Err(ImageError::NotFound { name: name.clone() })
        }

        async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
            Err(ImageError::NotFound { name: name.clone() })
        }

        async fn add(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
            Ok(())
        }

        async fn delete(&self, _: &ImageName) -> Result<(), ImageError> {
            Ok(())
        }
    }

    /// A server that does not take us.
    #[derive(Default)]
    struct Strict(Empty);

    #[async_trait]
    impl ImageStore for Strict {
        async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
            self.0.list().await
        }

        async fn image(&self, _: &ImageName) -> Result<Arc<Image>, ImageError> {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            let address = "images:6971".into();
            let refusal = ConnectError::Rejected { address, reason: "it was revoked".into() };
            Err(ImageError::Unreachable(Cause::new(refusal)))
        }

        async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
            self.0.tree(name).await
        }

        async fn add(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
            Ok(())
        }

        async fn delete(&self, _: &ImageName) -> Result<(), ImageError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_us_is_seldom_asked_and_at_once_with_another_certificate() {
        let store = Arc::new(Strict::default());
        let cache = ImageCache::new(store.clone());
        let image = cache.image(&"web/1".parse().unwrap());
        let asked = || store.0.asked.load(Ordering::Relaxed);
        assert!(tokio::time::timeout(REFUSED / 2 - RETRY.0, cache.run()).await.is_err());
        assert_eq!(asked(), 1);
        assert!(matches!(image.wanted(), Wanted::NotReady(_, why) if why.contains("it was revoked")));
        drop(image);
        let image = cache.image(&"web/2".parse().unwrap());
        let renewal = async {
            while asked() < 2 {
                tokio::task::yield_now().await;
            }
            cache.renewed();
            while asked() < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = cache.run() => {}
            () = renewal => {}
        }
        drop(image);
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_that_is_not_there_yet_is_soon_asked_for_again() {
        let store = Arc::new(Empty::default());
        let cache = ImageCache::new(store.clone());
        let image = cache.image(&"web/1".parse().unwrap());
        let minute = tokio::time::timeout(Duration::from_secs(60), cache.run());
        assert!(minute.await.is_err(), "it goes on asking");
        let asked = store.asked.load(Ordering::Relaxed);
        assert!((29..=62).contains(&asked), "{asked} times in a minute");
        assert!(matches!(image.wanted(), Wanted::NotReady(_, why) if why.contains("no image web/1")));
    }
}

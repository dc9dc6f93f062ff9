use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::backoff::{Backoff, Spread};
use dominator_core::port::ImageStore;

use crate::wire::text;

/// The longest pause between two looks: an image may be added that ends sooner than all others, and clocks are set.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest pause after an image could not be removed.
const RETRY: Duration = Duration::from_secs(60);

/// Removes images as their time comes by `clock`, at most a second later. Never ends; dropped, it leaves whole images.
pub async fn expire_images(images: Arc<dyn ImageStore>, clock: fn() -> SystemTime) -> Infallible {
    let mut backoff = Backoff::new(PAUSE, RETRY, Spread::drawn(0));
    loop {
        let now = clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        let pause = match images.expire(now.as_secs()).await {
            Ok(next) => {
                backoff.succeeded();
                let left = next.map(|end| Duration::from_secs(end).saturating_sub(now));
                left.map_or(PAUSE, |left| left.clamp(SHORTEST, PAUSE))
            }
            Err(error) => {
                tracing::warn!(why = text(&error), "images that have expired can't be removed");
                backoff.pause()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use dominator_core::image::{Image, ImageName};
    use dominator_core::port::{Cause, ImageError};
    use dominator_core::tree::Snapshot;

    use super::*;

    static NOW: AtomicU64 = AtomicU64::new(1000);

    fn clock() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::Relaxed))
    }

    /// One image that ends, and a disk that may fail.
    #[derive(Default)]
    struct Store {
        end: AtomicU64,
        broken: AtomicUsize,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl ImageStore for Store {
        async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
            Ok(Vec::new())
        }

        async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
            Err(ImageError::NotFound { name: name.clone() })
        }

        async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
            Err(ImageError::NotFound { name: name.clone() })
        }

        async fn add(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
            Err(ImageError::Unsupported)
        }

        async fn delete(&self, name: &ImageName) -> Result<(), ImageError> {
            Err(ImageError::NotFound { name: name.clone() })
        }

        async fn expire(&self, now: u64) -> Result<Option<u64>, ImageError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let end = self.end.load(Ordering::Relaxed);
            if end == 0 || end > now {
                return Ok((end > 0).then_some(end));
            }
            if self.broken.load(Ordering::Relaxed) > 0 {
                self.broken.fetch_sub(1, Ordering::Relaxed);
                return Err(ImageError::Failed { what: "no".into(), cause: Cause::new("rot") });
            }
            self.end.store(0, Ordering::Relaxed);
            Ok(None)
        }
    }

    /// Lets so much time pass, second by second.
    async fn pass(seconds: u64) {
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            NOW.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_ends_in_its_time_also_when_it_came_later_or_the_disk_failed_for_a_while() {
        let store = Arc::new(Store::default());
        let there = |store: &Store| store.end.load(Ordering::Relaxed) > 0;
        let images = store.clone();
        let ending = async move { match expire_images(images, clock).await {} };
        let story = async {
            pass(10).await;
            store.end.store(clock().duration_since(UNIX_EPOCH).unwrap().as_secs() + 5, Ordering::Relaxed);
            pass(5).await;
            assert!(there(&store), "not before its time");
            pass(2).await;
            assert!(!there(&store), "nor long after it");
            store.broken.store(3, Ordering::Relaxed);
            store.end.store(1, Ordering::Relaxed);
            pass(120).await;
            assert!(!there(&store), "tried again until it could be");
            let before = store.asked.load(Ordering::Relaxed);
            pass(60).await;
            let asked = store.asked.load(Ordering::Relaxed) - before;
            assert!((30..=90).contains(&asked), "{asked} looks in a minute");
        };
        tokio::select! {
            () = ending => {}
            () = story => {}
        }
    }
}

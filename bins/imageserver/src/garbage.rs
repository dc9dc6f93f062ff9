//! When what no image needs goes.

use std::convert::Infallible;

use clap::Args;
use dominator_core::garbage::Thresholds;
use dominator_core::port::{Chain, ImageError};
use dominator_daemon::value::Duration;
use dominator_daemon::{During, Failure};
use dominator_fs::store::ports::LocalImages;
use tokio::time::{Instant, sleep};

/// How often the disk is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);
/// How often it is found out what all images need, unless the disk is full: to hold a number of bytes, or after there was
/// nothing to collect.
const THOROUGH: std::time::Duration = std::time::Duration::from_secs(600);

/// What becomes of objects that no image needs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Objects that no image needs")]
pub struct GarbageOptions {
    /// Keep them for that long after they were uploaded or needed last
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub keep_objects: Duration,
    /// Delete the oldest when less than this share of the disk is free, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5)]
    pub collect_below: u8,
    /// Go on until this share is, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    pub collect_until: u8,
    /// Delete the oldest when they have more bytes than that, however much is free
    #[arg(long, value_name = "BYTES")]
    pub max_garbage: Option<u64>,
}

impl GarbageOptions {
    /// When they are collected.
    ///
    /// # Errors
    /// [`Failure`] when that makes no sense.
    pub fn thresholds(&self) -> Result<Thresholds, Failure> {
        let thresholds = Thresholds::new(self.collect_below, self.collect_until, self.max_garbage);
        thresholds.during(|| "can't use --collect-below and --collect-until".into())
    }
}

/// Collects garbage for as long as it is polled; what is under way when it is dropped is finished on its own.
pub(crate) async fn collect(images: LocalImages, thresholds: Thresholds) -> Infallible {
    let mut thorough = Instant::now();
    let mut pause = None;
    loop {
        sleep(LOOK).await;
        let now = Instant::now();
        let is_time = now >= thorough;
        if pause.is_some_and(|until| now < until) && !is_time {
            continue;
        }
        if is_time {
            thorough = now + THOROUGH;
        }
        let collected = images.relieve(thresholds, is_time).await;
        pause =
            rest(collected.as_ref().map(|collected| collected.as_ref().map(|one| one.removed.objects)), now);
    }
}

/// Until when the disk is left alone, however full it is.
fn rest(removed: Result<Option<u64>, &ImageError>, now: Instant) -> Option<Instant> {
    match removed {
        Ok(None) => None,
        Ok(Some(0)) => Some(now + THOROUGH),
        Ok(Some(_)) => None,
        Err(error) => {
            tracing::error!("no garbage was collected: {}", Chain(error));
            Some(now + THOROUGH)
        }
    }
}

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

/// How slow a peer may be. Only time that is spent waiting for it counts.
#[derive(Debug)]
pub(super) struct Pace {
    /// After how much waiting it is looked how much came, and how much that must be.
    window: Duration,
    least: u64,
    waited: Duration,
    bytes: u64,
    /// Since when is waited.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// So many bytes a second, in the mean of `window`.
    pub(super) fn new(window: Duration, bytes_per_second: u64) -> Self {
        let least = window.as_secs().max(1).saturating_mul(bytes_per_second);
        Self { window, least, waited: Duration::ZERO, bytes: 0, since: None, timer: None }
    }

    /// The peer has to be waited for. Ready once that was too long.
    pub(super) fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let since = *self.since.get_or_insert_with(Instant::now);
            let due = since + self.window.saturating_sub(self.waited);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.bytes < self.least {
                return Poll::Ready(());
            }
            (self.waited, self.bytes, self.since) = (Duration::ZERO, 0, None);
        }
    }

    /// So much came, or was taken; for now there is nothing to wait for.
    pub(super) fn came(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

/// What a caller sends, as long as it comes.
pub(super) struct Paced {
    inner: Body,
    pace: Pace,
}

impl Paced {
    pub(super) fn new(inner: Body, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl http_body::Body for Paced {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            this.pace.came(data.map_or(0, bytes::Bytes::len));
            return Poll::Ready(frame);
        }
        this.pace.poll_wait(context).map(|()| {
            let (bytes, window) = (this.pace.bytes, this.pace.window.as_secs());
            let text = format!("too slow: {bytes} bytes of the call came in {window} s of waiting");
            Some(Err(Status::deadline_exceeded(text)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    async fn waits(pace: &mut Pace, time: Duration) -> Option<()> {
        timeout(time, poll_fn(|context| pace.poll_wait(context))).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_drips_is_found_out_however_often_and_who_is_just_fast_enough_is_not() {
        let second = Duration::from_secs(1);
        for (each, patience) in [(99, 9), (112, 50)] {
            let mut pace = Pace::new(WINDOW, 100);
            let mut waited = 0;
            while waited < 50 && waits(&mut pace, second).await.is_none() {
                pace.came(each);
                waited += 1;
            }
            // What comes in the last second of a window comes too late for it.
            assert_eq!(waited, patience, "{each} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_not_spent_waiting_does_not_count() {
        let mut pace = Pace::new(WINDOW, 100);
        for _ in 0..5 {
            assert_eq!(waits(&mut pace, Duration::from_secs(1)).await, None);
            pace.came(1);
            advance(WINDOW * 10).await;
        }
        assert_eq!(waits(&mut pace, WINDOW).await, Some(()));
    }
}

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::mpsc;
use tonic::Status;

/// A stream that does the work that fills it, so that whoever drops it ends the work, too.
pub(super) struct Driven<T> {
    work: Option<BoxFuture<'static, Result<(), Status>>>,
    items: mpsc::Receiver<T>,
    failed: Option<Status>,
}

impl<T> Driven<T> {
    /// What `work` sends, then its error, if it ends with one.
    pub(super) fn new(
        work: impl Future<Output = Result<(), Status>> + Send + 'static,
        items: mpsc::Receiver<T>,
    ) -> Self {
        Self { work: Some(work.boxed()), items, failed: None }
    }
}

impl<T> Stream for Driven<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(work) = &mut this.work
            && let Poll::Ready(result) = work.poll_unpin(context)
        {
            // Drops the sender with the work, so that the items end.
            this.work = None;
            this.failed = result.err();
        }
        match this.items.poll_recv(context) {
            Poll::Ready(Some(item)) => Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) => Poll::Ready(this.failed.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

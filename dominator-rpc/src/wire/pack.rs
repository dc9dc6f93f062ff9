use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{BoxStream, Fuse};
use futures_util::{Stream, StreamExt as _};

/// Something that takes room in a message.
pub(crate) trait Weighed {
    /// About how many bytes.
    fn weight(&self) -> usize;
}

/// Gathers what is there at once into messages of bounded size, and never waits for more.
pub(crate) struct Packed<T, E> {
    items: Fuse<BoxStream<'static, Result<T, E>>>,
    limit: usize,
    failed: Option<E>,
}

impl<T, E> Packed<T, E> {
    /// Messages of `items` that end with the item that reaches `limit` bytes.
    pub(crate) fn new(items: impl Stream<Item = Result<T, E>> + Send + 'static, limit: usize) -> Self {
        Self { items: items.boxed().fuse(), limit, failed: None }
    }
}

impl<T: Weighed, E: Unpin> Stream for Packed<T, E> {
    type Item = Result<Vec<T>, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < this.limit {
            let next = match this.items.poll_next_unpin(context) {
                Poll::Ready(next) => next,
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            match next {
                Some(Ok(item)) => {
                    weight += item.weight();
                    batch.push(item);
                }
                // What came before the error is delivered first.
                Some(Err(error)) if batch.is_empty() => return Poll::Ready(Some(Err(error))),
                Some(Err(error)) => {
                    this.failed = Some(error);
                    break;
                }
                None if batch.is_empty() => return Poll::Ready(None),
                None => break,
            }
        }
        Poll::Ready(Some(Ok(batch)))
    }
}

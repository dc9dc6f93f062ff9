use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;

use crate::limits;

/// How many messages wait for those who take them.
const QUEUE: usize = 4;

/// A stream that is filled by a task of its own. Whoever drops the stream ends the work.
///
/// A caller who takes nothing would never poll the stream again, and what the work holds (files, threads, permits)
/// would be held for ever. The task gives up by itself.
pub(super) struct Driven<T> {
    items: mpsc::Receiver<T>,
    work: JoinSet<Result<(), Status>>,
}

/// Where the work puts what it makes.
#[derive(Clone)]
pub(super) struct Items<T>(mpsc::Sender<T>);

impl<T> Items<T> {
    /// Waits until the item is taken up.
    ///
    /// # Errors
    /// When nobody takes it: the work is to end.
    pub(super) async fn give(&self, item: T) -> Result<(), Status> {
        match timeout(limits::STALL, self.0.send(item)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the caller has gone")),
            Err(_) => {
                let limit = limits::STALL.as_secs();
                Err(Status::deadline_exceeded(format!("the caller took nothing for {limit} s")))
            }
        }
    }
}

impl<T: Send + 'static> Driven<T> {
    /// What the work gives, then its error, if it ends with one.
    pub(super) fn new<W>(work: impl FnOnce(Items<T>) -> W) -> Self
    where
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, items) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(work(Items(sender)));
        Self { items, work: tasks }
    }

    /// The items of another stream.
    pub(super) fn stream(source: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Self {
        Self::new(async move |items: Items<T>| {
            let mut source = std::pin::pin!(source);
            while let Some(item) = source.next().await {
                items.give(item?).await?;
            }
            Ok(())
        })
    }
}

impl<T> Stream for Driven<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(item) = ready!(this.items.poll_recv(context)) {
            return Poll::Ready(Some(Ok(item)));
        }
        let ended = ready!(this.work.poll_join_next(context));
        Poll::Ready(match ended {
            None | Some(Ok(Ok(()))) => None,
            Some(Ok(Err(status))) => Some(Err(status)),
            Some(Err(error)) => Some(Err(Status::internal(format!("the work broke off: {error}")))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::sync::oneshot;
    use tonic::Code;

    #[tokio::test(start_paused = true)]
    async fn what_a_call_holds_is_let_go_when_its_caller_takes_nothing() {
        let (held, let_go) = oneshot::channel::<()>();
        let endless = stream::repeat_with(move || Ok::<_, Status>(held.is_closed()));
        let mut answer = Driven::stream(endless);
        // The stream is not polled, as it is with a caller whose window is full.
        assert!(let_go.await.is_err(), "dropped by the work");
        let mut rest = Vec::new();
        while let Some(item) = answer.next().await {
            rest.push(item);
        }
        assert!(rest.len() <= QUEUE + 1, "{}", rest.len());
        assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), Code::DeadlineExceeded, "no clean end");
    }

    #[tokio::test]
    async fn dropping_the_answer_ends_the_work() {
        let (held, let_go) = oneshot::channel::<()>();
        let answer = Driven::<()>::new(async move |_| {
            let _held = held;
            std::future::pending().await
        });
        drop(answer);
        assert!(let_go.await.is_err());
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_made_before_it() {
        let failing = stream::iter([Ok(1), Err(Status::data_loss("rot")), Ok(2)]);
        let mut answer = Driven::stream(failing);
        assert_eq!(answer.next().await.unwrap().unwrap(), 1);
        assert_eq!(answer.next().await.unwrap().unwrap_err().code(), Code::DataLoss);
        assert!(answer.next().await.is_none());
    }
}

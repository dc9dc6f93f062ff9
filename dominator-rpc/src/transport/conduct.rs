use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use thiserror::Error;
use tokio::sync::Notify;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::bounds::Bounds;
use super::connection::Peer;
use super::pace::{Pace, Paced};

/// Why a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum End {
    #[error("others need its place, and it has more places than they")]
    Displaced,
    #[error("it said nothing after the handshake")]
    Silent,
    #[error("it does not take what is sent to it")]
    Deaf,
    #[error("it gives up more calls than it waits for")]
    Fickle,
}

impl End {
    /// In a word, for metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Displaced => "displaced",
            Self::Silent => "silent",
            Self::Deaf => "deaf",
            Self::Fickle => "fickle",
        }
    }
}

/// How a peer behaves on one connection.
#[derive(Debug)]
pub(super) struct Conduct {
    /// How many more calls it may give up.
    credit: AtomicU32,
    most: u32,
    why: OnceLock<End>,
    ended: Notify,
}

impl Conduct {
    /// `most` calls may be given up; each that is not earns one back.
    pub(super) fn new(most: u32) -> Self {
        Self { credit: AtomicU32::new(most), most, why: OnceLock::new(), ended: Notify::new() }
    }

    /// The connection has to end. What was said first counts.
    pub(super) fn end(&self, why: End) {
        if self.why.set(why).is_ok() {
            self.ended.notify_one();
        }
    }

    /// Waits until the connection has to end. For one at a time.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(why) = self.why() {
                return why;
            }
            self.ended.notified().await;
        }
    }

    pub(super) fn why(&self) -> Option<End> {
        self.why.get().copied()
    }

    fn waited_for(&self) {
        let earn = |credit: u32| (credit < self.most).then(|| credit + 1);
        // Whoever has all credit there is earns none.
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn).ok();
    }

    fn given_up(&self) {
        let spend = |credit: u32| credit.checked_sub(1);
        if self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err() {
            self.end(End::Fickle);
        }
    }
}

/// The layer that looks how peers behave: how slowly they send, and how many calls they give up.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    bounds: Arc<Bounds>,
}

impl Watch {
    pub(super) fn new(bounds: Arc<Bounds>) -> Self {
        Self { bounds }
    }
}

impl<S> Layer<S> for Watch {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, bounds: self.bounds.clone() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Watched<S> {
    inner: S,
    bounds: Arc<Bounds>,
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = request.extensions().get::<Peer>().map(|peer| Call(peer.conduct.clone()));
        let pace = Pace::new(self.bounds.stall, self.bounds.slowest);
        let answer = self.inner.call(request.map(|body| Body::new(Paced::new(body, pace))));
        Box::pin(async move {
            let answer = answer.await?;
            Ok(match call {
                Some(call) => answer.map(|body| call.answered(body)),
                None => answer,
            })
        })
    }
}

/// A call under way. Dropped before its end, it was given up.
struct Call(Option<Arc<Conduct>>);

impl Call {
    fn answered(mut self, body: Body) -> Body {
        if body.is_end_stream() {
            self.end();
            return body;
        }
        Body::new(Answer { inner: body, call: self })
    }

    fn end(&mut self) {
        if let Some(conduct) = self.0.take() {
            conduct.waited_for();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(conduct) = self.0.take() {
            conduct.given_up();
        }
    }
}

/// An answer that is being taken.
struct Answer {
    inner: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(context));
        // Whatever comes after what was said last is not asked for.
        if frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) {
            this.call.end();
        }
        Poll::Ready(frame)
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
    use super::*;

    #[tokio::test]
    async fn who_gives_up_more_calls_than_it_waits_for_has_to_go() {
        let conduct = Arc::new(Conduct::new(2));
        let call = || Call(Some(conduct.clone()));
        for _ in 0..10 {
            drop(call());
            assert!(call().answered(Body::empty()).is_end_stream(), "an answer that is nothing but its end");
        }
        drop((call(), call()));
        assert_eq!(conduct.why(), None);
        drop(call());
        assert_eq!(conduct.ended().await, End::Fickle);
        conduct.end(End::Silent);
        assert_eq!(conduct.ended().await, End::Fickle, "the first reason counts");
    }
}

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;

use super::Caller;
use super::layer::not_asked;
use super::record::UnderWay;
use super::shares::Share;

pin_project! {
    /// A call behind the door, or its refusal. What it holds is let go with the end of the answer, or when either is dropped.
    #[project = State]
    #[derive(Debug)]
    pub enum Running<F> {
        #[doc(hidden)]
        UnderWay { #[pin] answer: F, held: Option<Held> },
        #[doc(hidden)]
        Refused { status: Option<Box<Status>> },
    }
}

/// What a call holds until its end.
#[derive(Debug)]
#[doc(hidden)]
pub struct Held {
    under_way: UnderWay,
    _share: Option<Share>,
}

impl<F> Running<F> {
    pub(super) fn new(answer: F, caller: Caller, share: Option<Share>) -> Self {
        Self::UnderWay { answer, held: Some(Held { under_way: UnderWay::new(caller), _share: share }) }
    }

    pub(super) fn refused(status: Status) -> Self {
        Self::Refused { status: Some(Box::new(status)) }
    }
}

impl<F, E> Future for Running<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            State::UnderWay { answer, held: place } => {
                let Some(held) = place.as_mut() else { return Poll::Ready(Ok(twice().into_http())) };
                let response = ready!(held.under_way.poll(|| answer.poll(context)))?;
                let response = match held.under_way.caller().was_asked() || is_refusal(&response) {
                    true => response,
                    false => not_asked(held.under_way.caller().method()).into_http(),
                };
                held.under_way.answered();
                held.under_way.ended_by(response.headers());
                Poll::Ready(Ok(match place.take() {
                    Some(held) => response.map(|body| Body::new(Told { held, body })),
                    None => response,
                }))
            }
            State::Refused { status } => {
                let status = status.take().map_or_else(twice, |it| *it);
                Poll::Ready(Ok(status.into_http()))
            }
        }
    }
}

fn twice() -> Status {
    Status::internal("polled after its end")
}

/// Whether an answer is nothing but an error.
fn is_refusal(response: &Response<Body>) -> bool {
    response.headers().get(Status::GRPC_STATUS).is_some_and(|status| status != "0")
}

/// An answer on its way. It has all that the call holds to its end.
struct Told {
    held: Held,
    body: Body,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, held: Held { under_way, .. } } = &mut *self;
        let frame = ready!(under_way.poll(|| Pin::new(body).poll_frame(context)));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    under_way.ended_by(trailers);
                }
            }
            Some(Err(status)) => under_way.ended_with(status),
            None => under_way.ended(),
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

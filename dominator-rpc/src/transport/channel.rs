use std::task::{Context, Poll};

use dominator_core::auth::Powers;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::channel::ResponseFuture;
use tower::Service;

use crate::auth::waive_powers;

/// A connection to a server, and whether our powers are used there: what clients that tonic generates call through.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    powers: Powers,
}

impl Channel {
    pub(super) const fn new(inner: tonic::transport::Channel, powers: Powers) -> Self {
        Self { inner, powers }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.powers {
            Powers::Used => {}
            Powers::Waived => waive_powers(request.headers_mut()),
        }
        Service::call(&mut self.inner, request)
    }
}

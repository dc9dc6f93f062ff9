use bytes::Bytes;
use tonic::Status;

use super::invalid;
use crate::limits;

/// Joins the parts of an encoding, up to a limit.
#[derive(Debug)]
pub(crate) struct Collector {
    what: &'static str,
    bytes: Vec<u8>,
    limit: usize,
}

impl Collector {
    /// Will join `what`, at most `limit` bytes of it.
    pub(crate) fn new(what: &'static str, limit: usize) -> Self {
        Self { what, bytes: Vec::new(), limit }
    }

    /// Appends a part, if it still fits.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<(), Status> {
        if part.len() > self.limit - self.bytes.len() {
            let (what, limit) = (self.what, self.limit);
            return Err(Status::resource_exhausted(format!("{what} of more than {limit} bytes")));
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    /// All parts.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// An encoding in parts that fit into messages; one empty part for an empty encoding.
pub(crate) fn chunks(encoding: impl Into<Bytes>) -> impl Iterator<Item = Bytes> + Send {
    let mut rest = Some(encoding.into());
    std::iter::from_fn(move || {
        let mut part = rest.take()?;
        if part.len() > limits::CHUNK {
            rest = Some(part.split_off(limits::CHUNK));
        }
        Some(part)
    })
}

/// Decodes on a thread that may take its time: compiling filters and reading long plans would hold up a worker.
pub(crate) async fn decode<T: Send + 'static>(
    what: &'static str,
    decode: impl FnOnce() -> Result<T, dominator_core::DecodeError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(decode).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(invalid(format!("{what} can't be read: {error}"))),
        Err(error) => Err(Status::internal(format!("reading {what} was broken off: {error}"))),
    }
}

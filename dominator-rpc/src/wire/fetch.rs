use dominator_core::plan::Needs;
use dominator_core::port::{FetchReport, FetchRequest, LockToken};
use tonic::Status;

use super::{invalid, needed, readable};
use crate::v1::fetch_request::Part;
use crate::{limits, v1};

/// An order to fetch, in parts.
pub(crate) fn fetch_parts(request: FetchRequest) -> Vec<v1::FetchRequest> {
    let mut sources = request.sources.into_iter();
    let begin = v1::FetchRequest {
        part: Some(Part::Source(sources.next().unwrap_or_default())),
        more_sources: sources.collect(),
        inodes: request.needs.inodes,
        lock: request.lock.map(|token| token.0),
    };
    let objects: Vec<_> = request.needs.objects.into_iter().collect();
    let objects = objects.chunks(limits::IDS).map(|some| v1::FetchRequest {
        part: Some(Part::Objects(needed(some))),
        ..v1::FetchRequest::default()
    });
    std::iter::once(begin).chain(objects).collect()
}

/// What an order to fetch begins with: all of it but the objects.
pub(crate) fn fetch_beginning(begin: v1::FetchRequest) -> Result<FetchRequest, Status> {
    let v1::FetchRequest { part: Some(Part::Source(first)), more_sources, inodes, lock } = begin else {
        return Err(invalid("an order to fetch that does not begin with a source"));
    };
    if more_sources.len() >= FetchRequest::MAX_SOURCES {
        return Err(invalid(format!("more than {} sources", FetchRequest::MAX_SOURCES)));
    }
    let sources: Vec<_> =
        std::iter::once(first).chain(more_sources).filter(|source| !source.is_empty()).collect();
    if sources.iter().any(|source| source.len() > limits::ADDRESS) {
        return Err(invalid("the address of a source that is too long"));
    }
    let needs = Needs { inodes, ..Needs::default() };
    Ok(FetchRequest { needs, sources, lock: lock.map(LockToken) })
}

pub(crate) fn fetch_reply(report: FetchReport) -> v1::FetchReply {
    let FetchReport { objects, bytes, local, failed } = report;
    v1::FetchReply { objects, bytes, local, failed }
}

pub(crate) fn fetch_reply_from(reply: v1::FetchReply) -> FetchReport {
    let failed = reply.failed.iter().take(FetchRequest::MAX_SOURCES).map(|text| readable(text)).collect();
    FetchReport { objects: reply.objects, bytes: reply.bytes, local: reply.local, failed }
}

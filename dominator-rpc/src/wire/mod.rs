//! Between the protocol's messages and the core's types. Everything that comes in is parsed here, or refused.

mod agent;
mod collect;
mod failure;
mod ids;
mod pack;
mod pieces;
mod poll;

pub(crate) use agent::{
    configuration, configuration_from, image_name, reconfiguration, reconfiguration_from, traits_from,
    update_reply, update_reply_from,
};
pub(crate) use collect::{Collector, chunks, decode};
pub(crate) use failure::{
    agent_error, agent_status, cause, image_error, image_status, invalid, readable, said, store_error,
    store_status, text,
};
pub(crate) use ids::{digest, ids, ids_from, sized, sized_from};
pub(crate) use pack::{Packed, Weighed};
pub(crate) use pieces::{Assembler, Breach, Sequence, encodings, length, pack_pieces, unpack};
pub(crate) use poll::{
    Held, details_from, poll_reply, poll_request, poll_request_from, scanned_from, status_from,
    without_numbers,
};

//! Between the protocol's messages and the core's types. Everything that comes in is parsed here, or refused.

mod agent;
mod amount;
mod catalog;
mod codec;
mod collect;
mod compress;
mod condition;
mod directory;
mod failure;
mod fetch;
mod files;
mod ids;
mod pack;
mod pieces;
mod poll;
mod replication;
mod update;

pub(crate) use agent::{
    configuration, configuration_from, image_name, reconfiguration, reconfiguration_from, traits_from,
};
pub(crate) use amount::{amount, amount_from};
pub(crate) use catalog::{
    entry_len, expiry_refusal, expiry_refusal_from, latest, latest_from, position, position_from, selection,
    selection_from, update, update_from,
};
pub(crate) use codec::Codec;
pub(crate) use collect::{Collector, chunks, decode};
pub(crate) use compress::{Packing, Presses};
pub(crate) use condition::{removed, removed_from};
pub(crate) use directory::{directory, directory_from, directory_name, group, group_from};
pub(crate) use failure::{
    agent_error, agent_status, cause, image_error, image_status, invalid, is_refusal, readable, said,
    store_error, store_status, text,
};
pub(crate) use fetch::{fetch_beginning, fetch_parts, fetch_reply, fetch_reply_from};
pub(crate) use files::{Files, file_parts, files_request, files_request_from};
pub(crate) use ids::{digest, ids, ids_from, needed, needed_from, sized, sized_from};
pub(crate) use pack::{Packed, Weighed};
pub(crate) use pieces::{
    Assembler, Breach, Sequence, encodings, length, pack_pieces, pack_rest, unpack, unpack_rest,
};
pub(crate) use poll::{
    Held, details_from, poll_reply, poll_request, poll_request_from, scanned_from, status_from,
    without_numbers,
};
pub(crate) use replication::{image_state, image_state_from, replication_status, replication_status_from};
pub(crate) use update::{
    record, record_from, service_outcome, service_outcome_from, update_reply, update_reply_from,
};

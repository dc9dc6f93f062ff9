//! Objects that no image needs: they go, oldest first, when that is wanted; everything else stays, whatever happens
//! meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "a test may fail by panicking"
)]

mod collect;
mod fsck;
mod full;
mod index;
mod support;

//! Where an image server, or an embedder, keeps things: [`objects`] by their digest, [`images`] by their name, and
//! [`cluster`] state by key. All of it is ordinary files below one directory each, used by one process at a time, and
//! what was acknowledged survives a power cut. `docs/formats/store.md` says what the files look like.
//!
//! What is not here: collection of objects that no image needs any more, and replication.

pub mod cluster;
mod home;
pub mod images;
pub mod objects;
#[cfg(feature = "tokio")]
pub mod ports;

//! Where an image server, or an embedder, keeps things: [`objects`] by their digest, [`images`] by their name, and
//! [`cluster`] state by key. All of it is ordinary files below one directory each, used by one process at a time, and
//! what was acknowledged survives a power cut. `docs/formats/store.md` says what the files look like.
//!
//! Objects that no image needs any more go when [`images::ImageStore::collect`] is called. What is not here: replication.

pub mod cluster;
mod home;
pub mod images;
pub mod objects;
#[cfg(feature = "tokio")]
pub mod ports;

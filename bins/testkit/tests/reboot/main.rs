//! Updates that need another start of the machine, on a whole computer with its own kernel, under emulation, whose power can
//! be cut at any moment. Takes minutes, root, mmdebstrap, a mirror and qemu; it is run when `DOMINATOR_MACHINES` is set, and
//! says so when it is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod kernel;
mod scenario;

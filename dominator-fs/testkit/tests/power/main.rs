//! Real processes that are really killed, at every system call they make to the file-system, and real file-systems whose
//! power is cut there: whatever is left, the recovery copes with it. Decision 13 tells how. Needs root and strace.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

mod case;
mod ground;
mod sweep;
mod trial;

//! The `subd` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    give_memory_back();
    dominator_daemon::daemon(subd::DAEMON, |options: &subd::Options| &options.common, subd::serve)
}

/// An agent needs tens of MiB for the moments of an update, and a few for the days between. The GNU allocator keeps what was
/// freed: in an arena for each thread, and, once large pieces were freed, in the heap where such pieces lie from then on. With
/// few arenas and a fixed limit, the most an agent ever takes was 45 MiB instead of 66 with 39,000 files to put in place.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "neither the standard library nor nix has this call")]
fn give_memory_back() {
    use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, mallopt};
    // SAFETY: no other thread runs yet, and numbers are all that is handed over. What is refused stays as it is by default.
    unsafe {
        mallopt(M_ARENA_MAX, 2);
        mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    }
}

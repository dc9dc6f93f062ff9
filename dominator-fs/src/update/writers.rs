use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::root::open_file;
use crate::seam::At;

/// Whether nobody has a file open for writing, or mapped. Where that can't be found out, somebody may have.
pub(super) fn has_none(at: At<'_>) -> bool {
    open_file(at).and_then(|file| can_be_leased(file.as_fd())).unwrap_or(false)
}

/// The kernel gives a lease for reading only on a file that is open for writing nowhere. It is given back when the file is
/// closed, before anybody who opens it meanwhile has waited for long.
#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
fn can_be_leased(file: impl AsFd) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    // Who opens the file for writing meanwhile has the kernel send a signal to this process, which would end it: this one
    // is ignored by all that have not asked for it.
    // SAFETY: neither call reads or writes memory of this process, and the descriptor is open.
    let leased = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0 && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    Ok(leased)
}

/// Which signal is sent; libc has it for some systems only.
const F_SETSIG: libc::c_int = 10;

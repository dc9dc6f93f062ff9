//! Opening directories by what the file-system itself calls them: the one thing no library does for us here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use super::record::Handle;

/// `struct file_handle` with all the room it may take.
#[repr(C)]
struct Raw {
    len: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; MAX],
}

/// The longest handle the kernel takes or gives.
const MAX: usize = 128;
const LONGEST: libc::c_uint = 128;

/// Opens the directory only as a place, on the mount `mount` is on. Needs `CAP_DAC_READ_SEARCH`.
///
/// # Errors
/// What the kernel says; `ESTALE` when it is gone.
#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
pub(super) fn open_directory(mount: BorrowedFd<'_>, handle: Handle<'_>) -> io::Result<OwnedFd> {
    let mut raw = Raw { len: 0, kind: handle.kind, bytes: [0; MAX] };
    let (Some(place), Ok(len)) = (raw.bytes.get_mut(..handle.bytes.len()), handle.bytes.len().try_into())
    else {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    };
    place.copy_from_slice(handle.bytes);
    raw.len = len;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `raw` lives through the call, is laid out as a `file_handle`, and has room for as many bytes as it says. What
    // the call returns, if no error, is a new descriptor nobody else owns.
    unsafe {
        let opened = libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags);
        if opened < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(opened)) }
    }
}

/// Opens an open directory once more, by its handle: finds out whether that can be done.
///
/// # Errors
/// What the kernel says; `EOPNOTSUPP` when the file-system has no handles, `EPERM` when this process may not use them.
#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
pub(super) fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut raw = Raw { len: LONGEST, kind: 0, bytes: [0; MAX] };
    let mut mount = 0;
    // SAFETY: `raw` lives through the call, is laid out as a `file_handle`, and has as much room as it says. The name is a
    // string of C, and `mount` an int, as the call wants them.
    let outcome = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = usize::try_from(raw.len).ok().and_then(|len| raw.bytes.get(..len)).unwrap_or_default();
    open_directory(directory, Handle { kind: raw.kind, bytes })
}

//! What the file-system itself calls a file or directory, whatever names it has, and opening it by that: the one thing no
//! library does for us here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

/// A file or directory as the file-system names it: what `name_to_handle_at` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Handle<'a> {
    pub(crate) kind: i32,
    pub(crate) bytes: &'a [u8],
}

/// As [`Handle`], on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedHandle {
    pub(crate) kind: i32,
    pub(crate) bytes: Vec<u8>,
}

impl OwnedHandle {
    pub(crate) fn as_handle(&self) -> Handle<'_> {
        Handle { kind: self.kind, bytes: &self.bytes }
    }
}

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
pub(crate) fn open_directory(mount: BorrowedFd<'_>, handle: Handle<'_>) -> io::Result<OwnedFd> {
    open(mount, handle, libc::O_PATH | libc::O_DIRECTORY)
}

/// Opens a file or directory for reading, waiting for nothing. As [`open_directory`] otherwise.
///
/// # Errors
/// As there.
pub(crate) fn open_file(mount: BorrowedFd<'_>, handle: Handle<'_>) -> io::Result<OwnedFd> {
    open(mount, handle, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW)
}

#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
fn open(mount: BorrowedFd<'_>, handle: Handle<'_>, how: libc::c_int) -> io::Result<OwnedFd> {
    let mut raw = Raw { len: 0, kind: handle.kind, bytes: [0; MAX] };
    let (Some(place), Ok(len)) = (raw.bytes.get_mut(..handle.bytes.len()), handle.bytes.len().try_into())
    else {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    };
    place.copy_from_slice(handle.bytes);
    raw.len = len;
    // SAFETY: `raw` lives through the call, is laid out as a `file_handle`, and has room for as many bytes as it says. What
    // the call returns, if no error, is a new descriptor nobody else owns.
    unsafe {
        let opened = libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), how | libc::O_CLOEXEC);
        if opened < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(opened)) }
    }
}

/// Opens an open directory once more, by its handle: finds out whether that can be done.
///
/// # Errors
/// What the kernel says; `EOPNOTSUPP` when the file-system has no handles, `EPERM` when this process may not use them.
pub(crate) fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_directory(directory, of(directory)?.as_handle())
}

/// The handle of an open file or directory.
///
/// # Errors
/// What the kernel says; `EOPNOTSUPP` when the file-system has none.
#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
pub(crate) fn of(file: BorrowedFd<'_>) -> io::Result<OwnedHandle> {
    let mut raw = Raw { len: LONGEST, kind: 0, bytes: [0; MAX] };
    let mut mount = 0;
    // SAFETY: `raw` lives through the call, is laid out as a `file_handle`, and has as much room as it says. The name is a
    // string of C, and `mount` an int, as the call wants them.
    let outcome = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
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
    Ok(OwnedHandle { kind: raw.kind, bytes: bytes.to_vec() })
}

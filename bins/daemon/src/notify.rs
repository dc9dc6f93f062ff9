//! What systemd is told of a service of `Type=notify`, in datagrams of lines (see sd_notify(3)).

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use std::{io, process};

/// Where it listens, if it does.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a service may say nothing, in microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Of which process that is said: children have the same environment.
const WATCHED: &str = "WATCHDOG_PID";

/// Tells the service manager, if there is one that wants to know. Nobody waits for it: a datagram that it has no room for
/// is dropped.
pub(crate) fn tell(words: &str) {
    let Some(socket) = env::var_os(SOCKET) else { return };
    if let Err(error) = send(socket.as_bytes(), words) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}

fn send(socket: &[u8], words: &str) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(words.as_bytes(), &address).map(drop)
}

/// How often the service manager wants to hear that the process is not stuck: twice in the time it has.
pub(crate) fn watchdog() -> Option<Duration> {
    let read = |name| env::var(name).ok();
    interval(read(WATCHDOG).as_deref(), read(WATCHED).as_deref(), process::id())
}

fn interval(limit: Option<&str>, watched: Option<&str>, own: u32) -> Option<Duration> {
    let limit: u64 = limit?.parse().ok()?;
    let is_ours = watched.is_none_or(|watched| watched.parse() == Ok(own));
    (is_ours && limit > 0).then(|| Duration::from_micros(limit) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_at_a_path_and_at_a_name_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("dominator-notify-{}", process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (listener, socket) in
            [(by_path, path.as_os_str().as_bytes().to_vec()), (by_name, [b"@", name.as_bytes()].concat())]
        {
            send(&socket, "READY=1\nSTATUS=x").unwrap();
            let mut words = [0; 64];
            let length = listener.recv(&mut words).unwrap();
            assert_eq!(words.get(..length), Some(b"READY=1\nSTATUS=x".as_slice()));
        }
        assert!(send(b"/nowhere/at/all", "READY=1").is_err());
    }

    #[test]
    fn a_watchdog_is_for_the_process_it_names() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (limit, watched, expected) in [
            (Some("20000000"), None, seconds(10)),
            (Some("20000000"), Some("7"), seconds(10)),
            (Some("20000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(interval(limit, watched, 7), expected, "{limit:?} {watched:?}");
        }
    }
}

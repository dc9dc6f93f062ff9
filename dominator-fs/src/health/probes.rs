use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dominator_core::health::Address;
use dominator_core::path::ImagePath;
use dominator_core::port::{ServiceRunner, ServiceState, Unhealthy};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::service::{Ended, Leftovers, run_limited};

/// Runs a program; all it started in its group ends with it.
pub(super) fn command(words: &[String], limit: Duration) -> Result<(), Unhealthy> {
    let (program, arguments) = words.split_first().ok_or_else(|| wrong("there is no command"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    match run_limited(command, limit, Leftovers::Killed) {
        Ok(Ended::Exited { status, .. }) if status.success() => Ok(()),
        Ok(Ended::Exited { status, output }) if output.is_empty() => Err(wrong(status)),
        Ok(Ended::Exited { status, output }) => Err(wrong(format_args!("{status}: {output}"))),
        Ok(Ended::TooLate) => Err(Unhealthy::Timeout { limit }),
        Err(error) => Err(wrong(format_args!("it can't be run: {error}"))),
    }
}

/// Asks the service manager.
pub(super) fn unit(services: &dyn ServiceRunner, unit: &str) -> Result<(), Unhealthy> {
    match services.state(unit) {
        ServiceState::Running => Ok(()),
        state @ (ServiceState::Stopped | ServiceState::Failed | ServiceState::Unknown) => {
            Err(wrong(format_args!("its state is {}", state.text())))
        }
    }
}

/// Connects to the first address of the host that accepts.
pub(super) fn tcp(address: &Address, limit: Duration) -> Result<TcpStream, Unhealthy> {
    let deadline = Instant::now() + limit;
    let mut refusal = wrong("the host has no address");
    for socket in resolve(address, limit)? {
        let left = time_left(deadline, limit)?;
        match TcpStream::connect_timeout(&socket, left) {
            // Who calls a port that nobody listens at may be given that very port, and so answer himself.
            Ok(stream) if stream.local_addr().ok() == Some(socket) => refusal = wrong("nobody listens there"),
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = failed(&error, limit),
        }
    }
    Err(refusal)
}

/// Connects to a socket of the running system.
pub(super) fn unix(path: &ImagePath, limit: Duration) -> Result<(), Unhealthy> {
    let connect = || {
        let address = SocketAddrUnix::new(std::ffi::OsStr::from_bytes(path.as_bytes()))?;
        let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None)?;
        // As much as may pass until who listens there has room for one more.
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        rustix::net::connect(&socket, &address)
    };
    connect().map_err(|error| failed(&error.into(), limit))
}

/// What is left of the time, if anything is.
pub(super) fn time_left(deadline: Instant, limit: Duration) -> Result<Duration, Unhealthy> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Unhealthy::Timeout { limit }) } else { Ok(left) }
}

/// What an error of the system says about health.
pub(super) fn failed(error: &io::Error, limit: Duration) -> Unhealthy {
    let is_late = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
    if is_late { Unhealthy::Timeout { limit } } else { wrong(error) }
}

pub(super) fn wrong(why: impl ToString) -> Unhealthy {
    Unhealthy::Wrong(why.to_string())
}

/// The addresses of a host. Asking for those of a name knows no limit: a thread that waits longer is left behind, until
/// the resolver gives up.
fn resolve(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>, Unhealthy> {
    if let Ok(ip) = address.host().parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, address.port())]);
    }
    let (tell, answer) = mpsc::channel();
    let (host, port) = (address.host().to_owned(), address.port());
    let thread = std::thread::Builder::new().name("resolver".to_owned());
    let ask = move || drop(tell.send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter)));
    thread.spawn(ask).map_err(wrong)?;
    match answer.recv_timeout(limit) {
        Ok(found) => found.map_err(|error| wrong(format_args!("the host is not known: {error}"))),
        Err(_) => Err(Unhealthy::Timeout { limit }),
    }
}

//! What an image wants checked is tried for real: programs, sockets and servers of these tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::health::Probe;
use dominator_core::path::ImagePath;
use dominator_core::port::{Prober, ServiceAction, ServiceError, ServiceRunner, ServiceState, Unhealthy};
use dominator_fs::health::SystemProber;
use dominator_fs_testkit::write_script;
use rustix::net::{AddressFamily, SocketType};

/// Long enough for what should succeed.
const LONG: Duration = Duration::from_secs(60);
/// Short enough for what can't.
const SHORT: Duration = Duration::from_millis(200);

/// Services of one state.
struct All(ServiceState);

impl ServiceRunner for All {
    fn run(&self, _: ServiceAction, _: &str) -> Result<(), ServiceError> {
        Ok(())
    }

    fn state(&self, _: &str) -> ServiceState {
        self.0
    }
}

fn probe(probe: &Probe, limit: Duration) -> Result<(), Unhealthy> {
    SystemProber::new(Arc::new(All(ServiceState::Running))).probe(probe, limit)
}

fn said(result: Result<(), Unhealthy>) -> String {
    result.unwrap_err().to_string()
}

fn script(dir: &Path, text: &str) -> Probe {
    let path = dir.join("check");
    write_script(&path, &format!("#!/bin/sh\n{text}\n"));
    Probe::Command(vec![path.to_str().unwrap().to_owned(), "an argument".to_owned()])
}

/// A web server that says `answer` to one who asks, then hangs up or not; and its address.
fn server(answer: &'static [u8], hangs_up: bool) -> (std::thread::JoinHandle<String>, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        stream.write_all(answer).unwrap();
        if !hangs_up {
            // Until the other side does.
            drop(stream.read(&mut byte));
        }
        String::from_utf8(request).unwrap()
    };
    (std::thread::spawn(serve), address)
}

fn http(address: &str, status: u16) -> Probe {
    Probe::Http { url: format!("http://{address}/healthz?x").parse().unwrap(), status }
}

#[test]
fn a_command_is_well_when_it_ends_with_status_0() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(probe(&script(dir.path(), r#"test "$*" = "an argument""#), LONG), Ok(()));
    let error = said(probe(&script(dir.path(), "echo not yet; exit 7"), LONG));
    assert_eq!(error, "exit status: 7: not yet");
    let error = said(probe(&Probe::Command(vec!["/nowhere/check".into()]), LONG));
    assert!(error.starts_with("it can't be run: "), "{error}");
}

#[test]
fn a_command_leaves_nothing_running_whether_it_ends_or_hangs() {
    let dir = tempfile::tempdir().unwrap();
    for (rest, limit) in [("exit 0", LONG), ("wait", SHORT)] {
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // What it leaves holds the pipe open until it is gone.
        let check = script(dir.path(), &format!("exec 9<>{}; sleep 1000 & {rest}", fifo.display()));
        let read = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::read(fifo).unwrap()
        });
        let writer = std::fs::File::options().write(true).open(&fifo).unwrap();
        let result = probe(&check, limit);
        assert_eq!(result.is_ok(), limit == LONG, "{result:?}");
        drop(writer);
        assert_eq!(read.join().unwrap(), b"");
        std::fs::remove_file(fifo).unwrap();
    }
}

#[test]
fn a_unit_is_well_when_it_runs_and_not_when_nobody_knows() {
    for (state, expected) in [
        (ServiceState::Running, None),
        (ServiceState::Stopped, Some("its state is stopped")),
        (ServiceState::Failed, Some("its state is failed")),
        (ServiceState::Unknown, Some("its state is unknown")),
    ] {
        let result = SystemProber::new(Arc::new(All(state))).probe(&Probe::Unit("web".into()), LONG);
        assert_eq!(result.err().map(|error| error.to_string()).as_deref(), expected);
    }
}

#[test]
fn a_port_is_well_when_somebody_accepts_also_by_name() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        let address = Probe::Tcp(format!("{host}:{port}").parse().unwrap());
        assert_eq!(probe(&address, LONG), Ok(()), "{host}");
    }
    // It is taken, so that nobody else listens there; but neither does its owner.
    let taken = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = SocketAddrV4::try_from(rustix::net::getsockname(&taken).unwrap()).unwrap().port();
    let error = said(probe(&Probe::Tcp(format!("127.0.0.1:{port}").parse().unwrap()), LONG));
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn a_socket_is_well_when_somebody_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = Probe::Unix(ImagePath::parse(path.to_str().unwrap().as_bytes()).unwrap());
    let error = said(probe(&socket, LONG));
    assert!(error.contains("No such file"), "{error}");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(probe(&socket, LONG), Ok(()));
    // Nobody takes the connections that wait, until there is no room for one more.
    let mut waiting = Vec::new();
    rustix::net::listen(&listener, 0).unwrap();
    waiting.extend((0..2).map(|_| probe(&socket, SHORT)));
    assert_eq!(waiting.pop(), Some(Err(Unhealthy::Timeout { limit: SHORT })));
    drop(listener);
    let error = said(probe(&socket, LONG));
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn a_web_server_is_well_when_it_answers_with_the_status() {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let (served, address) = server(ok, false);
    assert_eq!(probe(&http(&address, 200), LONG), Ok(()), "the rest of the answer is not waited for");
    let request = served.join().unwrap();
    assert!(request.starts_with("GET /healthz?x HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: {address}\r\n")), "{request}");

    let (_, address) = server(b"HTTP/1.0 204 \r\n\r\n", true);
    assert_eq!(probe(&http(&address, 204), LONG), Ok(()));
    let (_, address) = server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", true);
    assert_eq!(probe(&http(&address, 200), LONG), Ok(()), "an answer may announce another");
    let (_, address) = server(b"HTTP/1.1 302 Found\r\nLocation: /200\r\n\r\n", true);
    assert_eq!(said(probe(&http(&address, 200), LONG)), "it answers with status 302");
    let (_, address) = server(b"HTTP/1.1 200 O", true);
    assert_eq!(said(probe(&http(&address, 200), LONG)), "it hangs up before it has answered");
    let (_, address) = server(b"220 mail ESMTP\r\n", true);
    assert!(said(probe(&http(&address, 200), LONG)).starts_with("it speaks no HTTP: "));
}

#[test]
fn a_web_server_that_says_nothing_or_no_end_is_given_up() {
    let (_served, address) = server(b"HTTP/1.1 200 OK\r\nX: ", false);
    assert_eq!(probe(&http(&address, 200), SHORT), Err(Unhealthy::Timeout { limit: SHORT }));
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 100_000]].concat();
    let (_served, address) = server(endless.leak(), false);
    assert_eq!(said(probe(&http(&address, 200), LONG)), "its answer has no end of headers");
}

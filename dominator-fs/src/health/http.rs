use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dominator_core::health::Url;
use dominator_core::port::Unhealthy;

use super::probes::{failed, tcp, time_left, wrong};

/// How long an answer may be up to the end of its headers, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// How many headers an answer may have.
const MAX_HEADERS: usize = 128;

/// Asks for `url`: well when the answer has this status. Redirections are answers, and what comes after the headers is
/// not read.
pub(super) fn get(url: &Url, wanted: u16, limit: Duration) -> Result<(), Unhealthy> {
    let deadline = Instant::now() + limit;
    let mut stream = tcp(url.address(), limit)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: dominator-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.target(),
        url.host()
    );
    let write = |stream: &mut TcpStream, left| {
        stream.set_write_timeout(Some(left))?;
        stream.write_all(request.as_bytes())
    };
    write(&mut stream, time_left(deadline, limit)?).map_err(|error| failed(&error, limit))?;
    let status = status_of(&mut stream, deadline, limit)?;
    if status == wanted { Ok(()) } else { Err(wrong(format_args!("it answers with status {status}"))) }
}

/// Reads until the status is known. Every piece may take what is left of the time, and no more.
fn status_of(stream: &mut TcpStream, deadline: Instant, limit: Duration) -> Result<u16, Unhealthy> {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(status) = parse(&mut head)? {
            return Ok(status);
        }
        if head.len() >= MAX_HEAD {
            return Err(wrong("its answer has no end of headers"));
        }
        let left = time_left(deadline, limit)?;
        let mut read = || {
            stream.set_read_timeout(Some(left))?;
            stream.read(&mut piece)
        };
        match read().map_err(|error| failed(&error, limit))? {
            0 => return Err(wrong("it hangs up before it has answered")),
            length => head.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
}

/// The status, if all headers are there. Answers that announce another are passed over.
fn parse(head: &mut Vec<u8>) -> Result<Option<u16>, Unhealthy> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed =
            response.parse(head).map_err(|error| wrong(format_args!("it speaks no HTTP: {error}")))?;
        match (parsed, response.code) {
            (httparse::Status::Complete(length), Some(100 | 102..=199)) => drop(head.drain(..length)),
            (httparse::Status::Complete(_), code) => return Ok(code),
            (httparse::Status::Partial, _) => return Ok(None),
        }
    }
}

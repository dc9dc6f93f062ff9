//! Where certificates are.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dominator_daemon::failure::chain;
use dominator_daemon::value::HostPort;
use dominator_pki::keystore::{Contents, MAX_ENTRIES, load_certificates, load_contents};
use dominator_pki::{Certificate, PkiError, ShownList, glance};

use crate::Kind;

/// How long a server may take altogether.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many servers are looked at at once.
const AT_ONCE: usize = 32;

/// What was in one place.
pub(crate) struct Found {
    pub(crate) place: String,
    pub(crate) kind: Kind,
    pub(crate) certificates: Result<Vec<Certificate>, String>,
    /// Lists of revoked certificates.
    pub(crate) lists: Vec<ShownList>,
}

impl Found {
    fn of(place: String, kind: Kind, certificates: Result<Vec<Certificate>, String>) -> Self {
        Self { place, kind, certificates, lists: Vec::new() }
    }
}

/// A place that is asked for.
enum Place {
    File(PathBuf),
    Folder(PathBuf),
    Server(HostPort),
}

/// Looks at all `places`, in their order. A place where nothing can be found out does not keep the others from being
/// looked at.
pub(crate) fn at(places: &[String], authorities: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    let mut servers = Vec::new();
    for text in places {
        match place(text) {
            Ok(Place::File(path)) => found.push(file(&path)),
            Ok(Place::Folder(path)) => found.extend(folder(&path)),
            Ok(Place::Server(server)) => servers.push(server),
            Err(error) => found.push(Found::of(text.clone(), Kind::File, Err(error))),
        }
    }
    for some in servers.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked: Vec<_> = some.iter().map(|one| scope.spawn(|| server(one, authorities))).collect();
            let answers = asked.into_iter().map(|one| one.join().expect("invariant: looking does not panic"));
            found.extend(answers.flatten());
        });
    }
    found
}

/// What exists is a file or a folder, whatever it is called.
fn place(text: &str) -> Result<Place, String> {
    let path = PathBuf::from(text);
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Place::Folder(path)),
        Ok(_) => Ok(Place::File(path)),
        Err(error) => text.parse().map(Place::Server).map_err(|_| error.to_string()),
    }
}

fn file(path: &Path) -> Found {
    found(path).unwrap_or_else(|error| Found::of(path.display().to_string(), Kind::File, Err(chain(&error))))
}

/// What is in a file, of which there must be something.
fn found(path: &Path) -> Result<Found, PkiError> {
    let Contents { certificates, lists } = load_contents(path)?;
    Ok(Found { place: path.display().to_string(), kind: Kind::File, certificates: Ok(certificates), lists })
}

/// A file in a folder may hold something else, such as a key; one that was named may not.
fn folder(path: &Path) -> Vec<Found> {
    let listed = fs::read_dir(path).and_then(|entries| {
        entries.take(MAX_ENTRIES).map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(error) => {
            let place = path.display().to_string();
            return vec![Found::of(place, Kind::File, Err(error.to_string()))];
        }
    };
    paths.sort();
    let certificates = paths.iter().filter_map(|path| match path.is_dir() {
        true => Some(path.join("cert.pem")).filter(|path| path.exists()),
        false => Some(path.clone()).filter(|path| is_certificate(path)),
    });
    certificates
        .filter_map(|path| match found(&path) {
            Err(PkiError::NoCertificate { .. }) => None,
            Err(error) => Some(Found::of(path.display().to_string(), Kind::File, Err(chain(&error)))),
            Ok(found) => Some(found),
        })
        .collect()
}

fn is_certificate(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A key that is not ours to read is no reason to complain.
    [".pem", ".cert", ".crt"].iter().any(|suffix| name.ends_with(suffix)) && !name.ends_with("key.pem")
}

fn server(server: &HostPort, authorities: &Path) -> Vec<Found> {
    let place = server.to_string();
    let shown = match shown(server) {
        Ok(shown) => shown,
        Err(error) => return vec![Found::of(place, Kind::Server, Err(error))],
    };
    let last = shown.last().cloned();
    let signers = load_certificates(authorities).unwrap_or_default();
    let signer = signers
        .into_iter()
        .filter(|one| !shown.contains(one) && last.as_ref().is_some_and(|last| last.is_signed_by(one)));
    let signer = signer.collect();
    let authority = Found::of(format!("{place} ({})", authorities.display()), Kind::Authority, Ok(signer));
    vec![Found::of(place, Kind::Server, Ok(shown)), authority]
}

fn shown(server: &HostPort) -> Result<Vec<Certificate>, String> {
    let until = Instant::now() + PATIENCE;
    let addresses = (server.host(), server.port()).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let stream = addresses.into_iter().find_map(|address| {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        TcpStream::connect_timeout(&address, left).map_err(|error| last = error).ok()
    });
    let stream = stream.ok_or_else(|| last.to_string())?;
    let chain_shown = glance(server.host(), &mut Hasty { stream, until }).map_err(|error| chain(&error))?;
    let read = |der: &_| Certificate::parse(der).map_err(|error| chain(&error));
    chain_shown.iter().map(|der| read(der.as_ref())).collect()
}

/// A connection for a limited time, however slowly the other end speaks.
struct Hasty {
    stream: TcpStream,
    until: Instant,
}

impl Hasty {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Hasty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Hasty {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

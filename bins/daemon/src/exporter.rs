//! What a daemon counts and how it is, for whoever asks over HTTP: three pages, and nothing else.
//!
//! Nobody proves anything here, so nobody gets much of the daemon by it: few connections, each for one request and for a
//! short time, and a page that is made once a second at most.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dominator_rpc::metrics::Metrics;
use dominator_rpc::readiness::Readiness;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::failure::{During, Failure};
use crate::vitals::Vitals;

/// Where it is shown what is counted.
const METRICS: &str = "/metrics";
/// Where whoever asks is answered as long as the process lives.
const HEALTHZ: &str = "/healthz";
/// Where it is shown whether the daemon can do what it is for, and what it lacks.
const READYZ: &str = "/readyz";
/// How large the head of a request may be, in bytes: the least that the library allows.
const HEAD: usize = 8 * 1024;
/// How many lines it may have.
const HEADERS: usize = 32;
/// How long a listener that can't accept (no more descriptors) is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What those who ask may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// How many are answered at once; for one more the oldest has to go.
    connections: usize,
    /// How long the head of a request may take.
    head: Duration,
    /// How long all of a connection may take.
    whole: Duration,
    /// How old a page may be.
    age: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: 16,
    head: Duration::from_secs(3),
    whole: Duration::from_secs(10),
    age: Duration::from_secs(1),
};

/// A listener with the pages behind it.
#[derive(Debug)]
pub(crate) struct Exporter {
    listener: TcpListener,
    pages: Arc<Pages>,
    bounds: Bounds,
}

impl Exporter {
    /// Listens at `address`. From now on connections queue up; [`Exporter::run`] answers them.
    pub(crate) async fn bind(address: SocketAddr, vitals: Vitals) -> Result<Self, Failure> {
        Self::bounded(address, vitals, BOUNDS).await
    }

    async fn bounded(address: SocketAddr, vitals: Vitals, bounds: Bounds) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.during(|| format!("can't show metrics at {address}"))?;
        let local = listener.local_addr().during(|| format!("can't show metrics at {address}"))?;
        if !local.ip().to_canonical().is_loopback() {
            tracing::warn!("metrics are shown to everybody who reaches {local}");
        }
        tracing::info!("metrics at http://{local}{METRICS}");
        let Vitals { metrics, readiness } = vitals;
        let pages = Pages { metrics, readiness, made: Mutex::new(None), age: bounds.age };
        Ok(Self { listener, pages: Arc::new(pages), bounds })
    }

    /// Answers until it is dropped, which ends everything.
    pub(crate) async fn run(self) -> Infallible {
        let mut connections = JoinSet::new();
        let mut ages = VecDeque::new();
        loop {
            while connections.try_join_next().is_some() {}
            ages.retain(|connection: &AbortHandle| !connection.is_finished());
            while connections.len() >= self.bounds.connections {
                // Those who say nothing must keep nobody out: whoever asks is answered long before it is the oldest.
                ages.pop_front().iter().for_each(AbortHandle::abort);
                drop(connections.join_next().await);
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    ages.push_back(connections.spawn(answer(stream, self.pages.clone(), self.bounds)));
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections for metrics; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What is shown. What is counted is as it was made last.
#[derive(Debug)]
struct Pages {
    metrics: Metrics,
    readiness: Readiness,
    made: Mutex<Option<(Instant, String)>>,
    age: Duration,
}

impl Pages {
    fn counted(&self) -> String {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((when, text)) if when.elapsed() < self.age => text.clone(),
            _ => made.insert((Instant::now(), self.metrics.text())).1.clone(),
        }
    }

    /// Whether all is there, and a line for each thing that is not.
    fn ready(&self) -> (StatusCode, String) {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            return (StatusCode::OK, "ready\n".into());
        }
        let lines = missing.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
        (StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    fn page(&self, path: &str) -> (StatusCode, String) {
        match path {
            METRICS => (StatusCode::OK, self.counted()),
            HEALTHZ => (StatusCode::OK, "alive\n".into()),
            READYZ => self.ready(),
            _ => (StatusCode::NOT_FOUND, format!("there is {METRICS}, {HEALTHZ} and {READYZ}\n")),
        }
    }
}

async fn answer(stream: TcpStream, pages: Arc<Pages>, bounds: Bounds) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(response(&request, &pages))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever breaks off or takes too long has no page; there is nobody else to tell.
    drop(timeout(bounds.whole, connection).await);
}

fn response(request: &Request<Incoming>, pages: &Pages) -> Response<String> {
    let path = request.uri().path();
    let is_page = matches!(path, METRICS | HEALTHZ | READYZ);
    // Who only wants to know whether all is well may leave the words out.
    let is_allowed = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match is_page && !is_allowed {
        true => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        false => pages.page(path),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = if path == METRICS { Metrics::MEDIA_TYPE } else { "text/plain" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    const QUICK: Bounds = Bounds { head: Duration::from_millis(200), age: Duration::ZERO, ..BOUNDS };

    async fn start(bounds: Bounds) -> (SocketAddr, Vitals, JoinHandle<Infallible>) {
        let vitals = Vitals::default();
        let any = ([127, 0, 0, 1], 0).into();
        let exporter = Exporter::bounded(any, vitals.clone(), bounds).await.unwrap();
        let address = exporter.listener.local_addr().unwrap();
        (address, vitals, tokio::spawn(exporter.run()))
    }

    async fn says(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that has enough of a request may reset the connection after its answer.
        stream.read_to_end(&mut answer).await.unwrap_or_default();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn there_are_three_pages_and_nothing_else() {
        let (address, vitals, _running) = start(QUICK).await;
        vitals.metrics.refused("crowded");
        let page = says(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(
            page.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
            "{page}"
        );
        assert!(page.contains("dominator_connections_refused_total{reason=\"crowded\"} 1\n"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
        for (request, begins) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "),
            ("GET /metrics/../x HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 405 "),
            ("POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 405 "),
            ("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "),
            ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "),
            ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 "),
            ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
        ] {
            let answer = says(address, request).await;
            assert!(answer.starts_with(begins), "{request:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn whoever_asks_is_told_what_the_daemon_lacks() {
        let (address, vitals, _running) = start(QUICK).await;
        let ask = async |page: &str| {
            let answer = says(address, &format!("GET {page} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
        };
        let answer = |status: &str, body: &str| (status.to_owned(), body.to_owned());
        let stores = vitals.readiness.condition("stores", "they are being opened");
        let certificate = vitals.readiness.condition("certificate", "it expired");
        let both = "certificate: it expired\nstores: they are being opened\n";
        assert_eq!(ask("/readyz").await, answer("503", both));
        assert_eq!(ask("/healthz").await, answer("200", "alive\n"), "it should not be started again");
        stores.met();
        certificate.met();
        assert_eq!(ask("/readyz").await, answer("200", "ready\n"));
        vitals.readiness.end();
        assert_eq!(ask("/readyz").await, answer("503", "running: it was told to end\n"));
    }

    #[tokio::test]
    async fn heads_without_end_are_cut_off() {
        let (address, ..) = start(Bounds { head: BOUNDS.whole, ..QUICK }).await;
        for request in [
            format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(100_000)),
            format!("GET /metrics HTTP/1.1\r\n{}", "X: y\r\n".repeat(1000)),
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
        ] {
            let answer = says(address, &request).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }

    #[tokio::test]
    async fn those_who_say_nothing_make_room_for_those_who_ask() {
        let ever = Duration::from_secs(3600);
        let (address, _, _running) = start(Bounds { head: ever, whole: ever, ..BOUNDS }).await;
        let mut silent = Vec::new();
        for number in 0..3 * QUICK.connections {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /metr").await.unwrap();
            }
            silent.push(stream);
        }
        let page = says(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let page = timeout(Duration::from_secs(60), page).await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
        // The oldest were sent away before; none of them has anything.
        for mut stream in silent.drain(..2 * QUICK.connections) {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap_or_default();
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn a_page_is_made_once_in_its_time() {
        let (address, vitals, _running) = start(Bounds { age: Duration::from_secs(3600), ..QUICK }).await;
        let ask = || says(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let first = ask().await;
        vitals.metrics.refused("crowded");
        let body = |page: &str| page.split_once("\r\n\r\n").unwrap().1.to_owned();
        assert_eq!(body(&ask().await), body(&first));
    }
}

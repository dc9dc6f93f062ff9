//! What a daemon counts, for whoever asks over HTTP: one page, and nothing else.
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
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::failure::{During, Failure};

/// Where the page is.
const PATH: &str = "/metrics";
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

/// A listener with the page behind it.
#[derive(Debug)]
pub(crate) struct Exporter {
    listener: TcpListener,
    page: Arc<Page>,
    bounds: Bounds,
}

impl Exporter {
    /// Listens at `address`. From now on connections queue up; [`Exporter::run`] answers them.
    pub(crate) async fn bind(address: SocketAddr, metrics: Metrics) -> Result<Self, Failure> {
        Self::bounded(address, metrics, BOUNDS).await
    }

    async fn bounded(address: SocketAddr, metrics: Metrics, bounds: Bounds) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.during(|| format!("can't show metrics at {address}"))?;
        let local = listener.local_addr().during(|| format!("can't show metrics at {address}"))?;
        if !local.ip().to_canonical().is_loopback() {
            tracing::warn!("metrics are shown to everybody who reaches {local}");
        }
        tracing::info!("metrics at http://{local}{PATH}");
        let page = Arc::new(Page { metrics, made: Mutex::new(None), age: bounds.age });
        Ok(Self { listener, page, bounds })
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
                    ages.push_back(connections.spawn(answer(stream, self.page.clone(), self.bounds)));
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections for metrics; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The page as it was made last.
#[derive(Debug)]
struct Page {
    metrics: Metrics,
    made: Mutex<Option<(Instant, String)>>,
    age: Duration,
}

impl Page {
    fn text(&self) -> String {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((when, text)) if when.elapsed() < self.age => text.clone(),
            _ => made.insert((Instant::now(), self.metrics.text())).1.clone(),
        }
    }
}

async fn answer(stream: TcpStream, page: Arc<Page>, bounds: Bounds) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(response(&request, &page))));
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

fn response(request: &Request<Incoming>, page: &Page) -> Response<String> {
    let is_page = request.uri().path() == PATH;
    let (status, text) = match (is_page, request.method() == Method::GET) {
        (true, true) => (StatusCode::OK, page.text()),
        (true, false) => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        (false, _) => (StatusCode::NOT_FOUND, format!("there is nothing but {PATH}\n")),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    match status {
        StatusCode::OK => headers.insert(CONTENT_TYPE, HeaderValue::from_static(Metrics::MEDIA_TYPE)),
        StatusCode::METHOD_NOT_ALLOWED => headers.insert(ALLOW, HeaderValue::from_static("GET")),
        _ => headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain")),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    const QUICK: Bounds = Bounds { head: Duration::from_millis(200), age: Duration::ZERO, ..BOUNDS };

    async fn start(bounds: Bounds) -> (SocketAddr, Metrics, JoinHandle<Infallible>) {
        let metrics = Metrics::new();
        let any = ([127, 0, 0, 1], 0).into();
        let exporter = Exporter::bounded(any, metrics.clone(), bounds).await.unwrap();
        let address = exporter.listener.local_addr().unwrap();
        (address, metrics, tokio::spawn(exporter.run()))
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
    async fn there_is_one_page_and_nothing_else() {
        let (address, metrics, _running) = start(QUICK).await;
        metrics.refused("crowded");
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
            ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 "),
            ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
        ] {
            let answer = says(address, request).await;
            assert!(answer.starts_with(begins), "{request:?}: {answer}");
        }
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
        let (address, metrics, _running) = start(Bounds { age: Duration::from_secs(3600), ..QUICK }).await;
        let ask = || says(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let first = ask().await;
        metrics.refused("crowded");
        let body = |page: &str| page.split_once("\r\n\r\n").unwrap().1.to_owned();
        assert_eq!(body(&ask().await), body(&first));
    }
}

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A link to a server that can be cut: connections to [`Link::address`] lead there as long as it is whole. It is gone when the
/// test program ends.
#[derive(Clone, Debug)]
pub struct Link {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// How many bytes may still come from the server before the link is cut; any number, if there is none.
    budget: Option<u64>,
    carried: u64,
    connections: Vec<TcpStream>,
}

impl Link {
    /// A link from `address` to the server at `target`, both as in `host:port`.
    pub fn new(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a listener has an address");
        let target: SocketAddr = target.parse().expect("an address and a port");
        let state = State { budget: None, carried: 0, connections: Vec::new() };
        let link = Self { address, state: Arc::new(Mutex::new(state)) };
        let accepting = link.clone();
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|near| accepting.join(near, target))
        });
        link
    }

    /// Where it begins.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts it after so many more bytes from the server.
    pub fn cut_after(&self, bytes: u64) {
        self.state().budget = Some(bytes);
        if bytes == 0 {
            self.cut();
        }
    }

    /// Mends it.
    pub fn mend(&self) {
        self.state().budget = None;
    }

    /// How many bytes came from the server so far.
    pub fn carried(&self) -> u64 {
        self.state().carried
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.state().budget == Some(0)
    }

    fn cut(&self) {
        for connection in self.state().connections.drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    fn join(&self, near: TcpStream, target: SocketAddr) {
        if self.is_cut() {
            return;
        }
        let Ok(far) = TcpStream::connect(target) else { return };
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { return };
        self.state().connections.extend([near.try_clone(), far.try_clone()].into_iter().flatten());
        std::thread::spawn(move || copy(near_too, far_too, Some));
        let link = self.clone();
        std::thread::spawn(move || copy(far, near, |bytes| link.take(bytes)));
    }

    /// How many of so many bytes may pass; nothing, when the link is cut after them.
    fn take(&self, bytes: usize) -> Option<usize> {
        let mut state = self.state();
        let wanted = u64::try_from(bytes).expect("invariant: no platform has longer lengths");
        state.carried += wanted;
        let left = state.budget.map(|budget| budget.saturating_sub(wanted));
        if left.is_none() {
            return Some(bytes);
        }
        state.budget = left;
        drop(state);
        if left == Some(0) {
            self.cut();
            return None;
        }
        Some(bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until either end is gone or `pass` says so.
fn copy(mut from: TcpStream, mut to: TcpStream, pass: impl Fn(usize) -> Option<usize>) {
    let mut buffer = vec![0; 64 * 1024];
    drop(to.set_write_timeout(Some(Duration::from_secs(600))));
    let mut step = || -> io::Result<bool> {
        let read = from.read(&mut buffer)?;
        if read == 0 || pass(read).is_none() {
            return Ok(false);
        }
        to.write_all(buffer.get(..read).unwrap_or_default())?;
        Ok(true)
    };
    while step().unwrap_or(false) {}
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}

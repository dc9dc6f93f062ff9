//! What the code under test tells its operator.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

/// Every event of this process so far, one JSON object a line. Tests run side by side: look for names of your own.
#[derive(Clone)]
pub struct Events(watch::Sender<Vec<String>>);

impl Events {
    /// Listens from now on; the same for all tests of a process.
    pub fn listen() -> Self {
        static EVENTS: OnceLock<Events> = OnceLock::new();
        let listen = || {
            let events = Self(watch::Sender::default());
            tracing_subscriber::fmt().json().with_writer(events.clone()).init();
            events
        };
        EVENTS.get_or_init(listen).clone()
    }

    /// Waits for an event that holds all of `parts`, and gives it back.
    pub async fn wait_for(&self, parts: &[&str]) -> String {
        let is_it = |line: &&String| parts.iter().all(|part| line.contains(part));
        let mut lines = self.0.subscribe();
        let found = lines.wait_for(|lines| lines.iter().any(|line| is_it(&line)));
        let found = tokio::time::timeout(Duration::from_secs(120), found).await;
        let found = found.unwrap_or_else(|_| panic!("no event with {parts:?}")).unwrap();
        found.iter().find(is_it).unwrap().clone()
    }

    /// Waits until the events are as `is_so` says, and gives them back.
    pub async fn wait_until(&self, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut lines = self.0.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(120), lines.wait_for(|lines| is_so(lines)));
        let found = found.await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("it never came to that: {:?}", self.all()))
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// How many events hold all of `parts`.
    pub fn count(&self, parts: &[&str]) -> usize {
        let lines = self.0.borrow();
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

impl io::Write for Events {
    /// The subscriber writes an event in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|lines| lines.push(String::from_utf8_lossy(line).into_owned()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Events {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

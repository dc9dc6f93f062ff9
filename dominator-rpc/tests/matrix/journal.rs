//! What a server wrote into its log.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static HERE: Rc<Page> = Rc::default();
}

#[derive(Default)]
struct Page {
    events: RefCell<Vec<String>>,
    written: Notify,
}

/// The warnings and errors of everything that runs on this thread. A test's runtime has one thread, so these are the
/// test's own.
pub struct Journal(Rc<Page>);

impl Journal {
    pub fn open() -> Self {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Writer).unwrap());
        let page = HERE.with(Rc::clone);
        page.events.borrow_mut().clear();
        Self(page)
    }

    /// Waits until so much is written that was not taken yet, and takes all there is.
    pub async fn take(&self, count: usize) -> Vec<String> {
        let all = async {
            while self.0.events.borrow().len() < count {
                self.0.written.notified().await;
            }
        };
        // Whoever asks for more than comes is shown what came.
        drop(timeout(Duration::from_secs(10), all).await);
        std::mem::take(&mut self.0.events.borrow_mut())
    }
}

struct Writer;

impl Subscriber for Writer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("dominator")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line =
            Line { level: *event.metadata().level(), message: String::new(), fields: String::new() };
        event.record(&mut line);
        HERE.with(|page| {
            let text = format!("{} {}{}", line.level, line.message, line.fields);
            page.events.borrow_mut().push(timeless(&text));
            page.written.notify_one();
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Moments, times, and serial numbers left out, which differ from run to run.
pub fn timeless(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let seconds = bare.len() > 4 && bare.bytes().all(|b| b.is_ascii_digit());
        let time = seconds || bare.get(10..11) == Some("T") && bare.ends_with('Z');
        let serial = bare.starts_with("0x");
        if time || serial { word.replace(bare, "…") } else { word.into() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// An event as text: level, message, fields in their order.
struct Line {
    level: Level,
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            // Every connection comes from a port of its own.
            "peer" => self.fields.push_str(" peer=…"),
            "serial" if format!("{value:?}").len() >= 16 => self.fields.push_str(" serial=…"),
            // What the path and the message say in other words.
            "method" | "decision" => {}
            name => self.fields.push_str(&format!(" {name}={value:?}")),
        }
    }
}

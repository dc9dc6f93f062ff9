use std::io::{self, Write};

use dominator_daemon::report::Format;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{LogNews, LogQuery, RemoteLog};
use dominator_rpc::log::Line;
use futures_util::StreamExt as _;
use serde::Serialize;

/// A line for programs.
#[derive(Serialize)]
struct Entry<'a> {
    number: u64,
    level: &'static str,
    target: &'a str,
    text: &'a str,
}

/// Lines that were overwritten before they came, for programs.
#[derive(Serialize)]
struct Lost {
    lost: u64,
}

/// Prints what a log tells, line by line as it comes. A reader that went away ends it.
pub(super) async fn show(log: &RemoteLog, query: LogQuery, format: Format) -> Result<(), Failure> {
    let mut news = log.watch(query).await.during(|| "can't read the log".into())?;
    while let Some(told) = news.next().await {
        let told = told.during(|| "the log broke off".into())?;
        let mut out = io::stdout().lock();
        match write(&mut out, &told, format).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.during(|| "can't print the log".into())?,
        }
    }
    Ok(())
}

fn write(out: &mut dyn Write, told: &LogNews, format: Format) -> io::Result<()> {
    match (told, format) {
        (LogNews::Line(line), Format::Text) => writeln!(out, "{}", line.text),
        (LogNews::Lost(count), Format::Text) => {
            writeln!(out, "-- {count} lines were overwritten before they could be sent --")
        }
        (LogNews::Line(Line { number, level, target, text }), Format::Json) => {
            json(out, &Entry { number: *number, level: level.name(), target, text })
        }
        (LogNews::Lost(lost), Format::Json) => json(out, &Lost { lost: *lost }),
    }
}

fn json(out: &mut dyn Write, entry: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, entry)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_rpc::log::Level;

    #[test]
    fn lines_are_printed_one_each_and_what_was_lost_is_not_passed_over() {
        let line = Line { number: 7, level: Level::Warn, target: "t".into(), text: "WARN \"x\"".into() };
        let printed = |told: &LogNews, format| {
            let mut out = Vec::new();
            write(&mut out, told, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (line, lost) = (LogNews::Line(line), LogNews::Lost(3));
        assert_eq!(printed(&line, Format::Text), "WARN \"x\"\n");
        let json = "{\"number\":7,\"level\":\"warn\",\"target\":\"t\",\"text\":\"WARN \\\"x\\\"\"}\n";
        assert_eq!(printed(&line, Format::Json), json);
        assert!(printed(&lost, Format::Text).contains("3 lines were overwritten"));
        assert_eq!(printed(&lost, Format::Json), "{\"lost\":3}\n");
    }
}

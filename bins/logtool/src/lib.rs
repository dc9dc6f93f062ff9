//! Reads the log of a daemon from afar, and says what is logged.
#![forbid(unsafe_code)]

mod lines;
mod options;

use std::io::{self, Write};
use std::process::ExitCode;

use dominator_daemon::report::{Show, show};
use dominator_daemon::{During, Failure, roles};
use dominator_rpc::client::RemoteLog;
use dominator_rpc::log::Levels;
use serde::Serialize;

pub use options::{Command, Options, Which};

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let (server, format) = (&options.server, options.output.format());
    let role = roles::expected(options.role, server)?;
    let tls = options.tls.tool()?;
    let log = RemoteLog::connect(&tls, &server.to_string(), role).await;
    let log = log.during(|| "nothing was done".into())?;
    match options.command {
        Command::GetLevel => {
            let levels = log.levels().await.during(|| "can't ask what is logged".into())?;
            show(&Shown::of(levels), format)?;
        }
        Command::SetLevel { level, time, keep } => {
            let time = (!keep).then(|| time.get());
            let levels = log.set(&level, time).await.during(|| "the level stays as it is".into())?;
            show(&Shown::of(levels), format)?;
        }
        Command::Print { text, level } => {
            log.print(level, &text).await.during(|| "nothing was written".into())?;
            show(&Printed { level: level.name(), text }, format)?;
        }
        Command::Tail { which, lines } => lines::show(&log, which.query(lines), format).await?,
        Command::Watch { which, last } => lines::show(&log, which.following(last), format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Shown {
    level: String,
    usual: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

impl Shown {
    fn of(Levels { level, usual, left }: Levels) -> Self {
        Self { level, usual, seconds_left: left.map(|left| left.as_secs()) }
    }
}

impl Show for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.seconds_left {
            Some(left) => writeln!(out, "{} for {left} s more, then {}", self.level, self.usual),
            None => writeln!(out, "{}", self.level),
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Printed {
    level: &'static str,
    text: String,
}

impl Show for Printed {
    /// It stands in the log; there is nothing to say.
    fn text(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_level_that_will_not_stay_says_so() {
        let text = |left: Option<u64>| {
            let (level, usual) = ("debug".into(), "info".into());
            let mut out = Vec::new();
            Shown::of(Levels { level, usual, left: left.map(Duration::from_secs) }).text(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(Some(9)), "debug for 9 s more, then info\n");
        assert_eq!(text(None), "debug\n");
    }
}

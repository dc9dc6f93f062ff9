//! `dominate enforce`: the loop of look, compare, act that a fleet runs over the network, on one directory.

mod keeper;
mod places;
mod report;

use std::time::Duration;

use dominator_daemon::report::{Format, complain};
use dominator_daemon::{During, Failure, process};
use dominator_fs::scan::Cancel;
use tokio::signal::unix::{SignalKind, signal};

use self::keeper::Keeper;
use self::report::Round;
use crate::{EnforceOptions, Verdict};

pub(crate) fn run(options: EnforceOptions, format: Format) -> Result<Verdict, Failure> {
    process::runtime()?.block_on(enforce(options, format))
}

/// Until interrupted, if it watches; an update that has begun is completed.
async fn enforce(options: EnforceOptions, format: Format) -> Result<Verdict, Failure> {
    let cancel = Cancel::default();
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    let (interval, watch, dry_run) = (options.interval.get(), options.watch, options.dry_run);
    let stop = cancel.clone();
    let mut work = tokio::task::spawn_blocking(move || Keeper::new(options, stop));
    let mut keeper = loop {
        tokio::select! {
            made = &mut work => break made.during(|| "reading the image broke down".into())??,
            () = &mut interrupted, if !cancel.is_cancelled() => cancel.cancel(),
        }
    };
    let mut said = Said::default();
    loop {
        let mut round = tokio::task::spawn_blocking(move || {
            let result = if dry_run { keeper.look_only() } else { keeper.round() };
            (keeper, result)
        });
        let (back, result) = tokio::select! {
            done = &mut round => done,
            () = &mut interrupted, if !cancel.is_cancelled() => {
                cancel.cancel();
                round.await
            }
        }
        .during(|| "the update broke down".into())?;
        keeper = back;
        if !watch {
            let round = result?;
            round.print(format, dry_run)?;
            return Ok(round.verdict);
        }
        if !cancel.is_cancelled() {
            said.say(result, format)?;
            tokio::select! {
                () = tokio::time::sleep(interval.max(SHORTEST)) => {}
                () = &mut interrupted => cancel.cancel(),
            }
        }
        if cancel.is_cancelled() {
            return Ok(said.verdict);
        }
    }
}

/// No processor is kept busy by looking alone.
const SHORTEST: Duration = Duration::from_millis(10);

/// Resolves when the process is asked to end.
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).during(|| "can't listen to signals".into());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// What a watcher was told, so that it is not told again and again.
struct Said {
    verdict: Verdict,
    trouble: Option<String>,
    remains: Option<Vec<String>>,
}

impl Default for Said {
    fn default() -> Self {
        Self { verdict: Verdict::Failed, trouble: None, remains: None }
    }
}

impl Said {
    fn say(&mut self, result: Result<Round, Failure>, format: Format) -> Result<(), Failure> {
        match result {
            Ok(round) => {
                self.verdict = round.verdict;
                self.trouble = None;
                let remains = Some(round.remains());
                if round.applied > 0 || remains != self.remains {
                    round.print_line(format)?;
                }
                self.remains = remains;
            }
            Err(failure) => {
                self.verdict = Verdict::Failed;
                let words = dominator_daemon::failure::chain(&failure);
                if self.trouble.as_ref() != Some(&words) {
                    complain("dominate", &failure);
                }
                (self.trouble, self.remains) = (Some(words), None);
            }
        }
        Ok(())
    }
}

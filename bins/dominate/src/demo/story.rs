use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::progress::Watching;

/// What happened, told while it happens; as JSON at the end, see docs/schemas/dominate-demo.json.
#[derive(Serialize)]
pub(super) struct Story {
    #[serde(skip)]
    format: Format,
    #[serde(skip)]
    began: Instant,
    steps: Vec<Step>,
    seconds: f64,
}

#[derive(Serialize)]
struct Step {
    step: &'static str,
    detail: String,
    seconds: f64,
}

/// A step that goes on.
pub(super) struct Going {
    step: &'static str,
    began: Instant,
    watching: Watching,
}

impl Going {
    /// Begins it.
    pub(super) fn begin(step: &'static str) -> Self {
        Self { step, began: Instant::now(), watching: Watching::work(step) }
    }
}

impl Story {
    pub(super) fn begin(format: Format) -> Result<Self, Failure> {
        let story = Self { format, began: Instant::now(), steps: Vec::new(), seconds: 0.0 };
        story.say(&format!("{:<24}{:>8}  {}", "step", "seconds", "what happened"))?;
        Ok(story)
    }

    /// Tells how a step went, and how long it took.
    pub(super) fn done(&mut self, going: Going, detail: String) -> Result<(), Failure> {
        let Going { step, began, watching } = going;
        drop(watching);
        self.tell(step, detail, began.elapsed().as_secs_f64())
    }

    /// Tells of a step that somebody else measured.
    pub(super) fn tell(&mut self, step: &'static str, detail: String, seconds: f64) -> Result<(), Failure> {
        self.say(&format!("{step:<24}{seconds:>8.3}  {detail}"))?;
        self.steps.push(Step { step, detail, seconds });
        Ok(())
    }

    pub(super) fn end(mut self, kept: Option<&Path>) -> Result<(), Failure> {
        self.seconds = self.began.elapsed().as_secs_f64();
        if let Some(kept) = kept {
            self.say(&format!("everything is in {}", kept.display()))?;
        }
        show(&self, self.format)
    }

    fn say(&self, line: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => Ok(()),
            Format::Text => {
                writeln!(io::stdout().lock(), "{line}").during(|| "can't print the result".into())
            }
        }
    }
}

impl Show for Story {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "every machine is what it must be; {:.1} s in all", self.seconds)
    }
}

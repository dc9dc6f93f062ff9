use std::io::{self, Write};
use std::sync::Arc;

use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_fs::compliance::{self, Deviation, Options, Report, What};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Progress};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::progress::Watching;
use crate::scan::{self, Counts};
use crate::source::Source;
use crate::{CheckOptions, Verdict, input};

pub(crate) fn run(options: &CheckOptions, format: Format) -> Result<Verdict, Failure> {
    let options = &options.image;
    let filter = input::filter(options.filter.as_deref())?;
    let what = || format!("can't check {}", options.root.display());
    let root = Root::open(&options.root).during(what)?;
    let image = {
        let _watching = Watching::work("reading the image");
        Source::open(&options.image)?.tree(&filter, &Cancel::default())?
    };
    let progress = Arc::new(Progress::default());
    let report = {
        let _watching = Watching::scan("checking", Arc::clone(&progress));
        let xattrs = image.xattrs.and(options.xattrs.xattrs.policy());
        let how = Options { xattrs, progress, ..Options::default() };
        compliance::check(&root, &image.snapshot, &filter, &how).during(what)?
    };
    let report = CheckReport::of(&report);
    show(&report, format)?;
    Ok(report.verdict)
}

/// What `--json` prints; docs/schemas/dominate-check.json.
#[derive(Serialize)]
struct CheckReport {
    verdict: Verdict,
    required: String,
    actual: String,
    deviations: Vec<Remark>,
    kept: Vec<String>,
    unknown: Vec<Remark>,
    counts: Counts,
    bytes_hashed: u64,
    seconds: f64,
}

/// The word for what is wrong with a path.
fn word(what: What) -> &'static str {
    match what {
        What::Missing => "missing",
        What::Unexpected => "unexpected",
        What::Kind => "kind",
        What::Contents => "contents",
        What::Links => "links",
        What::Metadata | _ => "metadata",
    }
}

impl CheckReport {
    fn of(report: &Report) -> Self {
        let verdict = match report.verdict() {
            compliance::Verdict::Compliant => Verdict::Compliant,
            compliance::Verdict::Deviant => Verdict::Deviant,
            compliance::Verdict::CouldNotLook | _ => Verdict::CouldNotLook,
        };
        let deviation =
            |found: &Deviation| Remark::new(&found.path, found.detail.as_str()).because(word(found.what));
        Self {
            verdict,
            required: report.required.to_string(),
            actual: report.actual.to_string(),
            deviations: report.deviations.iter().map(deviation).collect(),
            kept: report.kept.iter().map(ToString::to_string).collect(),
            unknown: scan::unknown(&report.unknown),
            counts: report.counts.into(),
            bytes_hashed: report.bytes_hashed,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

impl Show for CheckReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for deviation in &self.deviations {
            writeln!(out, "{deviation}")?;
        }
        for unseen in &self.unknown {
            writeln!(out, "{unseen}")?;
        }
        for path in &self.kept {
            writeln!(out, "{path}: must go, but holds what is not looked at; left alone")?;
        }
        let (deviations, unknown) = (self.deviations.len(), self.unknown.len());
        match self.verdict {
            Verdict::Deviant => write!(out, "deviant: {} paths", HumanCount(deviations as u64))?,
            Verdict::CouldNotLook => write!(out, "could not look at {} paths", HumanCount(unknown as u64))?,
            Verdict::Compliant | Verdict::Failed => write!(out, "compliant")?,
        }
        writeln!(out, " ({}; {} read in {:.3} s)", self.counts, HumanBytes(self.bytes_hashed), self.seconds)
    }
}

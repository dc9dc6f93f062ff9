use std::io::{self, Write};
use std::sync::Arc;

use dominator_core::view::View;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Fact, Progress, Scan, Scanner};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::progress::Watching;
use crate::{ScanOptions, Verdict, input};

pub(crate) fn run(options: &ScanOptions, format: Format) -> Result<Verdict, Failure> {
    let filter = input::filter(options.filter.as_deref())?;
    let what = || format!("can't scan {}", options.root.display());
    let root = Root::open(&options.root).during(what)?;
    let view = Arc::new(View { filters: vec![filter], ..View::everything() });
    let progress = Arc::new(Progress::default());
    let mut scanner = Scanner::new(root, Arc::clone(&view)).progress(Arc::clone(&progress));
    if let Some(threads) = options.threads {
        scanner = scanner.threads(threads);
    }
    let watching = Watching::scan("scanning", progress);
    let scan = scanner.scan(&Cancel::default()).during(what)?;
    drop(watching);
    let report = ScanReport::of(&scan, &view);
    show(&report, format)?;
    Ok(if report.unknown.is_empty() { Verdict::Compliant } else { Verdict::CouldNotLook })
}

/// What `--json` prints; docs/schemas/dominate-scan.json.
#[derive(Serialize)]
struct ScanReport {
    tree: String,
    view: String,
    counts: Counts,
    bytes_hashed: u64,
    seconds: f64,
    unknown: Vec<Remark>,
}

impl ScanReport {
    fn of(scan: &Scan, view: &View) -> Self {
        Self {
            tree: scan.snapshot.id().to_string(),
            view: view.id().to_string(),
            counts: scan.counts.into(),
            bytes_hashed: scan.bytes_hashed,
            seconds: scan.elapsed.as_secs_f64(),
            unknown: unknown(&scan.facts),
        }
    }
}

impl Show for ScanReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "tree {}", self.tree)?;
        writeln!(out, "{}", self.counts)?;
        let rate = rate(self.bytes_hashed, self.seconds);
        writeln!(out, "{} read in {:.3} s, {rate}/s", HumanBytes(self.bytes_hashed), self.seconds)?;
        self.unknown.iter().try_for_each(|unseen| writeln!(out, "{unseen}"))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people to read; a negative or endless rate becomes a bound"
)]
fn rate(bytes: u64, seconds: f64) -> HumanBytes {
    HumanBytes((bytes as f64 / seconds) as u64)
}

/// How many names of each kind there are.
#[derive(Serialize)]
pub(crate) struct Counts {
    directories: u64,
    files: u64,
    symlinks: u64,
    special: u64,
    unknown: u64,
}

impl From<dominator_fs::scan::Counts> for Counts {
    fn from(counts: dominator_fs::scan::Counts) -> Self {
        let dominator_fs::scan::Counts { directories, files, symlinks, special, unknown } = counts;
        Self { directories, files, symlinks, special, unknown }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [directories, files, symlinks] = [self.directories, self.files, self.symlinks].map(HumanCount);
        write!(f, "{directories} directories, {files} files, {symlinks} symlinks, ")?;
        write!(f, "{} devices and pipes, {} unknown", HumanCount(self.special), HumanCount(self.unknown))
    }
}

/// What could not be looked at.
pub(crate) fn unknown(facts: &[Fact]) -> Vec<Remark> {
    facts.iter().map(|fact| Remark::unknown(&fact.path, fact.why, &fact.detail)).collect()
}

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use dominator_core::view::View;
use dominator_daemon::failure::chain;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, CacheError, Cancel, Fact, Progress, Scan, Scanner};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::progress::Watching;
use crate::{ScanOptions, Verdict, input};

pub(crate) fn run(options: &ScanOptions, format: Format) -> Result<Verdict, Failure> {
    let filter = input::filter(options.filter.as_deref())?;
    let what = || format!("can't scan {}", options.root.display());
    let root = Root::open(&options.root).during(what)?;
    let mut state = options.state.as_deref().map(|path| State::load(path, &root)).transpose()?;
    let view = Arc::new(View {
        filters: vec![filter],
        xattrs: options.xattrs.xattrs.policy(),
        ..View::everything()
    });
    let progress = Arc::new(Progress::default());
    let mut scanner = Scanner::new(root, Arc::clone(&view)).progress(Arc::clone(&progress));
    if let Some(threads) = options.threads {
        scanner = scanner.threads(threads);
    }
    if let Some(expiry) = options.write_back_expiry {
        scanner = scanner.write_back_expiry(expiry.get());
    }
    let watching = Watching::scan("scanning", progress);
    let (scan, saved) = match &mut state {
        Some(state) => (scanner.rescan(&mut state.cache, &Cancel::default()), state.save()),
        None => (scanner.scan(&Cancel::default()), Ok(())),
    };
    drop(watching);
    let report = ScanReport::of(&scan.during(what)?, &view, state.and_then(|state| state.discarded));
    show(&report, format)?;
    saved?;
    Ok(if report.unknown.is_empty() { Verdict::Compliant } else { Verdict::CouldNotLook })
}

/// What earlier scans found, and where it is kept.
struct State<'a> {
    path: &'a Path,
    directory: File,
    cache: Cache,
    /// As it is kept.
    kept: Cache,
    /// Why what was kept is of no use.
    discarded: Option<String>,
}

impl<'a> State<'a> {
    fn load(path: &'a Path, root: &Root) -> Result<Self, Failure> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(parent).during(|| format!("can't open {}", parent.display()))?;
        let (cache, discarded) = match Cache::load(directory.as_fd(), name(path)?, root) {
            Ok(cache) => (cache, None),
            Err(CacheError::Io(error)) if error.kind() == io::ErrorKind::NotFound => (Cache::new(), None),
            Err(other) => (Cache::new(), Some(chain(&other))),
        };
        Ok(Self { path, directory, kept: cache.clone(), cache, discarded })
    }

    /// Also after a scan that failed: what it hashed need not be hashed again.
    fn save(&self) -> Result<(), Failure> {
        if self.cache.is_unchanged_since(&self.kept) {
            return Ok(());
        }
        let saved = self.cache.save(self.directory.as_fd(), name(self.path)?);
        saved.map(drop).during(|| format!("can't write {}", self.path.display()))
    }
}

fn name(path: &Path) -> Result<&[u8], Failure> {
    path.file_name()
        .map(OsStrExt::as_bytes)
        .ok_or_else(|| Failure::new(format!("{} is no file", path.display())))
}

/// What `--json` prints; docs/schemas/dominate-scan.json.
#[derive(Serialize)]
struct ScanReport {
    tree: String,
    view: String,
    counts: Counts,
    bytes_hashed: u64,
    files_opened: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_discarded: Option<String>,
    unknown: Vec<Remark>,
}

impl ScanReport {
    fn of(scan: &Scan, view: &View, state_discarded: Option<String>) -> Self {
        Self {
            tree: scan.snapshot.id().to_string(),
            view: view.id().to_string(),
            counts: scan.counts.into(),
            bytes_hashed: scan.bytes_hashed,
            files_opened: scan.files_opened,
            seconds: scan.elapsed.as_secs_f64(),
            state_discarded,
            unknown: unknown(&scan.facts),
        }
    }
}

impl Show for ScanReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "tree {}", self.tree)?;
        writeln!(out, "{}", self.counts)?;
        let rate = rate(self.bytes_hashed, self.seconds);
        let (opened, read) = (HumanCount(self.files_opened), HumanBytes(self.bytes_hashed));
        writeln!(out, "{opened} files opened, {read} read in {:.3} s, {rate}/s", self.seconds)?;
        self.state_discarded.iter().try_for_each(|why| writeln!(out, "the state was discarded: {why}"))?;
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

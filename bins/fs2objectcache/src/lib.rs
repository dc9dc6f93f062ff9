//! Turns an old root into the object cache of the one that takes its place.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use dominator_core::port::PathFailure;
use dominator_daemon::process::EXIT_STATUS_OF_ANSWERS;
use dominator_daemon::report::{self, Format, OutputOptions, Show, remark};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::scan::Cancel;
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::update::{Likeness, Salvage, SalvageError, Salvaged, Survey};
use serde::Serialize;

/// Turns an old root into the object cache of the one that takes its place.
///
/// The contents of every file are kept, each once, as objects in /.subd below the root, where an agent finds them instead of
/// fetching them. Everything else is removed. Interrupted at any moment, it loses nothing that is not in the cache, and can
/// be begun again. The root of the running system, one that a process lives in, one in which something is mounted, and what
/// does not look like a root are refused. The answer is no when something had to stay, as what is immutable has.
#[derive(Clone, Debug, Parser)]
#[command(name = "fs2objectcache", version, after_help = EXIT_STATUS_OF_ANSWERS)]
pub struct Options {
    /// The old root, of a system that is not running
    #[arg(value_name = "DIR")]
    pub root: PathBuf,
    /// Say what is in it, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do it: all but contents is lost
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Take any directory for a root, also one that has neither /etc and /usr nor an agent's /.subd
    #[arg(long)]
    pub any_directory: bool,
    /// How to show the result
    #[command(flatten)]
    pub output: OutputOptions,
}

/// What `--json` prints; docs/schemas/fs2objectcache.json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    root: String,
    names: u64,
    objects: u64,
    bytes: u64,
    unreadable: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done<'a>>,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    moved: u64,
    removed: u64,
    left: Vec<Left<'a>>,
}

#[derive(Debug, Serialize)]
struct Left<'a> {
    path: String,
    reason: &'a str,
}

/// Does what the options say; whether nothing had to stay.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub fn run(options: &Options) -> Result<bool, Failure> {
    let shown = options.root.display();
    if !options.yes && !options.dry_run {
        let what = format!(
            "all but the contents of files in {shown} would be lost; look with --dry-run, then say --yes"
        );
        return Err(Failure::new(what));
    }
    let salvage = look(options)?;
    let survey = salvage.survey();
    let text = options.output.format() == Format::Text;
    if text {
        let Survey { names, objects, bytes, unreadable } = survey;
        let bytes = HumanBytes(bytes);
        say(&format!(
            "{names} names, {objects} objects of {bytes}, {unreadable} names of what can't be read"
        ))?;
    }
    if options.dry_run {
        report::show(&Report::of(&options.root, survey, None), options.output.format())?;
        return Ok(survey.unreadable == 0);
    }
    let seam: Arc<dyn Seam> = Arc::new(Kernel);
    let salvaged = salvage.run(&seam).during(|| during(&options.root))?;
    let left = salvaged.left.iter();
    left.for_each(|left| remark("fs2objectcache", &format!("{} stays: {}", left.path, left.reason)));
    report::show(&Report::of(&options.root, survey, Some(&salvaged)), options.output.format())?;
    Ok(salvaged.left.is_empty())
}

fn during(root: &Path) -> String {
    format!("can't make an object cache of {}", root.display())
}

fn look(options: &Options) -> Result<Salvage, Failure> {
    let likeness = if options.any_directory { Likeness::Anything } else { Likeness::Root };
    match Salvage::look(&options.root, likeness, &Cancel::default()) {
        Err(SalvageError::NoRoot) => Err(Failure::new(format!(
            "{}: {}; if it is to be emptied all the same, say --any-directory",
            during(&options.root),
            SalvageError::NoRoot
        ))),
        other => other.during(|| during(&options.root)),
    }
}

impl<'a> Report<'a> {
    fn of(root: &Path, survey: Survey, done: Option<&'a Salvaged>) -> Self {
        let Survey { names, objects, bytes, unreadable } = survey;
        let left = |left: &'a PathFailure| Left { path: left.path.to_string(), reason: &left.reason };
        let done = done.map(|done| Done {
            moved: done.moved,
            removed: done.removed,
            left: done.left.iter().map(left).collect(),
        });
        Self { root: root.display().to_string(), names, objects, bytes, unreadable, done }
    }
}

/// What was found is told before anything is changed.
impl Show for Report<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(Done { moved, removed, left }) = &self.done else { return Ok(()) };
        let stay = left.len();
        writeln!(out, "{moved} objects are new in the cache, {removed} names are gone, {stay} stay")
    }
}

fn say(words: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{words}").during(|| "can't print the result".into())
}

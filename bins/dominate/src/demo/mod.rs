//! `dominate demo`: a whole fleet in one process, and a process of its own that damages and judges it.

mod compare;
mod damage;
mod fleet;
mod hand;
mod machines;
mod story;
mod trees;

pub use damage::Kind;
pub use hand::Hand;
pub(crate) use hand::lend as lend_a_hand;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dominator_daemon::report::Format;
use dominator_daemon::{During, Failure, process};
use indicatif::HumanBytes;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use self::compare::Compared;
use self::damage::Repaired;
use self::fleet::{Fleet, MACHINES, Made};
use self::story::{Going, Story};
use self::trees::{Copied, Upgraded};
use crate::{DemoOptions, Verdict};

/// How long anything may take: far longer than it does.
const LIMIT: Duration = Duration::from_secs(60);
/// Where trees of some thousand files are found.
const SOURCES: [&str; 3] = ["/usr/share", "/usr/lib", "/usr"];
/// What the images are called.
const IMAGES: [&str; 2] = ["demo/1", "demo/2"];

pub(crate) fn run(options: &DemoOptions, format: Format) -> Result<Verdict, Failure> {
    process::runtime()?.block_on(async {
        let place = Place::make(options.keep.as_deref())?;
        tokio::select! {
            told = demonstrate(options, place.path(), format) => {
                let mut story = told?;
                place.leave(&mut story)?;
                story.end(options.keep.as_deref())?;
                Ok(Verdict::Compliant)
            }
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.during(|| "can't listen to signals".into())?;
                Err(Failure::new("interrupted"))
            }
        }
    })
}

async fn demonstrate(options: &DemoOptions, place: &Path, format: Format) -> Result<Story, Failure> {
    let mut story = Story::begin(format)?;
    let trees = [place.join("tree-1"), place.join("tree-2")];
    make_trees(options, &trees, &mut story).await?;
    let going = Going::begin("start the fleet");
    let mut fleet = Fleet::start(place).await?;
    story.done(going, "an authority, an image server, a controller, three machines".into())?;
    for (image, tree) in IMAGES.into_iter().zip(&trees) {
        let going = Going::begin("make an image");
        let Made { name, sent_objects, sent_bytes } = fleet.add_image(image, tree).await?;
        let sent = format!("{name}: {sent_objects} objects of {} sent", HumanBytes(sent_bytes));
        story.done(going, sent)?;
        let going = Going::begin("machines become it");
        fleet.become_image(&name).await?;
        story.done(going, MACHINES.join(", "))?;
        judge(&fleet, tree, &mut story).await?;
    }
    let [_, tree] = &trees;
    for (kind, machine) in Kind::ALL.into_iter().zip(MACHINES.iter().cycle()) {
        let root = fleet.root(machine);
        let kind_word = clap::ValueEnum::to_possible_value(&kind);
        let kind_word = kind_word.as_ref().map_or("", |value| value.get_name());
        let going = Going::begin("damage and repair");
        let arguments = ["damage".as_ref(), kind_word.as_ref(), root.as_os_str(), tree.as_os_str()];
        let Repaired { path, seconds } = hand(&arguments).await?;
        drop(going);
        let detail = format!("{machine}: {}: /{}", kind.words(), path.display());
        story.tell("damage and repair", detail, seconds)?;
    }
    judge(&fleet, tree, &mut story).await?;
    fleet.end().await?;
    Ok(story)
}

async fn make_trees(
    options: &DemoOptions,
    [first, second]: &[PathBuf; 2],
    story: &mut Story,
) -> Result<(), Failure> {
    let going = Going::begin("copy a tree");
    let mut arguments = vec!["copy".as_ref(), "--to".as_ref(), first.as_os_str()];
    match &options.source {
        Some(source) => arguments.extend(["--whole".as_ref(), source.as_os_str()]),
        None => arguments.extend(SOURCES.map(OsStr::new)),
    }
    let Copied { from, files, bytes, left_out } = hand(&arguments).await?;
    let left_out = if left_out == 0 { String::new() } else { format!(", {left_out} left out") };
    let copied = format!("{files} files of {}, {}{left_out}", from.display(), HumanBytes(bytes));
    story.done(going, copied)?;
    let going = Going::begin("make the next version");
    let whole = ["copy".as_ref(), "--whole".as_ref(), "--to".as_ref(), second.as_os_str(), first.as_os_str()];
    let Copied { .. } = hand(&whole).await?;
    let Upgraded { rewritten, modes, removed, added } =
        hand(&["upgrade".as_ref(), second.as_os_str()]).await?;
    let changed =
        format!("{rewritten} files rewritten, {modes} with another mode, {removed} removed, {added} added");
    story.done(going, changed)
}

/// Has every machine compared with what it must be, file by file, by a process that knows nothing of the fleet.
async fn judge(fleet: &Fleet, tree: &Path, story: &mut Story) -> Result<(), Failure> {
    let going = Going::begin("compare every file");
    let mut paths = 0;
    for machine in MACHINES {
        let root = fleet.root(machine);
        let compared: Compared = hand(&["compare".as_ref(), root.as_os_str(), tree.as_os_str()]).await?;
        if let Some(first) = compared.differing.first() {
            let count = compared.differing.len();
            return Err(Failure::new(format!(
                "{machine} is not what it must be: {count} paths differ, {first} among them"
            )));
        }
        paths = compared.paths;
    }
    story.done(going, format!("{paths} paths on each machine, no difference"))
}

/// Has a process of its own do something, and tell what came of it.
async fn hand<T: DeserializeOwned>(arguments: &[&OsStr]) -> Result<T, Failure> {
    let what = || "the process that damages and judges broke down".to_owned();
    let program = std::env::current_exe().during(what)?;
    let mut command = Command::new(program);
    command.arg("demo-hand").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.during(what)?;
    if !output.stderr.is_empty() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(words.trim().trim_start_matches("dominate: ")));
    }
    serde_json::from_slice(&output.stdout).during(what)
}

/// Where all happens.
enum Place {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Place {
    fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = keep else {
            let made = tempfile::Builder::new().prefix("dominate-demo-").tempdir();
            return made.map(Self::Temporary).during(|| "can't make a temporary directory".into());
        };
        let what = || format!("can't work in {}", path.display());
        std::fs::create_dir_all(path).during(what)?;
        if std::fs::read_dir(path).during(what)?.next().is_some() {
            let why = "is not empty; name a directory that is, or none";
            return Err(Failure::new(format!("{} {why}", path.display())));
        }
        Ok(Self::Kept(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(path) => path,
        }
    }

    /// Removes it, unless it is to be kept: several parts at once, since there are tens of thousands of files.
    fn leave(self, story: &mut Story) -> Result<(), Failure> {
        let Self::Temporary(directory) = self else { return Ok(()) };
        let what = || format!("can't remove {}", directory.path().display());
        let going = Going::begin("clean up");
        let parts = trees::entries(directory.path()).during(what)?;
        std::thread::scope(|scope| {
            let removals: Vec<_> =
                parts.iter().map(|part| scope.spawn(move || std::fs::remove_dir_all(part))).collect();
            removals.into_iter().try_for_each(|removal| match removal.join() {
                Ok(removed) => removed,
                Err(_) => Err(std::io::Error::other("a thread broke down")),
            })
        })
        .during(what)?;
        directory.close().during(|| "can't remove the temporary directory".into())?;
        story.done(going, "everything of it is removed".into())
    }
}

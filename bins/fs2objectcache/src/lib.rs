//! Turns an old root into the object cache of the one that takes its place.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use dominator_daemon::process::EXIT_STATUS_OF_ANSWERS;
use dominator_daemon::report::remark;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::scan::Cancel;
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::update::{Salvage, Salvaged, Survey};

/// Turns an old root into the object cache of the one that takes its place.
///
/// The contents of every file are kept, each once, as objects in /.subd below the root, where an agent finds them instead of
/// fetching them. Everything else is removed. Interrupted at any moment, it loses nothing that is not in the cache, and can
/// be begun again. The root of the running system, one that a process lives in, and one in which something is mounted are
/// refused. The answer is no when something had to stay.
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
    let during = || format!("can't make an object cache of {shown}");
    let salvage = Salvage::look(&options.root, &Cancel::default()).during(during)?;
    let Survey { names, objects, bytes, unreadable } = salvage.survey();
    let bytes = HumanBytes(bytes);
    say(&format!("{names} names, {objects} objects of {bytes}, {unreadable} names of what can't be read"))?;
    if options.dry_run {
        return Ok(unreadable == 0);
    }
    let seam: Arc<dyn Seam> = Arc::new(Kernel);
    let Salvaged { moved, removed, left } = salvage.run(&seam).during(during)?;
    left.iter().for_each(|left| remark("fs2objectcache", &format!("{} stays: {}", left.path, left.reason)));
    say(&format!("{moved} objects are new in the cache, {removed} names are gone, {} stay", left.len()))?;
    Ok(left.is_empty())
}

fn say(words: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{words}").during(|| "can't print the result".into())
}

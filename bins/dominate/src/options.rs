use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use dominator_daemon::report::OutputOptions;
use dominator_daemon::value::Duration;
use dominator_daemon::xattrs::XattrOptions;

use crate::demo;

/// Says whether a directory is what an image says, makes it so, and keeps it so: everything in one process.
///
/// An image is a directory or a tar archive; its root is what the directory must be. Contents, kinds, modes, owners,
/// modification times, hard links and extended attributes count. Run as an ordinary user, owners are passed over, since
/// such a user can't set them.
#[derive(Clone, Debug, Parser)]
#[command(name = "dominate", version, after_help = EXAMPLES)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
}

const EXAMPLES: &str = "\
Examples:
  dominate check --image web.tar --filter filter.txt --root /srv/web
  dominate enforce --image golden/ --root /srv/web --dry-run
  dominate enforce --image golden/ --root /srv/web --watch
  dominate undo --root /srv/web
  dominate scan --root /srv/web --state /var/tmp/web.state
  dominate demo

Exit status:
  0  everything is as it must be, or was made so
  1  something is not as it must be, or could not be made so
  2  not everything could be looked at, and what could be is as it must be
  3  the command line is wrong, or the command could not be carried out";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say in what a directory differs from an image; nothing is changed
    ///
    /// Each path that is not as it must be is named, with what it is and what it must be.
    Check(CheckOptions),
    /// Make a directory what an image says
    ///
    /// Everything new is written beside the tree, in `/.subd` below the root, and made durable; then each path changes in
    /// one step. The directory `/.subd` stays, and is part of no image. The image is read once, at the start, and must
    /// not be changed as long as --watch needs it.
    Enforce(EnforceOptions),
    /// Say what a directory is: the id of its tree, and how much there is
    Scan(ScanOptions),
    /// Take the last update back
    ///
    /// Whoever made it, `enforce` or an agent: all it changed is as before, as long as nothing was made since and no
    /// controller has seen the machine in order. What somebody changed since is kept, below `/.subd/conflicts`, and told
    /// of. An update that was cut off is brought to its end first. Services are not touched; an agent must not run.
    Undo(RootOptions),
    /// Bring an update to its end that was cut off, and say what there is to undo
    ///
    /// An agent does that itself when it starts, and `enforce` before anything else. This is for a machine whose agent is
    /// down. All of it is finished, or else undone.
    Recover(RootOptions),
    /// Remove, for good, what somebody had changed and undoing moved out of the way, below /.subd/conflicts
    ///
    /// Only a person can know that none of it is missed. An agent must not run; `subtool remove-conflicts` is for that.
    RemoveConflicts(RootOptions),
    /// Run a whole fleet in this process, disturb it, and watch it being repaired
    ///
    /// An authority, an image server, a controller and three machines with certificates of their own, all in this
    /// process, talk only over mutual TLS. Two images are made of a real tree; the machines become the first, then the
    /// second; a process of its own damages them in six ways and waits until somebody repairs it; another compares every
    /// file. It needs no privileges, takes less than a minute, and leaves nothing behind.
    Demo(DemoOptions),
    /// The part of the demonstration that is a process of its own
    #[command(subcommand, hide = true)]
    DemoHand(demo::Hand),
}

/// What a directory must be.
#[derive(Clone, Debug, Args)]
pub struct ImageOptions {
    /// What it must be: a directory, or a tar archive that is not compressed
    #[arg(long, value_name = "DIR|TAR")]
    pub image: PathBuf,
    /// Leave alone what matches a line of this file: regular expressions, anchored at the start of the path. Without
    /// it, everything that is not in the image has to go; "" makes the image sparse: only its own paths count
    #[arg(long, value_name = "FILE")]
    pub filter: Option<OsString>,
    /// The directory
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which extended attributes count.
    #[command(flatten)]
    pub xattrs: XattrOptions,
}

/// How to check.
#[derive(Clone, Debug, Args)]
pub struct CheckOptions {
    /// What it must be.
    #[command(flatten)]
    pub image: ImageOptions,
}

/// How to enforce.
#[derive(Clone, Debug, Args)]
pub struct EnforceOptions {
    /// What it must be.
    #[command(flatten)]
    pub image: ImageOptions,
    /// Services to stop before and start after changes to their paths, as JSON. They are only named, not touched,
    /// unless the root is the running system
    #[arg(long, value_name = "FILE")]
    pub triggers: Option<PathBuf>,
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "watch")]
    pub dry_run: bool,
    /// Keep the directory so, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// With --watch: look again this long after the last look, as in 500ms, 1s, 2m
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: Duration,
    /// Allow the root of the running system to be changed
    #[arg(long)]
    pub allow_live_root: bool,
}

/// Of what.
#[derive(Clone, Debug, Args)]
pub struct RootOptions {
    /// The directory
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
}

/// How to scan.
#[derive(Clone, Debug, Args)]
pub struct ScanOptions {
    /// The directory
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Leave out what matches a line of this file
    #[arg(long, value_name = "FILE")]
    pub filter: Option<OsString>,
    /// Use so many threads [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Keep in this file what was found, and read again only what changed since. It is made if it is not there, and
    /// should not lie in the directory itself
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// With --state: what is read within this time of its last change is read once more after it. Until such a change
    /// is on the disk, another one, made through a shared mapping, can go unnoticed [default: what this kernel is set
    /// to, mostly 36s]
    #[arg(long, value_name = "TIME", requires = "state")]
    pub write_back_expiry: Option<Duration>,
    /// Which extended attributes count.
    #[command(flatten)]
    pub xattrs: XattrOptions,
}

/// How to demonstrate.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// Make the images of this directory, taken whole [default: some 5000 files of /usr/share]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Work in this directory, which must be empty or not exist, and leave everything there
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn an_empty_filter_name_is_a_name() {
        let options =
            Options::try_parse_from(["dominate", "check", "--image=i", "--root=r", "--filter", ""]).unwrap();
        let Command::Check(CheckOptions { image }) = options.command else { panic!("no check") };
        assert_eq!(image.filter.unwrap(), "");
    }
}

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::path::{BadPath, ImagePath};
use dominator_core::port::{Disruption, Percent, Reconfiguration};
use dominator_core::trigger::ServiceName;
use dominator_daemon::process::EXIT_STATUS_OF_ANSWERS;
use dominator_daemon::report::OutputOptions;
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::{Duration, HostPort};

use crate::push::{Order, Push};

/// Asks one machine's subd how the machine stands and what an image would change, and gives it orders by hand: to become
/// an image once, to take that back, to work harder or less.
#[derive(Clone, Debug, Parser)]
#[command(name = "subtool", version, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS_OF_ANSWERS}"))]
pub struct Options {
    /// Talk to this subd
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6969", global = true)]
    pub sub: HostPort,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
    /// Whom to be and whom to believe.
    #[command(flatten)]
    pub tls: TlsOptions,
}

const EXAMPLES: &str = "\
Examples:
  subtool --sub web1:6969 poll
  subtool --sub web1:6969 history
  subtool --sub web1:6969 show-update-request web/2026-11-22 --image-server images:6971
  subtool --sub web1:6969 push-image web/2026-11-22 --image-server images:6971 --dry-run
  subtool --sub web1:6969 undo --mark-bad
  subtool --sub web1:6969 set-config --scan-speed-percent 10";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show how the machine stands
    Poll,
    /// Show what became of the last updates: plan, services, health checks, times and outcome
    History {
        /// So many, the latest first, at most 1000
        #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Lift the limit on processor time until the end of the scan under way, or of the next
    BoostCpuLimit,
    /// Lift the limit on reading from the disk until the end of the scan under way, or of the next
    BoostScanLimit,
    /// Show how hard subd may work and what it leaves alone
    GetConfig,
    /// Change how hard subd may work, until it ends
    ///
    /// To change it for good, change subd's configuration file.
    SetConfig(LimitOptions),
    /// Show what would be done to make the machine be an image
    ///
    /// When subd looks through another view than the image needs, it is told to look through that one, and scans anew;
    /// the dominator sets its own view again when it polls next.
    ShowUpdateRequest(ImageOptions),
    /// Make the machine be an image, once: compare, fetch, update, as a dominator does
    ///
    /// Nobody else's orders are carried out meanwhile. A dominator that wants another image makes the machine that again.
    PushImage(PushOptions),
    /// List the objects the machine would need to be an image; some of them may lie on its disk elsewhere
    ListMissingObjects(ImageOptions),
    /// Hand the machine the objects it would need to be an image, where it can't fetch them, and change nothing
    ///
    /// They come from the image server, or an object server, to here, and go from here to the machine.
    PushMissingObjects {
        /// Which image, and where it is.
        #[command(flatten)]
        of: ImageOptions,
        /// Get objects from this server [default: the image server]
        #[arg(long, value_name = "HOST:PORT")]
        object_server: Option<HostPort>,
    },
    /// Make the machine fetch what it needs to be an image, and change nothing
    FetchImage {
        /// Which image, and from where.
        #[command(flatten)]
        of: ImageOptions,
        /// Fetch objects here first; may be given several times
        #[arg(long, value_name = "HOST:PORT")]
        object_server: Vec<HostPort>,
    },
    /// Wait until the machine was made to be an image and that is no trial any more
    ///
    /// The exit status is 1 when the image was found bad on the machine, or the time is over.
    WaitForImage {
        /// Which image
        image: ImageName,
        /// Wait so long at most, as in 90s, 10m
        #[arg(long, value_name = "TIME", default_value = "10m")]
        timeout: Duration,
    },
    /// Make the machine fetch objects
    Fetch {
        /// Their ids, as list-missing-objects shows them
        #[arg(value_name = "OBJECT", required = true)]
        objects: Vec<ObjectId>,
        /// Fetch here
        #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971")]
        object_server: HostPort,
    },
    /// Put the contents of a file of yours in place on the machine, by way of an object server
    ///
    /// Mode and time are those of your file, the owner that of the file it replaces, or root. Services are not touched.
    PushFile {
        /// Which file of yours
        file: PathBuf,
        /// Its path on the machine
        #[arg(value_parser = path)]
        path: ImagePath,
        /// Hand it over to this server, from which the machine fetches it
        #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971")]
        object_server: HostPort,
    },
    /// Get a file of the machine
    GetFile {
        /// Its path on the machine
        #[arg(value_parser = path)]
        path: ImagePath,
        /// Write it to this file of yours [default: standard output]
        file: Option<PathBuf>,
    },
    /// Delete paths of the machine, with all below them that is in view; services are not touched
    Delete {
        /// Which
        #[arg(value_name = "PATH", required = true, value_parser = path)]
        paths: Vec<ImagePath>,
    },
    /// Make the machine drop what it fetched; what undoing the last update needs stays
    Cleanup,
    /// Remove, for good, what somebody had changed and undoing moved out of the way; poll shows it, and it can be looked at
    /// below /.subd/conflicts on the machine
    RemoveConflicts,
    /// Take the last update back, with its services, as long as the machine keeps what that needs
    Undo {
        /// Have the image not tried again on this machine until it is forgiven
        #[arg(long)]
        mark_bad: bool,
    },
    /// Have an image tried again that was found bad on this machine
    #[command(group(clap::ArgGroup::new("which").required(true)))]
    Forgive {
        /// Which image
        #[arg(group = "which")]
        image: Option<ImageName>,
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
    },
    /// Restart a service of the machine
    RestartService {
        /// Which
        service: ServiceName,
    },
    /// Take such commands line by line from standard input, all for one machine, over one connection
    ///
    /// Words are divided as shells do; # begins a remark; exit, or the end of the input, ends it. Typed at a terminal, a
    /// command that fails says so. A script ends with the first that does not do what it is to do, and with its exit status.
    Shell,
}

/// Which image, and where it is.
#[derive(Clone, Debug, Args)]
pub struct ImageOptions {
    /// Which image
    pub image: ImageName,
    /// Get the image from this server
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971")]
    pub image_server: HostPort,
}

impl ImageOptions {
    /// Where the machine gets objects: from the servers named, then from where the image is.
    pub(crate) fn sources(&self, first: &[HostPort]) -> Vec<String> {
        first.iter().chain([&self.image_server]).map(ToString::to_string).collect()
    }
}

/// How an image is pushed.
#[derive(Clone, Debug, Args)]
pub struct PushOptions {
    /// Which image, and from where.
    #[command(flatten)]
    pub of: ImageOptions,
    /// Fetch objects here first; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub object_server: Vec<HostPort>,
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "force")]
    pub dry_run: bool,
    /// Also if the machine was of another image stream, or would lose more than half of what it has
    #[arg(long)]
    pub force: bool,
    /// Don't ask whether those who use the machine may be disturbed
    #[arg(long)]
    pub force_disruption: bool,
}

impl PushOptions {
    /// What is to be done.
    pub(crate) fn order(&self) -> Order<'_> {
        Order {
            image: &self.of.image,
            sources: self.of.sources(&self.object_server),
            push: match (self.dry_run, self.force) {
                (true, _) => Push::DryRun,
                (false, true) => Push::Forced,
                (false, false) => Push::Guarded,
            },
            disruption: if self.force_disruption { Disruption::Force } else { Disruption::Ask },
        }
    }
}

/// How hard subd may work.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct LimitOptions {
    /// Take at most this share of the processors for scans, from 1 to 100; 100 is no limit
    #[arg(long, value_name = "PERCENT")]
    pub cpu_percent: Option<Percent>,
    /// Take at most this share of the disk's speed for scans, from 1 to 100; 100 is no limit
    #[arg(long, value_name = "PERCENT")]
    pub scan_speed_percent: Option<Percent>,
    /// Fetch with at most this share of the network interface's speed, from 1 to 100; 100 is no limit
    #[arg(long, value_name = "PERCENT")]
    pub network_speed_percent: Option<Percent>,
    /// Fetch at most this many bytes a second, whatever the interface can; 0 is no limit
    #[arg(long, value_name = "BYTES")]
    pub network_bytes_per_second: Option<u64>,
}

impl LimitOptions {
    /// What is to change.
    pub(crate) fn change(&self) -> Reconfiguration {
        Reconfiguration {
            cpu: self.cpu_percent,
            scan_speed: self.scan_speed_percent,
            network_speed: self.network_speed_percent,
            network_bytes: self.network_bytes_per_second,
        }
    }
}

fn path(text: &str) -> Result<ImagePath, BadPath> {
    ImagePath::parse(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn is_accepted(words: &[&str]) -> bool {
        Options::try_parse_from(["subtool"].iter().chain(words)).is_ok()
    }

    #[test]
    fn the_command_line_holds_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn what_is_to_be_forgiven_or_changed_is_said() {
        for (words, accepted) in [
            (&["forgive"][..], false),
            (&["forgive", "web/1"], true),
            (&["forgive", "--all"], true),
            (&["forgive", "web/1", "--all"], false),
            (&["set-config"], false),
            (&["set-config", "--cpu-percent=5", "--scan-speed-percent=7"], true),
            (&["push-image", "web/1", "--dry-run", "--force"], false),
            (&["delete"], false),
            (&["delete", "etc/motd"], false),
            (&["restart-service", "--now"], false),
            (&["history", "--limit=0"], false),
        ] {
            assert_eq!(is_accepted(words), accepted, "{words:?}");
        }
    }
}

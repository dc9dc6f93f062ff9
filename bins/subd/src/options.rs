use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use dominator_core::filter::{BadFilter, Filter, Lines};
use dominator_core::port::Percent;
use dominator_daemon::value::Duration;
use dominator_daemon::{Daemon, DaemonOptions};
use dominator_fs::agent::Effort;
use dominator_fs::pace::{BytesPerSecond, Priority};

/// What this daemon is called and where it lives.
pub const DAEMON: Daemon = Daemon { name: "subd", listen: "0.0.0.0:6969", state_dir: "/var/lib/subd" };

/// What a machine's own changing data are, left alone when the root is the machine's and nothing else is said.
pub const USUAL_EXCLUSIONS: [&str; 7] =
    ["/data/.*", "/home/.*", "/tmp/.*", "/var/log/.*", "/var/mail/.*", "/var/spool/.*", "/var/tmp/.*"];

/// Keeps a machine as its image says.
///
/// subd looks at all files below its root again and again and tells the dominator what it sees. When that is not what
/// the machine must be, the dominator has it fetch the objects it lacks and carry out a plan: every path is replaced at
/// once or not at all, and the services concerned are stopped and started.
#[derive(Clone, Debug, Parser)]
#[command(name = "subd", version, after_help = EXAMPLE)]
pub struct Options {
    /// Keep what is below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root_dir: PathBuf,
    /// Begin a scan this long after the last one ended, as in 500ms, 60s, 2m
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub scan_interval: Duration,
    /// Read at most this share of what the disk can, from 1 to 100, while scanning; what is in memory already is free;
    /// 100 is no limit
    #[arg(long, value_name = "PERCENT", default_value = "2")]
    pub scan_speed_percent: Percent,
    /// Use at most this share of the processors, and never more than one of them, while scanning; 100 is no limit
    #[arg(long, value_name = "PERCENT", default_value = "50")]
    pub cpu_percent: Percent,
    /// How the threads that scan rank among the others of this machine: background is nice 15, and the disk when nobody
    /// else wants it
    #[arg(long, value_enum, default_value_t = ScanPriority::Background)]
    pub scan_priority: ScanPriority,
    /// How fast the disk is, in bytes a second, instead of measuring it at the first start
    #[arg(long, value_name = "BYTES")]
    pub root_device_bytes_per_second: Option<NonZeroU64>,
    /// Read everything again in about this time, to find what the disk has lost, as in 24h; 0s is never
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub scrub_time: Duration,
    /// Never look at paths that match this line, as in a filter file; may be given several times [default, with
    /// --root-dir /: /data/.* /home/.* /tmp/.* /var/log/.* /var/mail/.* /var/spool/.* /var/tmp/.*]
    #[arg(long, value_name = "LINE")]
    pub exclude: Vec<String>,
    /// Exclude nothing, not even what is excluded by default
    #[arg(long, conflicts_with = "exclude")]
    pub exclude_nothing: bool,
    /// Who starts and stops services
    #[arg(long, value_enum, default_value_t = Services::Auto)]
    pub services: Services,
    /// What every daemon has. Last, as its headings would stand above what follows.
    #[command(flatten)]
    pub common: DaemonOptions,
}

const EXAMPLE: &str = "\
Example, on a machine with its certificate in /etc/ssl/subd:
  subd --scan-interval 30s

Example, keeping a directory as an ordinary user:
  subd --root-dir ~/tree --state-dir ~/subd --listen 127.0.0.2:6969 \\
       --cert-file subd.pem --key-file subd.key.pem --ca-file CA.pem";

/// Who starts and stops services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Services {
    /// systemctl or service when the root is /, nobody otherwise
    Auto,
    /// Nobody: triggers are passed over
    None,
}

/// How threads rank among those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScanPriority {
    /// Behind all others
    Background,
    /// As the daemon was started
    Inherited,
}

impl Options {
    /// How hard it works at looking.
    pub fn effort(&self) -> Effort {
        let scrub = self.scrub_time.get();
        Effort {
            cpu: self.cpu_percent,
            scan_speed: self.scan_speed_percent,
            disk: self.root_device_bytes_per_second.and_then(|bytes| BytesPerSecond::new(bytes.get())),
            priority: match self.scan_priority {
                ScanPriority::Background => Priority::Background,
                ScanPriority::Inherited => Priority::Inherited,
            },
            scrub: (!scrub.is_zero()).then_some(scrub),
            write_back_expiry: None,
        }
    }

    /// What the machine's operator wants left alone.
    ///
    /// # Errors
    /// [`BadFilter`] naming the first line that is wrong.
    pub fn exclusions(&self) -> Result<Filter, BadFilter> {
        let usual = || USUAL_EXCLUSIONS.map(str::to_owned).to_vec();
        let lines = match (self.exclude_nothing, self.exclude.is_empty()) {
            (false, false) => self.exclude.clone(),
            (false, true) if self.is_whole_machine() => usual(),
            (true, _) | (false, true) => return Ok(Filter::Empty),
        };
        Lines::new(lines).map(Filter::Lines)
    }

    /// What the daemon can't start without: no image may take it away.
    pub fn own_files(&self) -> Vec<PathBuf> {
        let tls = &self.common.tls;
        let own = tls.daemon_paths(DAEMON.name);
        let configuration = self.common.config.clone();
        [own.certificate, own.key].into_iter().chain(tls.daemon_authorities()).chain(configuration).collect()
    }

    /// Whether the root is the running machine's own.
    pub fn is_whole_machine(&self) -> bool {
        self.root_dir.canonicalize().is_ok_and(|root| root.parent().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    fn check(arguments: &[&str], excluded: usize) {
        let arguments = ["subd"].iter().chain(arguments);
        let options: Options =
            dominator_daemon::config::parse(|c| DAEMON.adjust(c), arguments.map(Into::into)).unwrap();
        let lines = match options.exclusions().unwrap() {
            Filter::Lines(lines) => lines.lines().len(),
            Filter::Empty | Filter::Sparse => 0,
        };
        assert_eq!(lines, excluded, "{options:?}");
    }

    #[test]
    fn changing_data_are_excluded_by_default_on_a_whole_machine_only() {
        check(&[], 7);
        check(&["--root-dir=/proc/.."], 7);
        check(&["--root-dir=/usr"], 0);
        check(&["--exclude=/x", "--exclude=/y"], 2);
        check(&["--root-dir=/usr", "--exclude=/x"], 1);
        check(&["--exclude-nothing"], 0);
    }

    #[test]
    fn what_the_daemon_starts_from_is_its_own() {
        let own = |arguments: &[&str]| {
            let arguments = ["subd"].iter().chain(arguments);
            let options: Options =
                dominator_daemon::config::parse(|c| DAEMON.adjust(c), arguments.map(Into::into)).unwrap();
            options.own_files()
        };
        let usual = ["subd/cert.pem", "subd/key.pem", "CA.pem", "IdentityCA.pem"];
        assert_eq!(own(&[]), usual.map(|name| Path::new("/etc/ssl").join(name)));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("subd.toml");
        let config = format!("--config={}", file.display());
        let given =
            own(&["--cert-file=/c", "--key-file=/k", "--ca-file=/a", "--identity-ca-file=/i", &config]);
        assert_eq!(
            given,
            ["/c", "/k", "/a", "/i"].map(PathBuf::from).into_iter().chain([file]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn scans_are_held_back_unless_something_else_is_said() {
        let effort = |arguments: &[&str]| {
            let arguments = ["subd"].iter().chain(arguments);
            let options: Options =
                dominator_daemon::config::parse(|c| DAEMON.adjust(c), arguments.map(Into::into)).unwrap();
            options.effort()
        };
        let usual = effort(&[]);
        assert_eq!((usual.scan_speed.get(), usual.cpu.get()), (2, 50));
        assert_eq!((usual.priority, usual.disk), (Priority::Background, None));
        assert_eq!(usual.scrub.map(|time| time.as_secs()), Some(24 * 3600));
        let given = effort(&["--scrub-time=0s", "--root-device-bytes-per-second=1000", "--cpu-percent=100"]);
        assert_eq!((given.scrub, given.disk, given.cpu), (None, BytesPerSecond::new(1000), Percent::ALL));
    }

    #[test]
    fn what_is_about_scans_stands_under_no_other_heading() {
        let command = DAEMON.adjust(Options::command());
        let argument = command.get_arguments().find(|argument| argument.get_id() == "scan_interval");
        assert_eq!(argument.map(clap::Arg::get_help_heading), Some(None));
    }

    #[test]
    fn the_example_configuration_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("subd.toml");
        dominator_daemon::config::check::<Options>(&path).unwrap();
        Options::command().debug_assert();
    }
}

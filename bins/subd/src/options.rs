use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use dominator_core::auth::People;
use dominator_core::filter::{BadFilter, Filter, Lines};
use dominator_core::port::{AgentMode, Percent};
use dominator_core::trigger::ServiceName;
use dominator_daemon::value::Duration;
use dominator_daemon::{Daemon, DaemonOptions, Failure, people};
use dominator_fs::agent::{Effort, UndoBudget};
use dominator_fs::audit::Rotation;
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
    /// Fetch objects with at most this share of what the network interface towards their source can, from 1 to 100; 100
    /// is no limit; what comes from this machine itself is not limited
    #[arg(long, value_name = "PERCENT", default_value = "10")]
    pub network_speed_percent: Percent,
    /// Fetch at most this many bytes a second, whatever the interface can
    #[arg(long, value_name = "BYTES")]
    pub network_bytes_per_second: Option<NonZeroU64>,
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
    /// Only look and answer: nothing is fetched, and nothing is changed
    #[arg(long, group = "mode")]
    pub read_only: bool,
    /// Carry no update out; objects are fetched. To stop updates without a restart, make a file `stop` in the state
    /// directory; its first line is told to whoever asks
    #[arg(long, group = "mode")]
    pub disable_updates: bool,
    /// Carry updates out without stopping, starting or reloading services, whatever the triggers say
    #[arg(long, group = "mode")]
    pub disable_triggers: bool,
    /// Keep what undoing the last update needs for this long, as in 24h; 0s is not at all
    #[arg(long, value_name = "TIME", default_value = "168h")]
    pub keep_undo: Duration,
    /// Keep it only while it takes no more than this
    #[arg(long, value_name = "BYTES", default_value = "4294967296")]
    pub keep_undo_bytes: u64,
    /// Have this service watch over an agent that replaces itself, as in subd-guard: it takes the update back when the new
    /// agent does not come up
    #[arg(long, value_name = "SERVICE")]
    pub guard: Option<ServiceName>,
    /// Ask this program before users are disturbed: it is called with check, request or cancel, and its exit status says
    /// whether that is permitted (0), requested (1) or denied (2)
    #[arg(long, value_name = "PROGRAM")]
    pub disruption_manager: Option<PathBuf>,
    /// Run this program at the start and after each update that was made; the first line it prints, of which 64 bytes are
    /// kept, is told with the machine's status
    #[arg(long, value_name = "PROGRAM")]
    pub note_command: Option<PathBuf>,
    /// Let this user call every method of Subd here, as the machine is his; may be given several times
    #[arg(long, value_name = "USER", value_parser = people::name)]
    pub owner_user: Vec<String>,
    /// Let members of this group call every method of Subd here, as the machine is theirs; may be given several times
    #[arg(long, value_name = "GROUP", value_parser = people::name)]
    pub owner_group: Vec<String>,
    /// What this machine is, as in tier=front: certificates may end at machines with some tags, and are good for nothing on
    /// a machine that is not said to have them; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
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
            network_speed: self.network_speed_percent,
            network_bytes: self.network_bytes_per_second,
            disk: self.root_device_bytes_per_second.and_then(|bytes| BytesPerSecond::new(bytes.get())),
            priority: match self.scan_priority {
                ScanPriority::Background => Priority::Background,
                ScanPriority::Inherited => Priority::Inherited,
            },
            scrub: (!scrub.is_zero()).then_some(scrub),
            write_back_expiry: None,
            ..Effort::default()
        }
    }

    /// What it was started to do.
    pub fn mode(&self) -> AgentMode {
        match (self.read_only, self.disable_updates, self.disable_triggers) {
            (true, _, _) => AgentMode::ReadOnly,
            (false, true, _) => AgentMode::UpdatesDisabled,
            (false, false, true) => AgentMode::TriggersDisabled,
            (false, false, false) => AgentMode::Normal,
        }
    }

    /// How long what undoing needs is kept.
    pub fn undo_budget(&self) -> UndoBudget {
        UndoBudget { time: self.keep_undo.get(), bytes: self.keep_undo_bytes }
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
        let configuration = self.common.config.clone();
        let audit = &self.common.audit;
        // Where it is usually, it is protected with the state directory.
        let rotation = Rotation { size: audit.audit_log_size, kept: audit.audit_log_count };
        let log = audit.audit_log.iter().flat_map(|path| rotation.files(path));
        self.common.tls.daemon_files(DAEMON.name).into_iter().chain(configuration).chain(log).collect()
    }

    /// Whose machine it is.
    pub fn owners(&self) -> People {
        People::new(self.owner_user.iter().cloned(), self.owner_group.iter().cloned())
    }

    /// What this machine is.
    ///
    /// # Errors
    /// [`Failure`] when a tag is said to have two values.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut tags = BTreeMap::new();
        for (key, value) in &self.tag {
            if tags.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
                return Err(Failure::new(format!("--tag {key} is given with two values; a tag has one")));
            }
        }
        Ok(tags)
    }

    /// Whether the root is the running machine's own.
    pub fn is_whole_machine(&self) -> bool {
        self.root_dir.canonicalize().is_ok_and(|root| root.parent().is_none())
    }
}

fn tag(text: &str) -> Result<(String, String), &'static str> {
    let tag = text.split_once('=').filter(|(key, _)| !key.is_empty());
    tag.map(|(key, value)| (key.into(), value.into())).ok_or("a tag is KEY=VALUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_owners_and_tags_of_one_value_each() {
        let parse = |arguments: &[&str]| {
            let arguments = ["subd"].iter().chain(arguments);
            dominator_daemon::config::parse::<Options>(|c| DAEMON.adjust(c), arguments.map(Into::into))
        };
        let nobodys = parse(&[]).unwrap();
        assert!(nobodys.owners().is_empty() && nobodys.tags().unwrap().is_empty());
        let options =
            parse(&["--owner-user=alice", "--owner-group=web", "--tag=tier=front", "--tag=a=b=c"]).unwrap();
        assert_eq!(options.owners(), People::new(["alice"], ["web"]));
        let tags = [("tier", "front"), ("a", "b=c")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(options.tags().unwrap(), tags.into());
        assert!(parse(&["--tag=tier=front", "--tag=tier=back"]).unwrap().tags().is_err());
        assert!(["--tag=tier", "--tag==front", "--owner-user="].iter().all(|flag| parse(&[flag]).is_err()));
    }
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
        let usual = ["subd/cert.pem", "subd/key.pem", "CA.pem", "IdentityCA.pem", "CRL.pem", "deny-list"];
        assert_eq!(own(&[]), usual.map(|name| Path::new("/etc/ssl").join(name)));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("subd.toml");
        let config = format!("--config={}", file.display());
        let given =
            own(&["--cert-file=/c", "--key-file=/k", "--ca-file=/a", "--identity-ca-file=/i", &config]);
        let log = own(&["--audit-log=/l", "--audit-log-count=2"]);
        assert_eq!(log[usual.len()..], ["/l", "/l.new", "/l.1", "/l.2"].map(PathBuf::from));
        let named = ["/c", "/k", "/a", "/i", "/etc/ssl/CRL.pem", "/etc/ssl/deny-list"].map(PathBuf::from);
        assert_eq!(given, named.into_iter().chain([file]).collect::<Vec<_>>());
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
        assert_eq!((usual.network_speed.get(), usual.network_bytes), (10, None));
        assert_eq!((usual.priority, usual.disk), (Priority::Background, None));
        assert_eq!(usual.scrub.map(|time| time.as_secs()), Some(24 * 3600));
        let given = effort(&["--scrub-time=0s", "--root-device-bytes-per-second=1000", "--cpu-percent=100"]);
        assert_eq!((given.scrub, given.disk, given.cpu), (None, BytesPerSecond::new(1000), Percent::ALL));
    }

    #[test]
    fn an_agent_does_everything_unless_one_thing_else_is_said() {
        let parse = |arguments: &[&str]| {
            let arguments = ["subd"].iter().chain(arguments);
            dominator_daemon::config::parse::<Options>(|c| DAEMON.adjust(c), arguments.map(Into::into))
        };
        let mode = |flag: &[&str]| parse(flag).unwrap().mode();
        assert_eq!(mode(&[]), AgentMode::Normal);
        assert_eq!(mode(&["--read-only"]), AgentMode::ReadOnly);
        assert_eq!(mode(&["--disable-updates"]), AgentMode::UpdatesDisabled);
        assert_eq!(mode(&["--disable-triggers"]), AgentMode::TriggersDisabled);
        assert!(parse(&["--read-only", "--disable-triggers"]).is_err());
        assert_eq!(parse(&[]).unwrap().undo_budget(), UndoBudget::default());
        assert_eq!(
            parse(&["--keep-undo=0s", "--keep-undo-bytes=0"]).unwrap().undo_budget(),
            UndoBudget::NOTHING
        );
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

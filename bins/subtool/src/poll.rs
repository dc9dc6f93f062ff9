//! How a machine stands, as shown.

use std::io::{self, Write};

use dominator_core::inode::Timestamp;
use dominator_core::port::{
    Activity, Agent, Corruption, PathFailure, Percent, PollReply, PollRequest, ScanReach, Scanned,
    ScrubStatus, Works,
};
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use dominator_daemon::value::{HumanBytes, rfc3339_at};
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::condition::Condition;

/// The answer to a poll.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Reply {
    scanned: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<String>,
    generation: u64,
    scan_count: u64,
    scan_seconds: f64,
    scan_reach: &'static str,
    scan_files_opened: u64,
    scan_bytes_hashed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<Scrub>,
    limits: Limits,
    watch: State,
    beneath_mounts: State,
    activity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_error: Option<String>,
    /// Some of them.
    update_failures: Vec<Remark>,
    update_failure_count: u64,
    free_bytes: u64,
    unknown_count: u64,
    /// Some of them.
    unknown: Vec<Remark>,
    kept: Vec<String>,
    /// Some of them.
    corrupt: Vec<Corrupt>,
    #[serde(flatten)]
    condition: Condition,
}

/// How far the slow pass over everything is.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Scrub {
    done_bytes: u64,
    total_bytes: u64,
    began: String,
    corrupt_count: u64,
}

/// How the agent holds itself back.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_percent: Option<u8>,
}

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct State {
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// A file whose contents had changed although nobody changed them.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Corrupt {
    path: String,
    was: String,
    is: String,
    found: String,
}

/// Polls whatever view the agent looks through.
pub(crate) async fn poll(agent: &dyn Agent) -> Result<Reply, Failure> {
    let reply = agent.poll(PollRequest::default()).await.during(|| "can't poll".into())?;
    Ok(Reply::of(&reply))
}

impl Reply {
    fn of(PollReply { scanned, status, details }: &PollReply) -> Self {
        let (word, tree) = match scanned {
            Scanned::NeedView => ("needs-view", None),
            Scanned::NotYet => ("not-yet", None),
            Scanned::Tree(tree) => ("complete", Some(tree)),
        };
        let remark = |fact: &PathFailure| Remark::new(&fact.path, fact.reason.as_str());
        Self {
            scanned: word,
            tree: tree.map(|tree| tree.id().to_string()),
            view: tree.map(|tree| tree.view.to_string()),
            generation: status.generation,
            scan_count: status.scans.count,
            scan_seconds: status.scans.duration.as_secs_f64(),
            scan_reach: match status.scans.reach {
                ScanReach::Full => "full",
                ScanReach::Incremental => "incremental",
                ScanReach::Hinted => "hinted",
            },
            scan_files_opened: status.scans.files_opened,
            scan_bytes_hashed: status.scans.bytes_hashed,
            scrub: status.scrub.as_ref().map(Scrub::of),
            limits: Limits {
                disk_bytes_per_second: status.pacing.disk,
                cpu_percent: status.pacing.cpu.map(Percent::get),
                left_percent: status.pacing.left,
            },
            watch: State::of(&details.watch),
            beneath_mounts: State::of(&details.beneath_mounts),
            activity: match status.activity {
                Activity::Idle => "idle",
                Activity::Fetching => "fetching",
                Activity::Updating => "updating",
            },
            last_image: details.last_image.as_ref().map(ToString::to_string),
            last_update_error: details.last_update_error.clone(),
            write_error: details.write_error.clone(),
            update_failures: details.update_failures.iter().map(remark).collect(),
            update_failure_count: (details.update_failures.len() as u64)
                .saturating_add(details.more_update_failures),
            free_bytes: status.free_space,
            unknown_count: status.unknown,
            unknown: details.facts.iter().map(remark).collect(),
            kept: details.kept.iter().map(ToString::to_string).collect(),
            corrupt: details.corruptions.iter().map(Corrupt::of).collect(),
            condition: Condition::of(details),
        }
    }

    /// How it looks at the machine, line by line.
    fn looking(&self) -> Vec<(&'static str, String)> {
        let limit = |limit: Option<String>| limit.unwrap_or_else(|| "no limit".into());
        let Limits { disk_bytes_per_second: disk, cpu_percent: cpu, left_percent: left } = &self.limits;
        let disk = limit(disk.map(|disk| format!("{}/s", HumanBytes(disk))));
        let cpu = limit(cpu.map(|cpu| format!("{cpu} %")));
        let left = left.filter(|left| *left < 100);
        let left = left.map_or(String::new(), |left| format!(", {left} % of that while others wait"));
        let scrub = self.scrub.as_ref().map_or("none under way".into(), |scrub| {
            let (done, total) = (HumanBytes(scrub.done_bytes), HumanBytes(scrub.total_bytes));
            let (began, corrupt) = (&scrub.began, scrub.corrupt_count);
            format!("{done} of {total} since {began}, {corrupt} corrupt files so far")
        });
        vec![
            ("limits", format!("disk {disk}, processors {cpu}{left}")),
            ("scrub", scrub),
            ("watch", self.watch.words("on")),
            ("mounts", self.beneath_mounts.words("seen beneath")),
        ]
    }
}

impl Scrub {
    fn of(scrub: &ScrubStatus) -> Self {
        let ScrubStatus { done, total, began, corruptions } = *scrub;
        Self { done_bytes: done, total_bytes: total, began: time(began), corrupt_count: corruptions }
    }
}

impl State {
    fn of(works: &Works) -> Self {
        match works {
            Works::Yes => Self { works: true, why_not: None },
            Works::No(why) => Self { works: false, why_not: Some(why.clone()) },
        }
    }

    fn words(&self, yes: &str) -> String {
        self.why_not.as_ref().map_or_else(|| yes.into(), |why| format!("not {yes}: {why}"))
    }
}

impl Corrupt {
    fn of(corruption: &Corruption) -> Self {
        let Corruption { path, was, is, found } = corruption;
        Self { path: path.to_string(), was: was.to_string(), is: is.to_string(), found: time(*found) }
    }
}

/// A time, for people and programs.
pub(crate) fn time(time: Timestamp) -> String {
    rfc3339_at(u64::try_from(time.seconds()).unwrap_or(0))
}

impl Show for Reply {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "scan        {}, {} so far, the last ({}) in {:.3} s: {} files opened, {} hashed",
            self.scanned,
            self.scan_count,
            self.scan_reach,
            self.scan_seconds,
            self.scan_files_opened,
            HumanBytes(self.scan_bytes_hashed)
        )?;
        self.looking().iter().try_for_each(|(title, words)| writeln!(out, "{title:<11} {words}"))?;
        let lines = [
            ("tree", &self.tree),
            ("view", &self.view),
            ("was made", &self.last_image),
            ("unwritable", &self.write_error),
            ("last update", &self.last_update_error),
        ];
        for (title, words) in lines {
            if let Some(words) = words {
                writeln!(out, "{title:<11} {words}")?;
            }
        }
        self.update_failures.iter().try_for_each(|remark| writeln!(out, "            {remark}"))?;
        let more = self.update_failure_count.saturating_sub(self.update_failures.len() as u64);
        if more > 0 {
            writeln!(out, "            and {more} more")?;
        }
        writeln!(out, "activity    {}", self.activity)?;
        writeln!(out, "free space  {}", HumanBytes(self.free_bytes))?;
        writeln!(out, "unknown     {} paths", self.unknown_count)?;
        self.unknown.iter().try_for_each(|remark| writeln!(out, "            {remark}"))?;
        self.kept.iter().try_for_each(|path| writeln!(out, "kept        {path}"))?;
        self.corrupt
            .iter()
            .try_for_each(|Corrupt { path, found, .. }| writeln!(out, "corrupt     {path}, found {found}"))?;
        self.condition.text(out)
    }
}

//! How a machine stands, as shown.

use std::io::{self, Write};

use dominator_core::port::{Activity, Agent, PathFailure, PollReply, PollRequest, Scanned};
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use serde::Serialize;

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
    activity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_error: Option<String>,
    free_bytes: u64,
    unknown_count: u64,
    /// Some of them.
    unknown: Vec<Remark>,
    kept: Vec<String>,
}

/// Polls whatever view the agent looks through.
pub(crate) async fn poll(agent: &dyn Agent) -> Result<Reply, Failure> {
    let reply = agent.poll(PollRequest::default()).await.during(|| "can't poll".into())?;
    Ok(Reply::of(&reply))
}

impl Reply {
    fn of(PollReply { scanned, status }: &PollReply) -> Self {
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
            scan_count: status.scan_count,
            scan_seconds: status.scan_duration.as_secs_f64(),
            activity: match status.activity {
                Activity::Idle => "idle",
                Activity::Fetching => "fetching",
                Activity::Updating => "updating",
            },
            last_image: status.last_image.as_ref().map(ToString::to_string),
            last_update_error: status.last_update_error.clone(),
            write_error: status.write_error.clone(),
            free_bytes: status.free_space,
            unknown_count: status.unknown,
            unknown: status.facts.iter().map(remark).collect(),
            kept: status.kept.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Show for Reply {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "scan        {}, {} so far, the last in {:.3} s",
            self.scanned, self.scan_count, self.scan_seconds
        )?;
        let lines = [
            ("tree", &self.tree),
            ("view", &self.view),
            ("was made", &self.last_image),
            ("last update", &self.last_update_error),
            ("unwritable", &self.write_error),
        ];
        for (title, words) in lines {
            if let Some(words) = words {
                writeln!(out, "{title:<11} {words}")?;
            }
        }
        writeln!(out, "activity    {}", self.activity)?;
        writeln!(out, "free space  {}", HumanBytes(self.free_bytes))?;
        writeln!(out, "unknown     {} paths", self.unknown_count)?;
        self.unknown.iter().try_for_each(|remark| writeln!(out, "            {remark}"))?;
        self.kept.iter().try_for_each(|path| writeln!(out, "kept        {path}"))
    }
}

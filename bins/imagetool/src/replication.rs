//! Replicas and what they hold.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::port::ReplicationStatus;
use dominator_daemon::report::{Show, show};
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::Server;

/// How a server stands to its master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Replication {
    master: Option<String>,
    in_sync: bool,
    behind: usize,
    trouble: Option<String>,
    held_count: u64,
    held: Vec<Held>,
}

/// An image the master does not have as it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Held {
    image: String,
    reason: &'static str,
    #[serde(skip)]
    words: &'static str,
}

impl Replication {
    fn of(status: Option<(ReplicationStatus, u64)>) -> Self {
        let is_replica = status.is_some();
        let (status, held_count) = status.unwrap_or_default();
        let held = status.held.iter();
        let held =
            held.map(|(name, why)| Held { image: name.to_string(), reason: why.word(), words: why.words() });
        Self {
            master: is_replica.then_some(status.master),
            in_sync: status.in_sync,
            behind: status.behind,
            trouble: status.trouble,
            held_count,
            held: held.collect(),
        }
    }
}

impl Show for Replication {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(master) = &self.master else { return writeln!(out, "no replica") };
        writeln!(out, "{master}")?;
        match (&self.trouble, self.in_sync) {
            (Some(why), _) => writeln!(out, "not followed: {why}")?,
            (None, true) => writeln!(out, "in sync")?,
            (None, false) => writeln!(out, "behind by {} images", self.behind)?,
        }
        for held in &self.held {
            writeln!(out, "held {}: {}", held.image, held.words)?;
        }
        let told = u64::try_from(self.held.len()).unwrap_or(u64::MAX);
        match self.held_count.saturating_sub(told) {
            0 => Ok(()),
            more => writeln!(out, "and {more} more"),
        }
    }
}

/// Images that were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Accepted {
    accepted: Vec<String>,
}

impl Show for Accepted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let line = "is deleted on the replica, unless its master has it by now";
        self.accepted.iter().try_for_each(|name| writeln!(out, "{name} {line}"))
    }
}

impl Server {
    pub(crate) async fn replication_master(&self) -> Result<(), Failure> {
        let during = || "can't ask for the master".into();
        let status = self.images().await.during(during)?.replication_master().await.during(during)?;
        show(&Replication::of(status), self.format)
    }

    pub(crate) async fn accept_deletions(&self, names: &[ImageName]) -> Result<(), Failure> {
        let during = || "can't accept deletions".into();
        let refused = self.images().await.during(during)?.accept_deletions(names).await.during(during)?;
        let is_accepted = |name: &&ImageName| !refused.contains(name);
        let accepted = names.iter().filter(is_accepted).map(ToString::to_string).collect();
        show(&Accepted { accepted }, self.format)?;
        if refused.is_empty() {
            return Ok(());
        }
        let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
        Err(Failure::new(format!(
            "not held, or held for what can't be given up: {}; see imagetool get-replication-master",
            refused.join(", ")
        )))
    }
}

use std::sync::Arc;
use std::time::Duration;

use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Activity, AgentDetails, AgentStatus, Corruption, MachineTraits, Pacing, PollReply, PollRequest,
    ScanReach, ScanStatus, Scanned, ScrubStatus, Works,
};
use dominator_core::tree::{Tree, TreeId};
use dominator_core::view::ViewId;
use tonic::Status;

use super::agent::{
    failure, failure_from, image_name, micros, path, path_from, paths_from, percent_from, traits,
};
use super::condition::{condition, condition_from};
use super::{digest, ids, invalid, readable};
use crate::v1::poll_reply::Scanned as WireScanned;
use crate::{limits, v1};

/// What an asker has of an earlier answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) instance: u64,
    /// Their number; 0, when there are none.
    pub(crate) details: u64,
    pub(crate) tree: Option<TreeId>,
}

impl Held {
    /// Whether the details held are those of `status`.
    pub(crate) fn is_of(&self, status: &AgentStatus) -> bool {
        status.details != 0 && (self.instance, self.details) == (status.instance, status.details)
    }
}

pub(crate) fn poll_request(request: &PollRequest, held: Option<&Held>) -> v1::PollRequest {
    let held = held.map(|held| v1::HeldAnswer {
        instance: held.instance,
        details: held.details,
        tree: held.tree.map(|tree| ids([&tree.0])).unwrap_or_default(),
    });
    v1::PollRequest {
        view: request.view.map(|view| ids([&view.0])).unwrap_or_default(),
        known: request.known,
        wait_millis: u64::try_from(request.wait.as_millis()).unwrap_or(u64::MAX),
        held,
    }
}

pub(crate) fn poll_request_from(request: &v1::PollRequest) -> Result<(PollRequest, Held), Status> {
    let view = (!request.view.is_empty()).then(|| digest(&request.view).map(ViewId)).transpose()?;
    let wait = Duration::from_millis(request.wait_millis).min(limits::POLL_WAIT);
    let held = request.held.as_ref().map(held_from).transpose()?.unwrap_or_default();
    Ok((PollRequest { view, known: request.known, wait }, held))
}

fn held_from(held: &v1::HeldAnswer) -> Result<Held, Status> {
    let tree = (!held.tree.is_empty()).then(|| digest(&held.tree).map(TreeId)).transpose()?;
    Ok(Held { instance: held.instance, details: held.details, tree })
}

/// An answer without what the asker has. What it takes to make it grows with what it says.
pub(crate) fn poll_reply(reply: &PollReply, held: &Held) -> v1::PollReply {
    let scanned = match &reply.scanned {
        Scanned::NeedView => WireScanned::NeedView(v1::Empty {}),
        Scanned::NotYet => WireScanned::NotYet(v1::Empty {}),
        Scanned::Tree(tree) => {
            let encoding = tree.encode();
            if held.tree == Some(TreeId(ObjectId::of(&encoding))) {
                WireScanned::SameTree(v1::Empty {})
            } else {
                WireScanned::Tree(encoding.into())
            }
        }
    };
    let status = &reply.status;
    let same = held.is_of(status);
    let details = if same { v1::AgentStatus::default() } else { details(&reply.details) };
    let status = v1::AgentStatus { same_details: same, ..numbers(status, details) };
    v1::PollReply { scanned: Some(scanned), status: Some(status) }
}

fn numbers(status: &AgentStatus, details: v1::AgentStatus) -> v1::AgentStatus {
    v1::AgentStatus {
        instance: status.instance,
        generation: status.generation,
        scan_count: status.scans.count,
        scan_micros: micros(status.scans.duration),
        unknown: status.unknown,
        activity: activity(status.activity).into(),
        free_space: status.free_space,
        details: status.details,
        scan_reach: reach(status.scans.reach).into(),
        files_opened: status.scans.files_opened,
        bytes_hashed: status.scans.bytes_hashed,
        scrub: status.scrub.as_ref().map(scrub),
        pacing: Some(v1::Pacing {
            disk: status.pacing.disk,
            cpu: status.pacing.cpu.map(|cpu| cpu.get().into()),
            left: status.pacing.left.map(Into::into),
        }),
        ..details
    }
}

/// The details alone, to be found again by their encoding: without the numbers they came with.
pub(crate) fn without_numbers(status: v1::AgentStatus) -> v1::AgentStatus {
    let nothing = AgentStatus::default();
    v1::AgentStatus { pacing: None, activity: 0, same_details: false, ..numbers(&nothing, status) }
}

fn details(details: &AgentDetails) -> v1::AgentStatus {
    v1::AgentStatus {
        facts: details.facts.iter().take(AgentDetails::MAX_FACTS).map(failure).collect(),
        kept: details.kept.iter().map(path).collect(),
        last_update_error: details.last_update_error.clone(),
        update_failures: details
            .update_failures
            .iter()
            .take(AgentDetails::MAX_FAILURES)
            .map(failure)
            .collect(),
        more_update_failures: details.more_update_failures,
        last_image: details.last_image.as_ref().map(ToString::to_string),
        write_error: details.write_error.clone(),
        traits: Some(traits(&details.traits)),
        watch: Some(works(&details.watch)),
        beneath_mounts: Some(works(&details.beneath_mounts)),
        corruptions: details.corruptions.iter().take(AgentDetails::MAX_CORRUPTIONS).map(corruption).collect(),
        ..condition(details)
    }
}

/// The tree of an answer: one that came, or the one that was held.
pub(crate) fn scanned_from(
    scanned: Option<WireScanned>,
    held: Option<&Arc<Tree>>,
) -> Result<Scanned, Status> {
    match scanned {
        Some(WireScanned::NeedView(_)) => Ok(Scanned::NeedView),
        Some(WireScanned::NotYet(_)) => Ok(Scanned::NotYet),
        Some(WireScanned::Tree(bytes)) => Tree::decode(&bytes)
            .map(Scanned::Tree)
            .map_err(|error| invalid(format!("a tree that is none: {error}"))),
        Some(WireScanned::SameTree(_)) => held
            .map(|tree| Scanned::Tree(Tree::clone(tree)))
            .ok_or_else(|| invalid("the same tree as before, where there was none")),
        None => Err(invalid("an answer without what was scanned")),
    }
}

pub(crate) fn status_from(status: &v1::AgentStatus) -> Result<AgentStatus, Status> {
    Ok(AgentStatus {
        instance: status.instance,
        generation: status.generation,
        details: status.details,
        activity: activity_from(status.activity())?,
        unknown: status.unknown,
        free_space: status.free_space,
        scans: ScanStatus {
            count: status.scan_count,
            reach: reach_from(status.scan_reach()),
            duration: Duration::from_micros(status.scan_micros),
            files_opened: status.files_opened,
            bytes_hashed: status.bytes_hashed,
        },
        scrub: status.scrub.as_ref().map(scrub_from),
        pacing: status.pacing.as_ref().map(pacing_from).transpose()?.unwrap_or_default(),
    })
}

/// Reads the details but for the traits, which are dear to read.
pub(crate) fn details_from(
    status: v1::AgentStatus,
    traits: Arc<MachineTraits>,
) -> Result<AgentDetails, Status> {
    if status.facts.len() > AgentDetails::MAX_FACTS {
        return Err(invalid("more facts than an agent tells"));
    }
    if status.update_failures.len() > AgentDetails::MAX_FAILURES {
        return Err(invalid("more failures than an agent tells"));
    }
    if status.corruptions.len() > AgentDetails::MAX_CORRUPTIONS {
        return Err(invalid("more corrupt files than an agent tells"));
    }
    let conditioned = condition_from(&status, traits)?;
    Ok(AgentDetails {
        facts: status.facts.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        kept: paths_from(&status.kept)?,
        last_update_error: status.last_update_error.as_deref().map(readable),
        update_failures: status.update_failures.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        more_update_failures: status.more_update_failures,
        last_image: status.last_image.map(|name| image_name(&name)).transpose()?,
        write_error: status.write_error.as_deref().map(readable),
        watch: works_from(status.watch.as_ref()),
        beneath_mounts: works_from(status.beneath_mounts.as_ref()),
        corruptions: status.corruptions.iter().map(corruption_from).collect::<Result<_, _>>()?,
        ..conditioned
    })
}

fn reach(reach: ScanReach) -> v1::ScanReach {
    match reach {
        ScanReach::Full => v1::ScanReach::Full,
        ScanReach::Incremental => v1::ScanReach::Incremental,
        ScanReach::Hinted => v1::ScanReach::Hinted,
    }
}

fn reach_from(reach: v1::ScanReach) -> ScanReach {
    match reach {
        v1::ScanReach::Full => ScanReach::Full,
        v1::ScanReach::Incremental => ScanReach::Incremental,
        v1::ScanReach::Hinted => ScanReach::Hinted,
    }
}

fn scrub(scrub: &ScrubStatus) -> v1::Scrub {
    let ScrubStatus { done, total, began, corruptions } = *scrub;
    v1::Scrub { done, total, began: seconds(began), corruptions }
}

fn scrub_from(scrub: &v1::Scrub) -> ScrubStatus {
    let v1::Scrub { done, total, began, corruptions } = *scrub;
    ScrubStatus { done, total, began: time(began), corruptions }
}

fn pacing_from(pacing: &v1::Pacing) -> Result<Pacing, Status> {
    let left = pacing.left.map(u8::try_from).transpose();
    Ok(Pacing {
        disk: pacing.disk,
        cpu: pacing.cpu.map(percent_from).transpose()?,
        left: left.map_err(|_| invalid("more than 255 percent of the limits"))?,
    })
}

fn works(works: &Works) -> v1::Works {
    match works {
        Works::Yes => v1::Works { works: true, why_not: String::new() },
        Works::No(why) => v1::Works { works: false, why_not: why.clone() },
    }
}

fn works_from(works: Option<&v1::Works>) -> Works {
    match works {
        Some(v1::Works { works: true, .. }) => Works::Yes,
        Some(v1::Works { why_not, .. }) => Works::No(readable(why_not)),
        None => Works::No("the agent does not tell".into()),
    }
}

fn corruption(corruption: &Corruption) -> v1::Corruption {
    v1::Corruption {
        path: path(&corruption.path),
        was: ids([&corruption.was]),
        is: ids([&corruption.is]),
        found: seconds(corruption.found),
    }
}

fn corruption_from(corruption: &v1::Corruption) -> Result<Corruption, Status> {
    Ok(Corruption {
        path: path_from(&corruption.path)?,
        was: digest(&corruption.was)?,
        is: digest(&corruption.is)?,
        found: time(corruption.found),
    })
}

/// Whole seconds are enough for people; nothing here happened before 1970.
pub(super) fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.seconds()).unwrap_or(0)
}

pub(super) fn time(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::new(seconds, 0).expect("invariant: no nanoseconds are less than a second")
}

fn activity(activity: Activity) -> v1::Activity {
    match activity {
        Activity::Idle => v1::Activity::Idle,
        Activity::Fetching => v1::Activity::Fetching,
        Activity::Updating => v1::Activity::Updating,
    }
}

fn activity_from(activity: v1::Activity) -> Result<Activity, Status> {
    match activity {
        v1::Activity::Idle => Ok(Activity::Idle),
        v1::Activity::Fetching => Ok(Activity::Fetching),
        v1::Activity::Updating => Ok(Activity::Updating),
        v1::Activity::Unspecified => Err(invalid("an activity not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::filter::Filter;
    use dominator_core::path::ImagePath;
    use dominator_core::port::{PathFailure, Percent};
    use dominator_core::view::{Granularity, Ownership, XattrPolicy};
    use dominator_core_testkit::tree_of;
    use prost::Message as _;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    /// A machine as they are, after a year, with numbers as large as they get.
    fn reply(facts: usize) -> PollReply {
        let exclusions =
            "/data/.*\n/home/.*\n/tmp/.*\n/var/log/.*\n/var/mail/.*\n/var/spool/.*\n/var/tmp/.*\n";
        let protected =
            ["/var/lib/subd", "/etc/ssl/subd", "/etc/ssl/CA.pem", "/etc/subd.toml", "/proc", "/sys"];
        let traits = MachineTraits {
            protected: protected.map(path).into(),
            exclusions: Filter::parse(exclusions).unwrap(),
            xattrs: XattrPolicy::ALL,
            ownership: Ownership::Kept,
            mtime: Granularity::FINE,
        };
        let fact = |number| PathFailure {
            path: path(&format!("/usr/lib/somewhere/deep/{number}")),
            reason: "unreadable: Input/output error (os error 5)".into(),
        };
        let details = AgentDetails {
            facts: (0..facts).map(fact).collect(),
            last_image: Some("web/2026-11-22:10:00:00".parse().unwrap()),
            ..AgentDetails::new(Arc::new(traits))
        };
        let scans = ScanStatus {
            count: 31_536_000,
            reach: ScanReach::Incremental,
            duration: Duration::from_secs(3600),
            files_opened: 5_000_000,
            bytes_hashed: 1 << 44,
        };
        let status = AgentStatus {
            instance: u64::MAX,
            generation: 31_536_000,
            details: 1_000_000,
            activity: Activity::Idle,
            unknown: facts as u64,
            free_space: 1 << 50,
            scans,
            scrub: Some(ScrubStatus {
                done: 1 << 43,
                total: 1 << 44,
                began: time(1 << 33),
                corruptions: 1_000,
            }),
            pacing: Pacing { disk: Some(1 << 33), cpu: Some(Percent::ALL), left: Some(100) },
        };
        let tree = tree_of(&[("/etc/motd", b"hello")]).tree;
        PollReply { scanned: Scanned::Tree(tree), status, details: Arc::new(details) }
    }

    #[test]
    fn a_poll_of_a_machine_in_sync_takes_less_than_300_bytes_both_ways_whatever_the_machine() {
        let payload = |facts| {
            let reply = reply(facts);
            let Scanned::Tree(tree) = &reply.scanned else { panic!("{reply:?}") };
            let (instance, details) = (reply.status.instance, reply.status.details);
            let held = Held { instance, details, tree: Some(tree.id()) };
            let (known, wait) = (Some(reply.status.generation), Duration::from_secs(300));
            let request = PollRequest { view: Some(tree.view), known, wait };
            let there = poll_request(&request, Some(&held)).encoded_len();
            let back = poll_reply(&reply, &held).encoded_len();
            let whole = poll_reply(&reply, &Held::default()).encoded_len();
            println!("{facts} facts: {there} bytes there, {back} back; {whole} back to who has nothing");
            assert!(whole > 60 * facts);
            there + back
        };
        let (few, many) = (payload(20), payload(100));
        assert!(few <= 300, "{few} bytes");
        assert_eq!(few, many);
    }
}

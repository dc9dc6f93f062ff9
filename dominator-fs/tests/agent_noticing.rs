//! What the local agent notices between its scans, and that orders do not wait for it to look.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::port::*;
use dominator_core::tree::Tree;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, Effort, LocalAgent};
use dominator_fs::service::NoServices;
use dominator_fs_testkit::{Disk, left_out, needs_root};

/// So long that nothing in these tests is found by the regular scan.
const NEVER: Duration = Duration::from_secs(3600);

struct NoSources;

#[async_trait]
impl ObjectSources for NoSources {
    async fn source(&self, _: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        Err(StoreError::Protocol("nothing is fetched here".into()))
    }
}

/// An agent that was given a view.
async fn start(root: &Path, state: &Path, effort: Effort) -> LocalAgent {
    let mut config = AgentConfig::new(root, state, Arc::new(NoServices), Arc::new(NoSources));
    config.scan_interval = NEVER;
    config.effort = effort;
    let agent = LocalAgent::start(config).unwrap();
    let traits = agent.poll(PollRequest::default()).await.unwrap().details.traits.clone();
    let view = View { protected: traits.protected.clone(), xattrs: traits.xattrs, ..View::everything() };
    agent.set_view(view, None).await.unwrap();
    agent
}

/// Polls until an answer is as wanted.
async fn until(agent: &LocalAgent, wanted: impl Fn(&PollReply) -> bool) -> PollReply {
    let mut known = None;
    loop {
        let request = PollRequest { known, wait: Duration::from_secs(60), view: None };
        let reply = agent.poll(request).await.unwrap();
        if wanted(&reply) {
            return reply;
        }
        known = Some(reply.status.generation);
    }
}

fn tree(reply: &PollReply) -> Option<&Tree> {
    match &reply.scanned {
        Scanned::Tree(tree) => Some(tree),
        Scanned::NeedView | Scanned::NotYet => None,
    }
}

#[tokio::test]
async fn what_is_written_is_seen_long_before_the_next_scan() {
    if !needs_root("what_is_written_is_seen_long_before_the_next_scan") {
        return;
    }
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    fs::write(root.path().join("a/b/file"), "1").unwrap();
    let agent = start(root.path(), state.path(), Effort::default()).await;
    let first = until(&agent, |reply| tree(reply).is_some()).await;
    if let Works::No(why) = &first.details.watch {
        return left_out("what_is_written_is_seen_long_before_the_next_scan", why);
    }
    assert_eq!(first.status.scans.reach, ScanReach::Full);
    let mut before = first;
    for contents in ["2", "3", "1"] {
        fs::write(root.path().join("a/b/file"), contents).unwrap();
        let after = until(&agent, |reply| tree(reply).is_some_and(|now| Some(now) != tree(&before))).await;
        assert_eq!(after.status.scans.reach, ScanReach::Hinted, "{:?}", after.status);
        assert!(after.status.scans.files_opened <= 1, "{:?}", after.status);
        before = after;
    }
}

#[tokio::test]
async fn a_scrub_that_is_behind_keeps_nobody_from_seeing_what_is_written() {
    const NAME: &str = "a_scrub_that_is_behind_keeps_nobody_from_seeing_what_is_written";
    if !needs_root(NAME) {
        return;
    }
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("file"), "1").unwrap();
    fs::write(root.path().join("large"), vec![0; 32 << 20]).unwrap();
    // Every step is due as soon as the last one is done, for ever.
    let effort = Effort {
        scrub: Some(Duration::from_nanos(1)),
        write_back_expiry: Some(Duration::ZERO),
        ..Effort::default()
    };
    let agent = start(root.path(), state.path(), effort).await;
    let before = until(&agent, |reply| tree(reply).is_some()).await;
    if let Works::No(why) = &before.details.watch {
        return left_out(NAME, why);
    }
    fs::write(root.path().join("file"), "2").unwrap();
    let after = until(&agent, |reply| tree(reply).is_some_and(|now| Some(now) != tree(&before))).await;
    assert_eq!(after.status.scans.reach, ScanReach::Hinted);
}

#[tokio::test]
async fn a_limit_stays_lifted_until_everything_was_looked_at() {
    const NAME: &str = "a_limit_stays_lifted_until_everything_was_looked_at";
    if !needs_root(NAME) {
        return;
    }
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let effort = Effort { cpu: Percent::new(50).unwrap(), ..Effort::default() };
    let agent = start(root.path(), state.path(), effort).await;
    let first = until(&agent, |reply| tree(reply).is_some()).await;
    if let Works::No(why) = &first.details.watch {
        return left_out(NAME, why);
    }
    assert_eq!(first.status.pacing.cpu, Percent::new(50));
    agent.boost(Boost::Cpu).await.unwrap();
    fs::write(root.path().join("file"), "1").unwrap();
    let hinted = until(&agent, |reply| tree(reply).is_some_and(|now| Some(now) != tree(&first))).await;
    assert_eq!((hinted.status.scans.reach, hinted.status.pacing.cpu), (ScanReach::Hinted, None));
}

#[tokio::test]
async fn a_scrub_that_finds_nothing_writes_only_how_far_it_is() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("file"), "contents").unwrap();
    let effort = Effort { write_back_expiry: Some(Duration::ZERO), ..Effort::default() };
    let agent = start(root.path(), state.path(), effort.clone()).await;
    until(&agent, |reply| tree(reply).is_some()).await;
    drop(agent);
    let written = || fs::metadata(state.path().join("scan.cache")).unwrap().modified().unwrap();
    let (before, progress) = (written(), state.path().join("scrub.progress"));
    assert!(!progress.exists());
    let agent = start(root.path(), state.path(), Effort { scrub: Some(NEVER), ..effort }).await;
    until(&agent, |reply| tree(reply).is_some()).await;
    let is_through = |reply: &PollReply| reply.status.scrub.is_some_and(|scrub| scrub.done == scrub.total);
    while !is_through(&agent.poll(PollRequest::default()).await.unwrap()) {
        tokio::task::yield_now().await;
    }
    drop(agent);
    assert!(progress.exists());
    assert_eq!(written(), before);
}

#[tokio::test]
async fn an_agent_that_begins_anew_reads_again_only_what_changed() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..100 {
        fs::write(root.path().join(number.to_string()), number.to_string()).unwrap();
    }
    let effort = Effort { write_back_expiry: Some(Duration::ZERO), ..Effort::default() };
    let agent = start(root.path(), state.path(), effort.clone()).await;
    let first = until(&agent, |reply| tree(reply).is_some()).await;
    assert_eq!((first.status.scans.reach, first.status.scans.files_opened), (ScanReach::Full, 100));
    drop(agent);
    fs::write(root.path().join("7"), "seven").unwrap();
    let agent = start(root.path(), state.path(), effort).await;
    let second = until(&agent, |reply| tree(reply).is_some()).await;
    assert_ne!(tree(&second), tree(&first));
    assert_eq!((second.status.scans.reach, second.status.scans.files_opened), (ScanReach::Incremental, 1));
}

#[tokio::test]
async fn a_file_the_disk_changed_is_told_of_and_differs() {
    const NAME: &str = "a_file_the_disk_changed_is_told_of_and_differs";
    if !needs_root(NAME) {
        return;
    }
    let disk = match Disk::new(32 << 20) {
        Ok(disk) => disk,
        Err(why) => return left_out(NAME, &why),
    };
    let root = disk.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), vec![b'x'; 100_000]).unwrap();
    rustix::fs::sync();
    let state = tempfile::tempdir().unwrap();
    let expiry = Some(Duration::ZERO);
    let effort =
        Effort { scrub: Some(Duration::from_millis(1)), write_back_expiry: expiry, ..Effort::default() };
    let agent = start(&root, state.path(), effort).await;
    let before = until(&agent, |reply| tree(reply).is_some()).await;
    disk.flip(disk.place_of("root/file", 3));
    let after = until(&agent, |reply| !reply.details.corruptions.is_empty()).await;
    let [found] = &after.details.corruptions[..] else { panic!("{:?}", after.details.corruptions) };
    assert_eq!(found.path.to_string(), "/file");
    assert_eq!(found.was, ObjectId::of(&[b'x'; 100_000]));
    let after = until(&agent, |reply| tree(reply).is_some_and(|now| Some(now) != tree(&before))).await;
    assert_eq!(after.status.scrub.unwrap().corruptions, 1);
}

/// Whether this process has a file of this name open.
fn is_open(name: &str) -> bool {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| entry.ok()?.path().read_link().ok()).any(|path| path.ends_with(name))
}

#[tokio::test]
async fn an_order_does_not_wait_for_a_huge_file_that_is_read_slowly() {
    if !needs_root("an_order_does_not_wait_for_a_huge_file_that_is_read_slowly") {
        return;
    }
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let effort = Effort { cpu: Percent::new(1).unwrap(), ..Effort::default() };
    let agent = start(root.path(), state.path(), effort).await;
    let before = until(&agent, |reply| tree(reply).is_some()).await;
    if let Works::No(why) = &before.details.watch {
        return left_out("an_order_does_not_wait_for_a_huge_file_that_is_read_slowly", why);
    }
    // 8 GiB take minutes at that speed.
    File::create(root.path().join("huge")).unwrap().set_len(8 << 30).unwrap();
    while !is_open("huge") {
        tokio::task::yield_now().await;
    }
    let base = tree(&before).unwrap();
    let request = UpdateRequest {
        image: Some("web/1".parse().unwrap()),
        ..UpdateRequest::new(base.id(), base.view, Plan::default())
    };
    assert!(agent.update(request).await.unwrap().is_success());
    let reply = until(&agent, |reply| reply.details.last_image.is_some()).await;
    assert_eq!(reply.scanned, Scanned::NotYet);
    while !is_open("huge") {
        tokio::task::yield_now().await;
    }
    let other = View { ownership: dominator_core::view::Ownership::Ignored, ..View::everything() };
    let view = View { protected: reply.details.traits.protected.clone(), ..other };
    agent.set_view(view, None).await.unwrap();
    // Dropping it ends the scan, or this takes minutes.
    drop(agent);
}

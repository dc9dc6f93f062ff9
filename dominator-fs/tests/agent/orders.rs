use super::support::*;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dominator_core::health::HealthChecks;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Plan;
use dominator_core::port::*;
use dominator_core::tree::Directory;
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::agent::{LocalAgent, StartError};
use dominator_fs::root::Root;
use dominator_fs_testkit::{left_out, needs_root};
use nix::mount::{MsFlags, mount};

#[tokio::test]
async fn a_machine_becomes_what_it_must_be() {
    let machine = Machine::new();
    machine.write("conf", "old");
    machine.write("gone", "g");
    let agent = machine.start();
    assert_eq!(poll(&agent).await.scanned, Scanned::NeedView);
    let view = view(&agent).await;
    agent.set_view(view.clone(), None).await.unwrap();
    let required = required(&view, &machine, &[("conf", "new"), ("added", "a")]);
    let objects = [machine.offer("new"), machine.offer("a")];
    assert_eq!(agent.fetch(fetch(&objects)).await.unwrap(), fetched(2, 4));
    assert_eq!(agent.fetch(fetch(&objects)).await.unwrap(), FetchReport::default(), "they are there");
    let report = agent.update(order(&agent, &required, WEB).await).await.unwrap();
    assert!(report.is_success(), "{report:?}");
    assert_eq!(tree(&agent).await.id(), required.id());
    assert_eq!(machine.calls(), ["stop web", "start web"]);
    let PollReply { status, details, .. } = poll(&agent).await;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    assert_eq!(
        (&details.last_update_error, status.activity, &details.write_error),
        (&None, Activity::Idle, &None)
    );
    assert!(status.free_space > 0);
    let (_, plan) = plan(&agent, &required).await;
    assert!(plan.is_empty());
}

#[tokio::test]
async fn what_must_outlive_the_agent_does() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let first = poll(&agent).await.status;
    let required = required(&view(&agent).await, &machine, &[("conf", "new")]);
    agent.fetch(fetch(&[machine.offer("new")])).await.unwrap();
    agent.update(order(&agent, &required, WEB).await).await.unwrap();
    drop(agent);
    machine.calls();
    let agent = machine.start();
    assert_eq!(tree(&agent).await.id(), required.id(), "the view is remembered");
    let PollReply { status, details, .. } = poll(&agent).await;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    assert_ne!(status.instance, first.instance);
    // The next image knows nothing of the service; it is stopped nevertheless.
    let required = self::required(&view(&agent).await, &machine, &[]);
    agent.update(order(&agent, &required, "[]").await).await.unwrap();
    assert_eq!(machine.calls(), ["stop web"]);
}

#[tokio::test]
async fn an_update_that_fails_forgets_no_service_and_claims_no_image() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[("conf", "new")]);
    // Nothing was fetched.
    let error = agent.update(order(&agent, &required, WEB).await).await.unwrap_err();
    assert!(matches!(error, AgentError::Failed { .. }), "{error}");
    assert_eq!((machine.read("conf").unwrap().as_str(), machine.calls().len()), ("old", 0));
    tree(&agent).await;
    let details = poll(&agent).await.details;
    assert!(details.last_update_error.as_ref().unwrap().contains("were not fetched"));
    assert_eq!(details.last_image, None);
    assert!(!machine.state.path().join("triggers.previous").exists());
}

#[tokio::test]
async fn a_poll_waits_for_news_and_hears_of_them() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    machine.write("f", "1");
    let agent = machine.ready().await;
    let before = poll(&agent).await;
    let wait = Duration::from_secs(60);
    let request = PollRequest { known: Some(before.status.generation), wait, view: None };
    let (reply, ()) = tokio::join!(agent.poll(request), async { machine.write("f", "2 and more") });
    let reply = reply.unwrap();
    assert_ne!(reply.status.generation, before.status.generation);
    assert_ne!(reply.scanned, before.scanned);
    // An answer for another view need not wait.
    let other = View { xattrs: dominator_core::view::XattrPolicy::NONE, ..View::everything() };
    let request = PollRequest { known: Some(reply.status.generation), wait, view: Some(other.id()) };
    assert_eq!(agent.poll(request).await.unwrap().scanned, Scanned::NeedView);
}

#[tokio::test]
async fn an_order_for_another_state_of_the_machine_is_refused() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    let good = order(&agent, &required, "[]").await;
    let other = dominator_core::tree::TreeId(ObjectId::of(b"other"));
    let refused = [
        UpdateRequest { base: other, ..good.clone() },
        UpdateRequest { view: dominator_core::view::ViewId(ObjectId::of(b"other")), ..good.clone() },
    ];
    for request in refused {
        let error = agent.update(request).await.unwrap_err();
        assert!(matches!(error, AgentError::NotNow(_)), "{error}");
    }
    assert!(machine.read("conf").is_some());
    agent.update(good).await.unwrap();
    assert!(machine.read("conf").is_none());
}

#[tokio::test]
async fn one_order_at_a_time_is_carried_out() {
    let machine = Machine::new();
    let agent = Arc::new(machine.ready().await);
    let held = machine.source.gate.lock().await;
    let objects = [machine.offer("x")];
    let fetching = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.fetch(fetch(&objects)).await }
    });
    let mut known = None;
    while poll(&agent).await.status.activity != Activity::Fetching {
        let wait = Duration::from_secs(60);
        known = Some(agent.poll(PollRequest { known, wait, view: None }).await.unwrap().status.generation);
    }
    assert!(matches!(agent.clean_up(None).await, Err(AgentError::NotNow(_))));
    drop(held);
    assert_eq!(fetching.await.unwrap().unwrap().objects, 1);
    let objects = machine.root.path().join(".subd/objects");
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 1);
    agent.clean_up(None).await.unwrap();
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_wrong_is_kept_of_what_a_source_sends() {
    let machine = Machine::new();
    let agent = machine.ready().await;
    let (good, evil) = (machine.offer("good"), machine.offer("evil"));
    let begin = |(id, size)| Piece::Begin { id, size };
    let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
    type Expected = fn(&StoreError) -> bool;
    let cases: Vec<(Vec<Piece>, Expected)> = vec![
        (vec![begin(good), data("evil")], |e| matches!(e, StoreError::Corrupt { .. })),
        (vec![begin(good), data("goo")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![begin(good), data("goods")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![begin(evil), data("evil")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![begin((good.0, 1 << 40))], |e| matches!(e, StoreError::Protocol(_))),
        (vec![data("good")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![], |e| matches!(e, StoreError::Protocol(_))),
    ];
    for (pieces, expected) in cases {
        *machine.source.pieces.lock().unwrap() = Some(pieces.clone());
        let Err(AgentError::Fetch(StoreError::Sources(failures))) = agent.fetch(fetch(&[good])).await else {
            panic!("{pieces:?}")
        };
        let [SourceFailure { source, error, .. }] = &failures[..] else { panic!("{failures:?}") };
        assert_eq!(source, "images:6971");
        assert!(expected(error), "{pieces:?}: {error}");
        let left = std::fs::read_dir(machine.root.path().join(".subd/objects")).unwrap().count();
        assert_eq!(left, 0, "{pieces:?}");
    }
    // What was complete before the error stays.
    *machine.source.pieces.lock().unwrap() = Some(vec![begin(good), data("good"), begin(evil), data("good")]);
    assert!(agent.fetch(fetch(&[good, evil])).await.is_err());
    assert_eq!(agent.fetch(fetch(&[good, evil])).await.unwrap().objects, 1);
    let huge = agent.fetch(fetch(&[(ObjectId::of(b"huge"), u64::MAX)])).await.unwrap_err();
    assert!(matches!(huge, AgentError::Fetch(StoreError::NoSpace { .. })), "{huge}");
}

#[tokio::test]
async fn an_update_nobody_waits_for_any_more_is_carried_out() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    let request = order(&agent, &required, WEB).await;
    let (give, leave) = mpsc::channel();
    *machine.services.leave.lock().unwrap() = Some(leave);
    {
        let update = agent.update(request);
        tokio::pin!(update);
        let mut known = None;
        while poll(&agent).await.status.activity != Activity::Updating {
            let wait = Duration::from_secs(60);
            let changed = agent.poll(PollRequest { known, wait, view: None });
            tokio::select! {
                outcome = &mut update => panic!("{outcome:?}"),
                reply = changed => known = Some(reply.unwrap().status.generation),
            }
        }
    }
    assert!(matches!(poll(&agent).await.status.activity, Activity::Updating));
    give.send(()).unwrap();
    give.send(()).unwrap();
    agent.idle().await;
    assert_eq!(machine.read("conf"), None);
    assert_eq!(tree(&agent).await.id(), required.id());
}

#[tokio::test]
async fn users_are_not_disturbed_without_leave() {
    let mut machine = Machine::new();
    let gate = Arc::new(Gate(Mutex::new(GateAnswer::Requested)));
    machine.gate = Some(Arc::clone(&gate));
    machine.write("conf", "old");
    machine.write("other", "old");
    let agent = machine.ready().await;
    let both = required(&view(&agent).await, &machine, &[]);
    let pending = agent.update(order(&agent, &both, WEB).await).await.unwrap_err().to_string();
    assert!(pending.contains("disruption pending"), "{pending}");
    *gate.0.lock().unwrap() = GateAnswer::Denied("at night".to_owned());
    let denied = agent.update(order(&agent, &both, WEB).await).await.unwrap_err().to_string();
    assert!(denied.contains("disruption denied"), "{denied}");
    assert!(machine.read("conf").is_some() && machine.read("other").is_some());
    *gate.0.lock().unwrap() = GateAnswer::Permitted;
    agent.update(order(&agent, &both, WEB).await).await.unwrap();
    assert!(machine.read("conf").is_none());
}

#[tokio::test]
async fn the_agents_own_files_are_protected_and_no_view_shows_them() {
    let mut machine = Machine::new();
    let inner = machine.root.path().join("state");
    std::fs::create_dir(&inner).unwrap();
    machine.protected = vec![inner, machine.root.path().join("ssl/subd"), PathBuf::from("/elsewhere")];
    let agent = machine.start();
    let protected: Vec<_> = poll(&agent).await.details.traits.protected.iter().cloned().collect();
    let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
    assert_eq!(protected, [path("/ssl/subd"), path("/state")]);
    let error = agent.set_view(View::everything(), None).await.unwrap_err();
    assert!(matches!(error, AgentError::NotNow(_)), "{error}");
    agent.set_view(view(&agent).await, None).await.unwrap();
    drop(agent);
    machine.protected = vec![machine.root.path().to_owned()];
    assert!(matches!(LocalAgent::start(machine.config()), Err(StartError::Protected { .. })));
}

#[tokio::test]
async fn links_on_the_way_to_protected_files_are_protected_too() {
    let mut machine = Machine::new();
    let root = machine.root.path();
    std::fs::create_dir_all(root.join("keys/real")).unwrap();
    std::os::unix::fs::symlink("keys", root.join("ssl")).unwrap();
    std::os::unix::fs::symlink("real", root.join("keys/now")).unwrap();
    std::os::unix::fs::symlink("round", root.join("round")).unwrap();
    machine.protected = vec![root.join("ssl/now/CA.pem"), root.join("round")];
    let agent = machine.start();
    let protected: Vec<_> = poll(&agent).await.details.traits.protected.iter().cloned().collect();
    let expected = ["/keys/now", "/keys/real/CA.pem", "/round", "/ssl"];
    assert_eq!(protected, expected.map(|text| ImagePath::parse(text.as_bytes()).unwrap()));
}

#[tokio::test]
async fn an_agent_without_a_view_notices_when_its_root_can_be_written_to() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    let root = Root::open(machine.root.path()).unwrap();
    let other = dominator_fs::update::Updater::open(root, Arc::new(dominator_fs::seam::Kernel)).unwrap().0;
    let agent = machine.start();
    let PollReply { status, details, .. } = poll(&agent).await;
    assert!(details.write_error.as_ref().unwrap().contains("another agent"));
    drop(other);
    // Other things it finds out while it starts are told as well.
    let (wait, mut known) = (Duration::from_secs(60), status.generation);
    loop {
        let reply = agent.poll(PollRequest { known: Some(known), wait, view: None }).await.unwrap();
        if reply.details.write_error.is_none() {
            break;
        }
        assert_ne!(reply.status.generation, known, "nothing more is told");
        known = reply.status.generation;
    }
}

/// Runs a test where it may mount things that nobody else sees; without the privilege it says that it does not.
fn with_mounts<F: Future<Output = ()>>(name: &'static str, test: impl FnOnce() -> F + Send + 'static) {
    if !needs_root(name) {
        return;
    }
    let outcome = std::thread::spawn(move || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
            return left_out(name, &format!("mounts of its own are refused: {error}"));
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    })
    .join();
    outcome.unwrap();
}

fn mount_tmpfs(at: &Path) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=20m")).unwrap();
}

#[test]
fn objects_for_another_image_make_room_for_those_that_are_wanted_now() {
    with_mounts("objects_for_another_image_make_room_for_those_that_are_wanted_now", async || {
        let machine = Machine::new();
        mount_tmpfs(machine.root.path());
        {
            let of = |letter: &str| machine.offer(&letter.repeat(2 * 1024 * 1024));
            let (old, more, new) = (of("o"), of("m"), of("n"));
            let agent = machine.ready().await;
            // Room for one and a half.
            machine.write("ballast", &"b".repeat(1024 * 1024));
            agent.fetch(fetch(&[old])).await.unwrap();
            agent.fetch(fetch(&[new])).await.unwrap();
            let error = agent.fetch(fetch(&[new, more])).await.unwrap_err();
            assert!(matches!(error, AgentError::Fetch(StoreError::NoSpace { .. })), "{error}");
            assert_eq!(agent.fetch(fetch(&[new])).await.unwrap(), FetchReport::default(), "it was kept");
        }
        nix::mount::umount2(machine.root.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_running_machine_is_seen_beneath_what_is_mounted_on_it() {
    with_mounts("a_running_machine_is_seen_beneath_what_is_mounted_on_it", async || {
        let machine = Machine::new();
        for name in ["run", "disk", "disk/run"] {
            std::fs::create_dir(machine.root.path().join(name)).unwrap();
        }
        let at = |name: &str| machine.root.path().join(name);
        mount(Some(&at("disk")), &at("disk"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount_tmpfs(&at("run"));
        mount_tmpfs(&at("disk/run"));
        machine.write("run/pid", "1");
        {
            let agent = machine.start();
            assert_eq!(poll(&agent).await.details.beneath_mounts, Works::Yes);
            let view = view(&agent).await;
            assert_eq!(view.protected, [].into());
            agent.set_view(view.clone(), None).await.unwrap();
            let root = tree(&agent).await.root.directory().unwrap().0;
            let encoded = agent.directories(vec![root]).await.unwrap();
            let directory = Directory::decode(encoded[0].clone()).unwrap();
            let names: Vec<_> = directory.iter().map(|entry| entry.name()).collect();
            assert_eq!(names, [&b"disk"[..], b"run"]);
            let run = directory.entry(b"run").unwrap().directory().unwrap().0;
            let encoded = agent.directories(vec![run]).await.unwrap();
            let run = Directory::decode(encoded[0].clone()).unwrap();
            assert_eq!(run.len(), 0, "what runs there is no image's concern");
        }
        for name in ["disk/run", "disk", "run"] {
            nix::mount::umount2(&at(name), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    });
}

#[tokio::test]
async fn services_an_agent_stopped_and_did_not_live_to_start_are_started_by_the_next() {
    // When files may have changed, it may for all the next knows have been started with only some of them.
    let both = [("stop web", &["start web"][..]), ("start web", &["stop web", "start web"])];
    for (last_words, expected) in both {
        let machine = Machine::new();
        machine.write("conf", "old");
        let agent = machine.ready().await;
        let required = required(&view(&agent).await, &machine, &[]);
        *machine.services.fatal.lock().unwrap() = Some(last_words);
        agent.update(order(&agent, &required, WEB).await).await.unwrap_err();
        drop(agent);
        assert_eq!(machine.calls().last().unwrap(), last_words);
        *machine.services.fatal.lock().unwrap() = None;
        let agent = machine.start();
        tree(&agent).await;
        // The thread of the dead one that scans may have brought the files to their end: then nobody knows any more when
        // that was, and it is stopped first.
        let calls = machine.calls();
        assert!(calls == expected || calls == ["stop web", "start web"], "after {last_words}: {calls:?}");
        drop(agent);
        tree(&machine.start()).await;
        assert_eq!(machine.calls(), <[String; 0]>::default(), "once is enough");
    }
}

#[tokio::test]
async fn a_service_that_starts_with_neither_image_is_started_again_and_told_of() {
    let reload = r#"[{"MatchLines": ["/conf"], "Service": "web", "DoReload": true}]"#;
    for (triggers, broken) in [(WEB, "start web"), (reload, "reload web")] {
        let machine = Machine::new();
        machine.write("conf", "old");
        let agent = machine.ready().await;
        let before = tree(&agent).await;
        let required = required(&view(&agent).await, &machine, &[]);
        *machine.services.broken.lock().unwrap() = Some(broken);
        let report = agent.update(order(&agent, &required, triggers).await).await.unwrap();
        assert!(!report.is_success());
        assert_eq!(machine.calls().last().unwrap(), broken);
        // Also by the next agent.
        drop(agent);
        let agent = machine.start();
        assert_eq!(tree(&agent).await.id(), before.id(), "it was taken back");
        let calls = machine.calls();
        assert_eq!(calls.last().unwrap(), broken);
        assert!(calls.len() == 1 || calls == ["stop web", broken], "{calls:?}");
        let details = poll(&agent).await.details;
        assert!(details.last_update_error.as_ref().unwrap().contains("no licence"));
        assert_eq!(details.last_image, None);
        // And by every update, which is not to blame for it.
        let nothing = |image: &str| UpdateRequest {
            sparse: None,
            base: before.id(),
            view: before.view,
            image: Some(image.parse().unwrap()),
            triggers: Triggers::from_json(triggers.as_bytes()).unwrap(),
            plan: Plan::default(),
            health: HealthChecks::default(),
            disruption: Disruption::Ask,
            reboot: Reboot::Allowed,
            lock: None,
        };
        let again = agent.update(nothing("web/2")).await.unwrap();
        assert!(!again.is_success() && again.outcome == UpdateOutcome::Made, "{again:?}");
        assert_eq!(machine.calls(), [broken]);
        *machine.services.broken.lock().unwrap() = None;
        tree(&agent).await;
        let repaired = agent.update(nothing("web/2")).await.unwrap();
        assert!(repaired.is_success(), "{repaired:?}");
        assert_eq!(machine.calls(), [broken]);
        tree(&agent).await;
        let details = poll(&agent).await.details;
        assert_eq!(
            (details.last_update_error.as_deref(), details.last_image.as_ref().unwrap().as_str()),
            (None, "web/2")
        );
        assert!(agent.update(nothing("web/2")).await.unwrap().is_success());
        assert_eq!(machine.calls(), <[String; 0]>::default(), "once is enough");
    }
}

#[tokio::test]
async fn a_service_only_the_image_before_knew_is_stopped_by_a_later_update_when_it_could_not_be_by_its_own() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let with = required(&view(&agent).await, &machine, &[("conf", "new")]);
    agent.fetch(fetch(&[machine.offer("new")])).await.unwrap();
    agent.update(order(&agent, &with, WEB).await).await.unwrap();
    machine.calls();
    let without = required(&view(&agent).await, &machine, &[]);
    *machine.services.broken.lock().unwrap() = Some("stop web");
    let report = agent.update(order(&agent, &without, "[]").await).await.unwrap();
    assert!(!report.is_success() && report.outcome == UpdateOutcome::Made, "{report:?}");
    assert_eq!(machine.calls(), ["stop web"]);
    // By the next agent, and by every update.
    drop(agent);
    let agent = machine.start();
    tree(&agent).await;
    assert_eq!(machine.calls(), ["stop web"]);
    assert!(!agent.update(order(&agent, &without, "[]").await).await.unwrap().is_success());
    assert_eq!(machine.calls(), ["stop web"]);
    *machine.services.broken.lock().unwrap() = None;
    assert!(agent.update(order(&agent, &without, "[]").await).await.unwrap().is_success());
    assert_eq!(machine.calls(), ["stop web"]);
    assert!(agent.update(order(&agent, &without, "[]").await).await.unwrap().is_success());
    assert_eq!(machine.calls(), <[String; 0]>::default(), "once is enough");
}

#[tokio::test]
async fn nobody_waits_for_a_service_the_image_does_not_know() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    *machine.services.broken.lock().unwrap() = Some("start web");
    agent.update(order(&agent, &required, WEB).await).await.unwrap();
    machine.calls();
    let other =
        UpdateRequest { image: Some("other/1".parse().unwrap()), ..order(&agent, &required, "[]").await };
    assert!(agent.update(other).await.unwrap().is_success());
    assert_eq!(machine.calls(), <[String; 0]>::default());
    drop(agent);
    tree(&machine.start()).await;
    assert_eq!(machine.calls(), <[String; 0]>::default());
}

#[tokio::test]
async fn directories_that_are_gone_are_said_to_be() {
    let machine = Machine::new();
    let agent = machine.ready().await;
    let id = ObjectId::of(b"none");
    let error = agent.directories(vec![id]).await.unwrap_err();
    assert!(matches!(error, AgentError::Gone { id: which } if which == id), "{error}");
}

#[tokio::test]
async fn what_came_to_be_held_after_the_last_scan_stands_in_the_record() {
    let machine = Machine::new();
    let kept = machine.root.path().join("d");
    std::fs::create_dir(&kept).unwrap();
    let agent = machine.start();
    let mut view = view(&agent).await;
    view.protected.insert(ImagePath::parse(b"/d/mine").unwrap());
    agent.set_view(view.clone(), None).await.unwrap();
    let request = order(&agent, &required(&view, &machine, &[]), "[]").await;
    machine.write("d/mine", "m");
    let report = agent.update(request).await.unwrap();
    assert_eq!(report.kept, [ImagePath::parse(b"/d").unwrap()]);
    assert_eq!(agent.history(1).await.unwrap()[0].plan.kept, report.kept);
}

#[tokio::test]
async fn a_directory_that_was_kept_is_told_until_it_is_free_to_go() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    let kept = machine.root.path().join("d");
    std::fs::create_dir(&kept).unwrap();
    let agent = machine.start();
    let hidden = ImagePath::parse(b"/d/mine").unwrap();
    let mut view = view(&agent).await;
    view.protected.insert(hidden);
    agent.set_view(view.clone(), None).await.unwrap();
    machine.write("d/mine", "m");
    let required = required(&view, &machine, &[]);
    // The scan under way may not have seen it: an update for an older tree would be refused.
    let report = loop {
        match agent.update(order(&agent, &required, "[]").await).await {
            Ok(report) => break report,
            Err(AgentError::NotNow(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let d = ImagePath::parse(b"/d").unwrap();
    assert_eq!(report.kept, std::slice::from_ref(&d));
    assert_eq!(agent.history(1).await.unwrap()[0].plan.kept, report.kept);
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.contains(&d));
    // Also after an update that does not name it again.
    let recorded = loop {
        let request = UpdateRequest { plan: Plan::default(), ..order(&agent, &required, "[]").await };
        match agent.update(request).await {
            Ok(report) => break report,
            Err(AgentError::NotNow(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert!(recorded.kept.is_empty());
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.contains(&d));
    // And by the next agent, whose controller would want it deleted otherwise.
    drop(agent);
    let agent = machine.start();
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.contains(&d));
    machine.read("d/mine").unwrap();
    std::fs::remove_file(kept.join("mine")).unwrap();
    let mut known = None;
    while !poll(&agent).await.details.kept.is_empty() {
        let wait = Duration::from_secs(60);
        known = Some(agent.poll(PollRequest { known, wait, view: None }).await.unwrap().status.generation);
    }
    // Nor does an agent that starts later tell of what is free to go.
    drop(agent);
    let agent = machine.start();
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.is_empty());
}

//! What stands in the way of orders, and what else people ask of an agent.

use std::path::Path;
use std::time::Duration;

use dominator_core::path::ImagePath;
use dominator_core::port::*;
use dominator_fs::agent::LocalAgent;
use dominator_fs_testkit::write_script;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::support::*;
use super::world::*;

fn throw(case: &Case, words: &str) {
    std::fs::write(case.machine.state.path().join("stop"), words).unwrap();
}

#[tokio::test]
async fn the_stop_switch_stops_what_would_change_the_machine_and_is_seen_at_once() {
    let case = Case::new("new", "", "{}").await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    throw(&case, "the disk is being replaced\n");
    assert_eq!(poll(&agent).await.details.stopped.as_deref(), Some("the disk is being replaced"));
    let words = Refusal::Stopped("the disk is being replaced".to_owned());
    let refused = agent.update(request.clone()).await.unwrap_err();
    assert!(matches!(&refused, AgentError::Refused(why) if *why == words), "{refused}");
    let refused = agent.fetch(fetch(&[])).await.unwrap_err();
    assert!(matches!(&refused, AgentError::Refused(why) if *why == words), "{refused}");
    assert!(case.is_old() && case.calls().is_empty());
    std::fs::remove_file(case.machine.state.path().join("stop")).unwrap();
    assert!(agent.update(request).await.unwrap().is_success());
    assert_eq!(poll(&agent).await.details.stopped, None);
    // People may still take back what it did.
    throw(&case, "");
    tree(&agent).await;
    agent.undo(UndoRequest::default()).await.unwrap();
    assert!(case.is_old());
}

#[tokio::test]
async fn whoever_waits_for_news_of_a_machine_is_told_at_once_that_somebody_stopped_it_and_that_it_goes_on() {
    let case = Case::new("new", "", "{}").await;
    let agent = case.start().unwrap();
    tree(&agent).await;
    let switch = case.machine.state.path().join("stop");
    for shown in [Some("the disk is being replaced"), None, Some("again"), Some("for longer"), None] {
        let known = Some(poll(&agent).await.status.generation);
        let (path, words) = (switch.clone(), shown);
        let set = async move {
            match words {
                Some(words) => std::fs::write(path, words).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        };
        let wait = Duration::from_secs(30);
        let news = async {
            let mut known = known;
            loop {
                let reply = agent.poll(PollRequest { known, wait, view: None }).await.unwrap();
                // A switch is there before there is anything on it.
                if reply.details.stopped.as_deref() == shown {
                    return;
                }
                assert_ne!(Some(reply.status.generation), known, "nothing was told of {shown:?}");
                known = Some(reply.status.generation);
            }
        };
        // In this order: the poll waits before the switch is set.
        tokio::join!(biased; news, set);
    }
}

#[tokio::test]
async fn a_switch_that_is_set_while_the_update_is_prepared_stops_it_before_a_service_is_touched() {
    let case = Case::new("new", "", "{}").await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    let state = case.machine.state.path().to_owned();
    case.world.at_disk(3, move || std::fs::write(state.join("stop"), "now").unwrap());
    let refused = agent.update(request).await.unwrap_err();
    assert!(matches!(&refused, AgentError::Refused(Refusal::Stopped(_))), "{refused}");
    assert!(case.is_old() && case.calls().is_empty());
    std::fs::remove_file(case.machine.state.path().join("stop")).unwrap();
    let request = case.ordered(&agent).await;
    assert!(agent.update(request).await.unwrap().is_success(), "nothing is lost");
}

#[tokio::test]
async fn an_agent_does_what_it_was_started_for_and_no_more() {
    let case = Case::new("new", "", "{}").await;
    let start = |mode| {
        let mut config = case.config();
        config.mode = mode;
        LocalAgent::start(config).unwrap()
    };
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    drop(agent);
    case.calls();
    for mode in [AgentMode::ReadOnly, AgentMode::UpdatesDisabled] {
        let agent = start(mode);
        tree(&agent).await;
        assert_eq!(poll(&agent).await.details.mode, mode);
        let refused = agent.update(request.clone()).await.unwrap_err();
        assert!(matches!(&refused, AgentError::Refused(Refusal::Mode(why)) if *why == mode), "{refused}");
        assert_eq!(agent.fetch(fetch(&[])).await.is_ok(), mode == AgentMode::UpdatesDisabled);
        if mode == AgentMode::ReadOnly {
            let refused = agent.undo(UndoRequest::default()).await.unwrap_err();
            assert!(matches!(&refused, AgentError::Refused(Refusal::Mode(_))), "{refused}");
        }
    }
    assert!(case.is_old());
    let agent = start(AgentMode::TriggersDisabled);
    tree(&agent).await;
    assert!(agent.update(request).await.unwrap().is_success());
    assert!(case.is_new());
    assert_eq!(case.calls(), <[String; 0]>::default());
    assert_eq!(case.answers(), ["old", "old"].map(|text| Some(text.to_owned())), "nobody restarted them");
}

#[tokio::test]
async fn an_update_that_must_not_restart_the_machine_is_refused_before_anything_changes() {
    let case = Case::new("new", REBOOT, "{}").await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    case.calls();
    let refused = UpdateRequest { reboot: Reboot::Refused, ..request.clone() };
    let refused = agent.update(refused).await.unwrap_err();
    assert!(matches!(&refused, AgentError::Refused(Refusal::Reboot)), "{refused}");
    assert!(case.is_old() && case.calls().is_empty());
    assert!(agent.update(request).await.unwrap().is_success());
    assert!(case.is_new());
}

#[tokio::test]
async fn orders_of_others_are_refused_while_somebody_has_the_lock() {
    let case = Case::new("new", "", "{}").await;
    let agent = case.start().unwrap();
    let request = case.ordered(&agent).await;
    let token = LockToken(7);
    let lock = |token, seconds| {
        let lease = Lease::of(Duration::from_secs(seconds));
        agent.lock(LockRequest { token, who: "ann".to_owned(), lease })
    };
    lock(token, 15).await.unwrap();
    let is_locked = |error: AgentError| {
        let AgentError::Refused(Refusal::Locked { by, left }) = error else { panic!("{error}") };
        assert!(by == "ann" && left <= Lease::MAX.get() && !left.is_zero(), "{by} {left:?}");
    };
    is_locked(agent.update(request.clone()).await.unwrap_err());
    is_locked(agent.fetch(fetch(&[])).await.unwrap_err());
    is_locked(agent.clean_up(Some(LockToken(8))).await.unwrap_err());
    is_locked(agent.undo(UndoRequest::default()).await.unwrap_err());
    is_locked(lock(LockToken(8), 15).await.unwrap_err());
    is_locked(agent.forgive(ForgiveRequest::default()).await.unwrap_err());
    is_locked(agent.set_view(view(&agent).await, None).await.unwrap_err());
    let service = "web".parse().unwrap();
    is_locked(agent.restart_service(RestartRequest { service, lock: None }).await.unwrap_err());
    let ours = UpdateRequest { lock: Some(token), ..request };
    assert!(agent.update(ours).await.unwrap().is_success());
    lock(token, 0).await.unwrap();
    agent.clean_up(None).await.unwrap();
}

#[tokio::test]
async fn a_service_is_restarted_for_who_asks_and_what_came_of_it_is_said() {
    let case = Case::new("new", "", "{}").await;
    let agent = case.start().unwrap();
    let restart = || RestartRequest { service: "web".parse().unwrap(), lock: None };
    case.machine.write("conf", "by hand");
    assert_eq!(agent.restart_service(restart()).await.unwrap().error, None);
    assert_eq!(case.world.answer("web").as_deref(), Some("by hand"));
    case.machine.write("conf", BAD);
    let outcome = agent.restart_service(restart()).await.unwrap();
    assert!(outcome.error.unwrap().contains("does not like its file"));
}

#[tokio::test]
async fn files_are_told_as_the_machine_has_them_but_not_what_it_protects_wherever_a_link_leads() {
    let mut case = Case::new("new", "", "{}").await;
    let root = case.machine.root.path().to_owned();
    let at = |name: &str| root.join(name);
    std::fs::create_dir(at("keys")).unwrap();
    std::fs::write(at("keys/secret"), "s").unwrap();
    case.machine.protected.push(at("keys"));
    std::os::unix::fs::symlink("conf", at("link")).unwrap();
    std::os::unix::fs::symlink("/conf", at("absolute")).unwrap();
    std::os::unix::fs::symlink("keys/secret", at("leak")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", at("out")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::fs::File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(at("key"), "k").unwrap();
    case.machine.protected.push(at("key"));
    std::fs::hard_link(at("key"), at("backup")).unwrap();
    let agent = case.start().unwrap();
    // To open some devices is to do something.
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for name in ["keys/secret", "key", "pipe", "huge"] {
        inotify::add_watch(&watch, at(name), WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    }
    let told = async |name: &str| {
        let path = ImagePath::parse(Path::new("/").join(name).as_os_str().as_encoded_bytes()).unwrap();
        agent.files(vec![path]).await.unwrap().remove(0).contents
    };
    for name in ["conf", "link", "absolute"] {
        assert_eq!(told(name).await.unwrap(), "old", "{name}");
    }
    for (name, why) in [
        ("keys/secret", "protects"),
        ("leak", "protects"),
        ("key", "protects"),
        ("backup", "protects"),
        (".subd/journal", "protects"),
        ("pipe", "no plain file"),
        ("huge", "longer"),
        ("none", "No such file"),
        ("out", "No such file"),
    ] {
        let error = told(name).await.unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let opened = inotify::Reader::new(&watch, &mut buffer).next().map(|event| event.events());
    assert_eq!(opened, Err(rustix::io::Errno::AGAIN), "one of them was opened");
}

#[tokio::test]
async fn a_machine_says_of_itself_what_its_program_prints_after_each_update_that_was_made() {
    let case = Case::new("new", "", "{}").await;
    let program = case.machine.state.path().join("note");
    let root = case.machine.root.path().display();
    write_script(&program, &format!("#!/bin/sh\nls {root} | tr '\\n' ' '\n"));
    let mut config = case.config();
    config.note = Some(dominator_fs::note::NoteCommand::new(&program));
    let agent = LocalAgent::start(config).unwrap();
    let request = case.ordered(&agent).await;
    let before = poll(&agent).await.details.note.clone().unwrap();
    assert!(agent.update(request).await.unwrap().is_success());
    let after = poll(&agent).await.details.note.clone().unwrap();
    let record = agent.history(1).await.unwrap().remove(0);
    assert_eq!(record.note.as_ref(), Some(&after));
    write_script(&program, "#!/bin/sh\nexit 1\n");
    tree(&agent).await;
    agent.undo(UndoRequest::default()).await.unwrap();
    assert_eq!(poll(&agent).await.details.note.as_ref(), Some(&after), "undoing is no update");
    assert!(before.as_str().len() <= Note::MAX_LEN);
}

/// An agent that was started to do only that.
fn start_as(case: &Case, mode: AgentMode) -> LocalAgent {
    let mut config = case.config();
    config.mode = mode;
    LocalAgent::start(config).unwrap()
}

#[tokio::test]
async fn without_triggers_no_restart_is_waited_for_that_nobody_orders() {
    for more in [REBOOT, AGENT] {
        let case = Case::new("new", more, "{}").await;
        let agent = start_as(&case, AgentMode::TriggersDisabled);
        let request = case.ordered(&agent).await;
        case.calls();
        assert_eq!(agent.update(request).await.unwrap().outcome, UpdateOutcome::Made);
        assert!(case.is_new());
        assert_eq!((case.calls(), poll(&agent).await.details.trial.clone()), (Vec::new(), None));
    }
}

#[tokio::test]
async fn what_is_owed_to_services_stays_owed_while_an_agent_runs_that_touches_none() {
    for mode in [AgentMode::TriggersDisabled, AgentMode::ReadOnly] {
        let case = Case::new("new", "", "{}").await;
        let agent = case.start().unwrap();
        let request = case.ordered(&agent).await;
        // Once it is stopped.
        case.dies(Death::After(0));
        agent.update(request).await.unwrap_err();
        drop(agent);
        case.revive();
        assert_eq!(case.world.answer("web"), None);
        case.calls();
        let agent = start_as(&case, mode);
        agent.is_served();
        tree(&agent).await;
        agent.idle().await;
        assert_eq!(case.calls(), <[String; 0]>::default());
        if mode == AgentMode::TriggersDisabled {
            // Also when it makes an update itself.
            let request = case.ordered(&agent).await;
            assert!(agent.update(request).await.unwrap().is_success());
        }
        drop(agent);
        drop(case.settled().await);
        assert!(case.world.answer("web").is_some(), "{mode}");
    }
}

#[tokio::test]
async fn an_agent_without_triggers_says_that_it_restarts_nothing() {
    let case = Case::new("new", "", "{}").await;
    let agent = start_as(&case, AgentMode::TriggersDisabled);
    case.calls();
    let restart = RestartRequest { service: "web".parse().unwrap(), lock: None };
    let refused = agent.restart_service(restart).await.unwrap_err();
    let AgentError::Refused(Refusal::Mode(AgentMode::TriggersDisabled)) = refused else {
        panic!("{refused}")
    };
    assert_eq!(case.calls(), <[String; 0]>::default());
}

//! A log is read from afar, and what is logged changed, by those who may.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dominator_core::auth::Role;
use dominator_rpc::client::{LogError, LogNews, LogQuery, RemoteLog};
use dominator_rpc::limits;
use dominator_rpc::log::{BadLevel, Level, Levels, LogLevels, LogRing};
use dominator_rpc::server::Services;
use dominator_rpc::v1::WatchLogRequest;
use dominator_rpc::v1::logger_client::LoggerClient;
use futures_util::StreamExt as _;
use support::{Running, World, raw};

/// Levels that are nothing but remembered.
struct Remembered(Mutex<Levels>);

impl LogLevels for Remembered {
    fn levels(&self) -> Levels {
        self.0.lock().unwrap().clone()
    }

    fn set(&self, level: &str, left: Option<Duration>) -> Result<Levels, BadLevel> {
        if level == "loud" {
            return Err(BadLevel("\"loud\" is no log level".into()));
        }
        let mut levels = self.0.lock().unwrap();
        *levels = Levels { level: level.into(), usual: "info".into(), left };
        Ok(levels.clone())
    }
}

async fn started(world: &World, ring: &LogRing) -> Running {
    let levels = Levels { level: "info".into(), usual: "info".into(), left: None };
    let services = Services::new("test").logger(ring.clone(), Arc::new(Remembered(Mutex::new(levels))));
    world.serve("imageserver", services).await
}

async fn log(world: &World, server: &Running, methods: &str) -> RemoteLog {
    RemoteLog::connect(&world.tls("alice", methods), &server.at(), Role::ImageServer).await.unwrap()
}

/// The numbers of what is shown to somebody who asks for `query`.
async fn numbers(log: &RemoteLog, query: LogQuery) -> Vec<u64> {
    let news: Vec<_> = log.watch(query).await.unwrap().collect().await;
    let number = |told: Result<LogNews, LogError>| match told.unwrap() {
        LogNews::Line(line) => line.number,
        LogNews::Lost(count) => panic!("{count} lines were lost"),
    };
    news.into_iter().map(number).collect()
}

#[tokio::test]
async fn lines_are_chosen_by_number_level_and_expressions() {
    let (world, ring) = (World::new(), LogRing::new());
    for (level, text) in [
        (Level::Info, "listening on 7"),
        (Level::Warn, "connection refused user=mallory"),
        (Level::Debug, "connection refused user=bob"),
        (Level::Error, "the disk is full"),
    ] {
        ring.push(level, "test", text);
    }
    let server = started(&world, &ring).await;
    let log = log(&world, &server, "Logger.Watch").await;
    let all = LogQuery { last: 100, ..LogQuery::default() };
    let word = str::to_owned;
    for (query, expected) in [
        (all.clone(), vec![0, 1, 2, 3]),
        (LogQuery { last: 2, ..all.clone() }, vec![2, 3]),
        (LogQuery { last: 0, ..all.clone() }, vec![]),
        (LogQuery { level: Some(Level::Warn), ..all.clone() }, vec![1, 3]),
        (LogQuery { include: word("refused"), ..all.clone() }, vec![1, 2]),
        (LogQuery { include: word("refused"), exclude: word(r"user=m\w+$"), ..all.clone() }, vec![2]),
        (LogQuery { exclude: word("^(listening|connection)"), ..all.clone() }, vec![3]),
    ] {
        assert_eq!(numbers(&log, query.clone()).await, expected, "{query:?}");
    }
    for query in [
        LogQuery { include: word("("), ..all.clone() },
        LogQuery { exclude: "x".repeat(limits::REASON + 1), ..all.clone() },
        LogQuery { include: word("(?:a{1000}){1000}"), ..all.clone() },
    ] {
        let refused = log.watch(query).await.err().unwrap();
        assert!(matches!(refused, LogError::Invalid(_)), "{refused:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_watches_sees_what_is_logged_next_until_the_end() {
    let (world, ring) = (World::new(), LogRing::new());
    ring.push(Level::Info, "test", "before");
    let server = started(&world, &ring).await;
    let log = log(&world, &server, "Logger.Watch").await;
    let mut news = log.watch(LogQuery { last: 1, follow: true, ..LogQuery::default() }).await.unwrap();
    let mut next = async || match news.next().await?.unwrap() {
        LogNews::Line(line) => Some(line.text),
        LogNews::Lost(_) => panic!("nothing was lost"),
    };
    assert_eq!(next().await.as_deref(), Some("before"));
    ring.push(Level::Info, "test", "after");
    assert_eq!(next().await.as_deref(), Some("after"));
    ring.end();
    assert_eq!(next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn who_takes_nothing_holds_up_nobody_and_is_told_what_was_lost() {
    let (world, ring) = (World::new(), LogRing::new());
    let server = started(&world, &ring).await;
    let mut client = LoggerClient::new(raw(&world, &server, "Logger.Watch", Role::ImageServer).await);
    let request = WatchLogRequest { follow: true, ..WatchLogRequest::default() };
    let mut stuck = client.watch(request).await.unwrap().into_inner();
    // Far more than fits into the windows of a connection, the queue of an answer and the ring, while nobody takes any.
    let line = "x".repeat(1000);
    let lines = 100_000;
    for _ in 0..lines {
        ring.push(Level::Info, "test", &line);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..lines {
        ring.push(Level::Info, "test", &line);
    }
    ring.end();
    let (mut lost, mut came) = (0, 0);
    while let Some(reply) = stuck.message().await.unwrap() {
        lost += reply.lost;
        came += reply.lines.len() as u64;
    }
    assert_eq!(lost + came, 2 * lines, "every line came or was counted");
    assert!(came > 0 && lost > lines, "{came} came, {lost} were lost");
    server.stop().await;
}

#[tokio::test]
async fn levels_are_asked_for_and_set_within_bounds() {
    let (world, ring) = (World::new(), LogRing::new());
    let server = started(&world, &ring).await;
    let log = log(&world, &server, "Logger.*").await;
    let levels = |level: &str, left| Levels { level: level.into(), usual: "info".into(), left };
    assert_eq!(log.levels().await.unwrap(), levels("info", None));
    let minute = Some(Duration::from_secs(60));
    assert_eq!(log.set("debug", minute).await.unwrap(), levels("debug", minute));
    assert_eq!(log.levels().await.unwrap(), levels("debug", minute));
    let week = Duration::from_secs(limits::LOG_LEVEL_SECONDS);
    for (level, time) in [
        ("loud", None),
        ("", None),
        (&*"x".repeat(limits::REASON + 1), None),
        ("debug", Some(Duration::ZERO)),
        ("debug", Some(week + Duration::from_secs(1))),
    ] {
        let refused = log.set(level, time).await.unwrap_err();
        assert!(matches!(refused, LogError::Invalid(_)), "{level:?} {time:?}: {refused:?}");
    }
    assert_eq!(log.levels().await.unwrap(), levels("debug", minute), "nothing of that changed anything");
    assert!(matches!(log.print(Level::Info, "").await.unwrap_err(), LogError::Invalid(_)));
    let listed =
        RemoteLog::connect(&world.tls("bob", "Subd.*"), &server.at(), Role::ImageServer).await.unwrap();
    for refused in [
        listed.levels().await.err(),
        listed.set("debug", None).await.err(),
        listed.print(Level::Info, "x").await.err(),
        listed.watch(LogQuery::default()).await.err(),
    ] {
        assert!(matches!(refused, Some(LogError::Denied(_))), "{refused:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn watching_has_a_bound_and_whoever_goes_makes_room() {
    let (world, ring) = (World::new(), LogRing::new());
    let server = started(&world, &ring).await;
    let log = log(&world, &server, "Logger.Watch").await;
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut watching = Vec::new();
    for _ in 0..limits::LOG_WATCHERS {
        watching.push(log.watch(follow.clone()).await.unwrap());
    }
    let refused = log.watch(follow.clone()).await.err().unwrap();
    assert!(matches!(refused, LogError::Failed(_)), "{refused:?}");
    watching.pop();
    // The server hears of it a little later.
    while log.watch(follow.clone()).await.is_err() {
        tokio::task::yield_now().await;
    }
    drop(watching);
    server.stop().await;
}

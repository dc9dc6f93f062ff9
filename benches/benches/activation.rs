//! How long a service is down for our sake: from the last rename of an update of 20 files to when its start is ordered, and
//! from when its stop was to the first rename. In between lie what makes the update durable and its notes.
//!
//!     cargo bench -p dominator-benches --bench activation [-- --dir DIR]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Needs, Operation, Plan};
use dominator_core::port::*;
use dominator_core::tree::Tree;
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs_testkit::{Call, Tap, Tapped};

const FILES: u32 = 20;
const TRIGGERS: &str = r#"[{"MatchLines": ["/etc/.*"], "Service": "web"}]"#;

#[derive(Parser)]
struct Options {
    /// On the disk that is to be measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often it is updated
    #[arg(long, value_name = "N", default_value_t = 30)]
    rounds: u32,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
}

/// When what was done.
#[derive(Default)]
struct Watch {
    objects: Mutex<HashMap<ObjectId, Bytes>>,
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Default)]
struct Times {
    stopped: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    started: Option<Instant>,
}

impl Tap for Watch {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut times = self.times.lock().unwrap();
        if matches!(call, Call::Rename(..)) && times.stopped.is_some() {
            times.first = times.first.or(Some(Instant::now()));
        }
        Ok(())
    }

    fn after(&self, call: Call<'_>) {
        let mut times = self.times.lock().unwrap();
        if matches!(call, Call::Rename(..)) && times.stopped.is_some() && times.started.is_none() {
            times.last = Some(Instant::now());
        }
    }
}

impl ServiceRunner for Watch {
    fn run(&self, action: ServiceAction, _: &str) -> Result<(), ServiceError> {
        let mut times = self.times.lock().unwrap();
        let when = if action == ServiceAction::Stop { &mut times.stopped } else { &mut times.started };
        *when = Some(Instant::now());
        Ok(())
    }
}

/// A source that is the process itself.
struct Sources(Arc<Watch>);

#[async_trait]
impl ObjectSources for Sources {
    async fn source(&self, _: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

#[async_trait]
impl ObjectSource for Sources {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let objects = self.0.objects.lock().unwrap();
        let mut pieces = Vec::new();
        for id in wanted {
            let bytes = objects.get(&id).unwrap().clone();
            pieces.extend([Ok(Piece::Begin { id, size: bytes.len() as u64 }), Ok(Piece::Data(bytes))]);
        }
        Ok(Pieces::new(futures_util::stream::iter(pieces)))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Options { dir, rounds, test, .. } = Options::parse();
    let dir = dir.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    let watch = Arc::new(Watch::default());
    let services = Arc::clone(&watch) as Arc<dyn ServiceRunner>;
    let mut config = AgentConfig::new(&root, &state, services, Arc::new(Sources(Arc::clone(&watch))));
    config.scan_interval = Duration::from_secs(3600);
    let agent = LocalAgent::start_with(config, Arc::new(Tapped(Arc::clone(&watch)))).unwrap();
    let traits = agent.poll(PollRequest::default()).await.unwrap().details.traits.clone();
    let view = View { protected: traits.protected.clone(), xattrs: traits.xattrs, ..View::everything() };
    agent.set_view(view, None).await.unwrap();
    let mut spans = [const { Vec::new() }; 2];
    for round in 0..if test { 1 } else { rounds } {
        let times = update(&agent, &watch, round).await;
        spans[0].push(times.first.unwrap() - times.stopped.unwrap());
        spans[1].push(times.started.unwrap() - times.last.unwrap());
    }
    for (what, mut span) in ["stop to first rename", "last rename to start"].into_iter().zip(spans) {
        span.sort();
        let at = |share: usize| span.get((span.len() - 1) * share / 100).unwrap().as_secs_f64() * 1e3;
        println!("{what}: median {:.2} ms, 90 % {:.2} ms, most {:.2} ms", at(50), at(90), at(100));
    }
}

async fn update(agent: &LocalAgent, watch: &Watch, round: u32) -> Times {
    let base = tree(agent).await;
    let operations: Vec<_> = (0..FILES)
        .map(|number| {
            let contents = Bytes::from(format!("{round} {number} ").repeat(500));
            let (object, size) = (ObjectId::of(&contents), contents.len() as u64);
            watch.objects.lock().unwrap().insert(object, contents);
            let kind = Kind::Regular { mtime: Timestamp::new(i64::from(round), 0).unwrap(), size, object };
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let inode = Inode { mode: Mode::from_st_mode(0o644), uid, gid, xattrs: Xattrs::default(), kind };
            Operation::Put { path: ImagePath::parse(format!("/etc/{number}").as_bytes()).unwrap(), inode }
        })
        .collect();
    let plan = Plan { operations };
    let needs = Needs::of(plan.objects());
    agent.fetch(FetchRequest { needs, sources: vec!["here".to_owned()], lock: None }).await.unwrap();
    *watch.times.lock().unwrap() = Times::default();
    let request = UpdateRequest {
        image: Some(format!("web/{round}").parse().unwrap()),
        triggers: Triggers::from_json(TRIGGERS.as_bytes()).unwrap(),
        ..UpdateRequest::new(base.id(), base.view, plan)
    };
    let report = agent.update(request).await.unwrap();
    assert!(report.is_success(), "{report:?}");
    *watch.times.lock().unwrap()
}

async fn tree(agent: &LocalAgent) -> Tree {
    let mut known = None;
    loop {
        let wait = Duration::from_secs(60);
        let reply = agent.poll(PollRequest { known, wait, view: None }).await.unwrap();
        if let Scanned::Tree(tree) = reply.scanned {
            return tree;
        }
        known = Some(reply.status.generation);
    }
}

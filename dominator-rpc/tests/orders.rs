//! What an agent can do beside fetching and updating, from afar: nothing is lost, and nothing that breaks a rule comes in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, unreachable_pub, missing_docs)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::auth::Role;
use dominator_core::health::{HealthCheck, HealthChecks, HealthOutcome, Probe};
use dominator_core::image::ImageName;
use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Plan, PlanSummary, PlannedAction};
use dominator_core::port::*;
use dominator_core::tree::TreeId;
use dominator_core::view::{View, ViewId};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::server::Services;
use dominator_rpc::{limits, v1};
use support::{Running, World, raw};

/// An agent that notes what it is asked, and answers as it was told to.
#[derive(Default)]
struct Clerk {
    asked: Mutex<Vec<String>>,
    failure: Mutex<Option<AgentError>>,
    /// What a record says of a service.
    words: Mutex<Option<String>>,
}

impl Clerk {
    fn note(&self, asked: impl std::fmt::Debug) -> Result<(), AgentError> {
        self.asked.lock().unwrap().push(format!("{asked:?}"));
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Agent for Clerk {
    async fn poll(&self, _: PollRequest) -> Result<PollReply, AgentError> {
        Err(AgentError::NotNow("busy".into()))
    }

    async fn set_view(&self, view: View, lock: Option<LockToken>) -> Result<ViewId, AgentError> {
        self.note(("view", lock)).map(|()| view.id())
    }

    async fn directories(&self, _: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Ok(Vec::new())
    }

    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        self.note(request).map(|()| FetchReport::default())
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        self.note(request).map(|()| report())
    }

    async fn clean_up(&self, lock: Option<LockToken>) -> Result<(), AgentError> {
        self.note(lock)
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow("busy".into()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        Ok(())
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        Ok(())
    }

    async fn undo(&self, request: UndoRequest) -> Result<UpdateReport, AgentError> {
        self.note(request).map(|()| report())
    }

    async fn history(&self, limit: usize) -> Result<Vec<UpdateRecord>, AgentError> {
        self.note(limit)?;
        let words = self.words.lock().unwrap().clone();
        let services = words.map(|error| vec![ServiceOutcome { error: Some(error), ..service() }]);
        let record = |number| {
            let record = record(number);
            UpdateRecord { services: services.clone().unwrap_or(record.services), ..record }
        };
        Ok((0..10).map(record).collect())
    }

    async fn forgive(&self, request: ForgiveRequest) -> Result<(), AgentError> {
        self.note(request)
    }

    async fn restart_service(&self, request: RestartRequest) -> Result<ServiceOutcome, AgentError> {
        self.note(request).map(|()| service())
    }

    async fn remove_conflicts(&self, lock: Option<LockToken>) -> Result<RemovedConflicts, AgentError> {
        self.note(("conflicts", lock)).map(|()| removed())
    }

    async fn files(&self, paths: Vec<ImagePath>) -> Result<Vec<FileContents>, AgentError> {
        self.note(&paths)?;
        let file = |path: ImagePath| {
            let contents = match path.as_bytes() {
                b"/secret" => Err("the machine protects it".to_owned()),
                b"/large" => Ok(Bytes::from(vec![7; 1_000_000])),
                _ => Ok(Bytes::new()),
            };
            FileContents { path, contents }
        };
        Ok(paths.into_iter().map(file).collect())
    }

    async fn lock(&self, request: LockRequest) -> Result<(), AgentError> {
        self.note(request)
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    Timestamp::new(1_700_000_000, 0).unwrap()
}

fn service() -> ServiceOutcome {
    ServiceOutcome {
        service: "web".into(),
        action: "restart".into(),
        before: ServiceState::Failed,
        error: Some("no licence".into()),
    }
}

fn undone(why: UndoReason) -> UpdateOutcome {
    let failures = vec![PathFailure { path: path("/a"), reason: "b".into() }];
    UpdateOutcome::Undone { why, detail: "web does not answer".into(), failures }
}

fn health() -> HealthOutcome {
    HealthOutcome {
        name: "web".into(),
        attempts: 3,
        error: Some("refused".into()),
        took: Duration::from_millis(4),
    }
}

fn report() -> UpdateReport {
    UpdateReport {
        applied: 1,
        kept: vec![path("/kept")],
        failures: vec![PathFailure { path: path("/c"), reason: "d".into() }],
        more_failures: 2,
        services: vec![service()],
        health: vec![health()],
        window: Duration::from_micros(5),
        outcome: undone(UndoReason::Unhealthy),
    }
}

/// One of each outcome there is.
fn record(number: u64) -> UpdateRecord {
    let why = |reboot| if reboot { TrialReason::Reboot } else { TrialReason::AgentRestart };
    let reasons = UndoReason::ALL;
    UpdateRecord {
        number,
        image: Some(name("web/2")).filter(|_| number != 1),
        previous: Some(name("web/1")).filter(|_| number != 2),
        began: noon(),
        ended: Some(noon()).filter(|_| number != 3),
        plan: PlanSummary {
            directories: 1,
            files: 2,
            symlinks: 3,
            specials: 4,
            links: 5,
            metadata: 6,
            deletions: 7,
            bytes: 8,
            services: vec![PlannedAction { service: "web".into(), action: "stop".into() }],
            kept: vec![path("/kept")],
            protected: vec![path("/var/lib/subd")],
            window: Duration::from_micros(9),
        },
        services: vec![service()],
        health: vec![health()],
        window: Duration::from_micros(10),
        outcome: match number {
            0 => UpdateOutcome::Made,
            1 | 2 => UpdateOutcome::OnTrial { why: why(number == 1) },
            3 => UpdateOutcome::NotMade { why: "no room".into() },
            4 => undone(UndoReason::Asked),
            other => undone(reasons[usize::try_from(other).unwrap() % reasons.len()]),
        },
        note: Note::cut("kernel 6.1"),
    }
}

fn removed() -> RemovedConflicts {
    RemovedConflicts { paths: vec![path("/.subd/conflicts/7")], more: 3, bytes: 4096 }
}

async fn remote(clerk: &Arc<Clerk>) -> (Running, RemoteAgent) {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(clerk.clone())).await;
    let remote = RemoteAgent::connect(&world.tls("dominator", "Subd.*"), &server.at()).await.unwrap();
    (server, remote)
}

fn update() -> UpdateRequest {
    let check = HealthCheck::new("web", Probe::Unit("web.service".into()));
    UpdateRequest {
        sparse: Some(name("keys/1")),
        health: HealthChecks::new(vec![check], Duration::from_secs(9)).unwrap(),
        disruption: Disruption::Force,
        reboot: Reboot::Refused,
        lock: Some(LockToken(u64::MAX)),
        ..UpdateRequest::new(TreeId(ObjectId::of(b"a")), ViewId(ObjectId::of(b"b")), Plan::default())
    }
}

#[tokio::test]
async fn what_is_asked_and_answered_arrives_whole() {
    let clerk = Arc::new(Clerk::default());
    let (server, remote) = remote(&clerk).await;
    let lock = Some(LockToken(7));
    assert_eq!(remote.update(update()).await.unwrap(), report());
    let fetch = FetchRequest { lock, ..FetchRequest::default() };
    remote.fetch(fetch.clone()).await.unwrap();
    remote.clean_up(lock).await.unwrap();
    let undo = UndoRequest { blame: Blame::Image, lock };
    assert_eq!(remote.undo(undo).await.unwrap(), report());
    assert_eq!(remote.history(7).await.unwrap(), (0..7).map(record).collect::<Vec<_>>());
    let forgive = ForgiveRequest { image: Some(name("web/2")), lock };
    remote.forgive(forgive.clone()).await.unwrap();
    remote.forgive(ForgiveRequest::default()).await.unwrap();
    remote.set_view(View::everything(), lock).await.unwrap();
    assert_eq!(remote.remove_conflicts(lock).await.unwrap(), removed());
    let restart = RestartRequest { service: "web@1".parse().unwrap(), lock };
    assert_eq!(remote.restart_service(restart.clone()).await.unwrap(), service());
    let taken = LockRequest {
        token: LockToken(7),
        who: "alice".into(),
        lease: Lease::of(Duration::from_millis(1500)),
    };
    remote.lock(taken.clone()).await.unwrap();
    let expected = [
        format!("{:?}", update()),
        format!("{fetch:?}"),
        format!("{lock:?}"),
        format!("{undo:?}"),
        "7".into(),
        format!("{forgive:?}"),
        format!("{:?}", ForgiveRequest::default()),
        format!("{:?}", ("view", lock)),
        format!("{:?}", ("conflicts", lock)),
        format!("{restart:?}"),
        format!("{taken:?}"),
    ];
    assert_eq!(clerk.asked(), expected);
    server.stop().await;
}

#[tokio::test]
async fn files_come_in_the_order_asked_for_with_what_can_not_be_told() {
    let clerk = Arc::new(Clerk::default());
    let (server, remote) = remote(&clerk).await;
    let paths = ["/large", "/secret", "/empty"].map(path).to_vec();
    let files = remote.files(paths.clone()).await.unwrap();
    assert!(files.iter().map(|file| &file.path).eq(&paths));
    assert_eq!(files[0].contents.as_ref().unwrap(), &vec![7; 1_000_000]);
    assert_eq!(files[1].contents, Err("the machine protects it".into()));
    assert_eq!(files[2].contents, Ok(Bytes::new()));
    let many = vec![path("/x"); FileContents::MAX_PATHS + 1];
    assert!(remote.files(many).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn records_without_end_are_not_listened_to() {
    let clerk = Arc::new(Clerk::default());
    let (server, remote) = remote(&clerk).await;
    *clerk.words.lock().unwrap() = Some("x".repeat(limits::HISTORY / 8));
    assert_eq!(remote.history(3).await.unwrap().len(), 3);
    let error = remote.history(9).await.map(|records| records.len()).unwrap_err();
    assert!(matches!(error, AgentError::Protocol(_)), "{error:?}");
    server.stop().await;
}

/// Who asks for a hundred megabytes and takes nothing has the agent keep all of it.
#[tokio::test]
async fn long_answers_that_nobody_takes_do_not_pile_up_in_memory() {
    let world = World::new();
    let clerk = Arc::new(Clerk::default());
    let server = world.serve("subd", Services::new("test").agent(clerk.clone())).await;
    let channel = raw(&world, &server, "Subd.*", Role::Subd).await;
    let client = v1::subd_client::SubdClient::new(channel);
    let ask = async || {
        let paths = vec![Bytes::from_static(b"/large"); 100];
        client.clone().get_files(v1::FilesRequest { paths }).await
    };
    let mut untaken = Vec::new();
    for _ in 0..limits::LONG_ANSWERS {
        untaken.push(ask().await.unwrap());
    }
    let status = ask().await.unwrap_err();
    assert!(status.message().contains("too much is being told"), "{status:?}");
    let history = client.clone().get_history(v1::HistoryRequest { limit: 1 }).await;
    assert!(history.is_err());
    // Those who left make room.
    untaken.clear();
    while let Err(status) = ask().await {
        assert!(status.message().contains("too much is being told"), "{status:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_stands_against_an_order_arrives_as_what_it_is() {
    let clerk = Arc::new(Clerk::default());
    let (server, remote) = remote(&clerk).await;
    let refusals = [
        Refusal::Stopped("do not touch".into()),
        Refusal::Mode(AgentMode::ReadOnly),
        Refusal::Mode(AgentMode::UpdatesDisabled),
        Refusal::BadImage { image: name("web/2"), why: "web does not answer".into() },
        Refusal::Locked { by: "bob".into(), left: Duration::from_millis(2500) },
        Refusal::NothingToUndo,
        Refusal::Reboot,
    ];
    let errors = refusals.into_iter().map(AgentError::Refused).chain([AgentError::Unsupported]);
    for error in errors {
        *clerk.failure.lock().unwrap() = Some(error.clone());
        let came = remote.undo(UndoRequest::default()).await.unwrap_err();
        assert_eq!(format!("{came:?}"), format!("{error:?}"));
    }
    server.stop().await;
}

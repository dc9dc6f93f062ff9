use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::health::HealthChecks;
use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::port::{
    Agent, AgentError, Blame, Boost, Disruption, FetchRequest, ForgiveRequest, Lease, LockRequest, LockToken,
    Reboot, RestartRequest, UndoRequest, UpdateRecord, UpdateRequest,
};
use dominator_core::tree::TreeId;
use dominator_core::trigger::{BadTriggers, ServiceName, Triggers};
use dominator_core::view::{View, ViewId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status, Streaming};

use super::driven::Driven;
use super::{Answer, next, permit, targets};
use crate::auth::{Caller, Gate};
use crate::v1::fetch_request::Part as FetchPart;
use crate::v1::subd_server::Subd;
use crate::v1::update_request::Part as UpdatePart;
use crate::wire::{self, Collector, agent_status, digest, invalid};
use crate::{limits, v1};

/// How many directories are in memory at once.
const SLICE: usize = 256;

/// An agent, served.
pub(super) struct SubdService {
    agent: Gate<Arc<dyn Agent>>,
    receiving: Semaphore,
    telling: Arc<Semaphore>,
}

impl SubdService {
    /// Serves `agent`.
    pub(super) fn new(agent: Arc<dyn Agent>) -> Self {
        let telling = Arc::new(Semaphore::new(limits::LONG_ANSWERS));
        Self { agent: Gate::new(agent), receiving: Semaphore::new(limits::ORDERS), telling }
    }

    fn agent<T>(&self, request: &Request<T>) -> Result<&Arc<dyn Agent>, Status> {
        Ok(self.agent.open(permit(request)?))
    }

    /// Room in memory for what an order brings along, until the agent has it.
    fn room(&self) -> Result<SemaphorePermit<'_>, Status> {
        let full = |_| agent_status(&AgentError::NotNow("too many orders are being received".into()));
        self.receiving.try_acquire().map_err(full)
    }

    /// Room in memory for a long answer, until the caller has taken it.
    fn room_to_tell(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full =
            |_| agent_status(&AgentError::NotNow("too much is being told already; ask again later".into()));
        Arc::clone(&self.telling).try_acquire_owned().map_err(full)
    }

    async fn boost(&self, request: &Request<v1::Empty>, boost: Boost) -> Result<Response<v1::Empty>, Status> {
        self.agent(request)?.boost(boost).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }
}

#[async_trait]
impl Subd for SubdService {
    async fn poll(&self, request: Request<v1::PollRequest>) -> Result<Response<v1::PollReply>, Status> {
        let agent = self.agent(&request)?;
        let (request, held) = wire::poll_request_from(request.get_ref())?;
        let reply = agent.poll(request).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::poll_reply(&reply, &held)))
    }

    async fn set_view(
        &self,
        request: Request<Streaming<v1::SetViewRequest>>,
    ) -> Result<Response<v1::SetViewReply>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let _room = self.room()?;
        let mut parts = request.into_inner();
        let (mut encoding, mut lock) = (Collector::new("a view", limits::VIEW), None);
        while let Some(part) = next(&mut parts).await? {
            encoding.push(&part.data)?;
            lock = lock.or(part.lock);
        }
        let encoding = encoding.finish();
        let view = wire::decode("the view", move || View::decode(&encoding)).await?;
        caller.target(format_args!("view {}", view.id()));
        let id = agent.set_view(view, lock.map(LockToken)).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::SetViewReply { view: wire::ids([&id.0]) }))
    }

    type GetDirectoriesStream = Answer<v1::ObjectPieces>;

    async fn get_directories(
        &self,
        request: Request<v1::ObjectIds>,
    ) -> Result<Response<Self::GetDirectoriesStream>, Status> {
        let ids = wire::ids_from(&request.get_ref().ids, limits::DIRECTORIES_IN_CALL)?;
        let agent = self.agent(&request)?.clone();
        let slices: Vec<Vec<ObjectId>> = ids.chunks(SLICE).map(<[_]>::to_vec).collect();
        let directories = stream::iter(slices).then(move |slice| directories(agent.clone(), slice));
        let pieces = wire::encodings(directories.try_flatten());
        Ok(Response::new(Driven::stream(wire::pack_pieces(pieces)).boxed()))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<v1::FetchReply>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let room = self.room()?;
        let order = fetch_order(request.into_inner()).await?;
        drop(room);
        caller.target(targets::fetch(&order));
        let report = agent.fetch(order).await.map_err(|error| agent_status(&error))?;
        caller.detail(format_args!("{} objects, {} bytes came", report.objects, report.bytes));
        Ok(Response::new(wire::fetch_reply(report)))
    }

    async fn update(
        &self,
        request: Request<Streaming<v1::UpdateRequest>>,
    ) -> Result<Response<v1::UpdateReply>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let room = self.room()?;
        let order = update_order(request.into_inner()).await?;
        drop(room);
        caller.target(targets::update(&order));
        let report = agent.update(order).await.map_err(|error| agent_status(&error))?;
        caller.detail(format_args!("{} operations, {} failures", report.applied, report.failures.len()));
        Ok(Response::new(wire::update_reply(&report)))
    }

    async fn cleanup(&self, request: Request<v1::CleanupRequest>) -> Result<Response<v1::Empty>, Status> {
        self.agent(&request)?
            .clean_up(request.get_ref().lock.map(LockToken))
            .await
            .map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_configuration(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<v1::Configuration>, Status> {
        let configuration =
            self.agent(&request)?.configuration().await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::configuration(&configuration)))
    }

    async fn set_configuration(
        &self,
        request: Request<v1::SetConfigurationRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let change = wire::reconfiguration_from(request.get_ref())?;
        let agent = self.agent(&request)?;
        Caller::of(&request)?.target(targets::configuration(&change));
        agent.configure(change).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn boost_cpu_limit(&self, request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.boost(&request, Boost::Cpu).await
    }

    async fn boost_scan_limit(&self, request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.boost(&request, Boost::Scan).await
    }

    async fn undo(&self, request: Request<v1::UndoRequest>) -> Result<Response<v1::UpdateReply>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let v1::UndoRequest { mark_bad, lock } = request.into_inner();
        caller.target(if mark_bad { "the last update, and its image is bad" } else { "the last update" });
        let blame = if mark_bad { Blame::Image } else { Blame::Nobody };
        let undone = agent.undo(UndoRequest { blame, lock: lock.map(LockToken) }).await;
        let report = undone.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::update_reply(&report)))
    }

    type GetHistoryStream = Answer<v1::UpdateRecord>;

    async fn get_history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::GetHistoryStream>, Status> {
        let limit = usize::try_from(request.get_ref().limit).unwrap_or(usize::MAX);
        let limit = limit.min(UpdateRecord::MAX_COUNT);
        let room = self.room_to_tell()?;
        let records = self.agent(&request)?.history(limit).await.map_err(|error| agent_status(&error))?;
        let records = records.into_iter().take(limit).map(|record| Ok(wire::record(&record)));
        Ok(Response::new(Driven::stream(holding(room, stream::iter(records))).boxed()))
    }

    async fn forgive(&self, request: Request<v1::ForgiveRequest>) -> Result<Response<v1::Empty>, Status> {
        let agent = self.agent(&request)?;
        let v1::ForgiveRequest { image, lock } = request.get_ref();
        let image = image.as_ref().map(|name| wire::image_name(name)).transpose()?;
        Caller::of(&request)?.target(targets::forgive(image.as_ref()));
        let request = ForgiveRequest { image, lock: lock.map(LockToken) };
        agent.forgive(request).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn restart_service(
        &self,
        request: Request<v1::RestartRequest>,
    ) -> Result<Response<v1::ServiceOutcome>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let v1::RestartRequest { service, lock } = request.into_inner();
        let service: ServiceName =
            service.parse().map_err(|error: BadTriggers| invalid(wire::text(&error)))?;
        caller.target(format_args!("service {service}"));
        let request = RestartRequest { service, lock: lock.map(LockToken) };
        let outcome = agent.restart_service(request).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::service_outcome(&outcome)))
    }

    type GetFilesStream = Answer<v1::FilePart>;

    async fn get_files(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<Self::GetFilesStream>, Status> {
        let paths = wire::files_request_from(request.get_ref())?;
        let room = self.room_to_tell()?;
        let files = self.agent(&request)?.files(paths.clone()).await.map_err(|error| agent_status(&error))?;
        if !files.iter().map(|file| &file.path).eq(&paths) {
            return Err(Status::internal("the agent did not answer with the files that were asked for"));
        }
        let parts = files.into_iter().flat_map(wire::file_parts).map(Ok);
        Ok(Response::new(Driven::stream(holding(room, stream::iter(parts))).boxed()))
    }

    async fn remove_conflicts(
        &self,
        request: Request<v1::RemoveConflictsRequest>,
    ) -> Result<Response<v1::RemoveConflictsReply>, Status> {
        let removed = self.agent(&request)?.remove_conflicts(request.get_ref().lock.map(LockToken)).await;
        let removed = removed.map_err(|error| agent_status(&error))?;
        Caller::of(&request)?.detail(targets::removed(&removed));
        Ok(Response::new(wire::removed(&removed)))
    }

    async fn lock(&self, request: Request<v1::LockRequest>) -> Result<Response<v1::Empty>, Status> {
        let agent = self.agent(&request)?;
        let caller = Caller::of(&request)?.clone();
        let v1::LockRequest { token, who, lease_millis } = request.into_inner();
        if who.len() > LockRequest::MAX_WHO {
            return Err(invalid(format!("a name of more than {} bytes", LockRequest::MAX_WHO)));
        }
        let lease = Lease::of(Duration::from_millis(lease_millis.into()));
        let request = LockRequest { token: LockToken(token), who: wire::readable(&who), lease };
        caller.target(format_args!("for {} ms, by {}", lease_millis, request.who));
        agent.lock(request).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }
}

/// The stream has `room` to its end.
fn holding<T>(
    room: OwnedSemaphorePermit,
    items: impl futures_util::Stream<Item = T>,
) -> impl futures_util::Stream<Item = T> {
    items.map(move |item| {
        let _held = &room;
        item
    })
}

async fn directories(
    agent: Arc<dyn Agent>,
    ids: Vec<ObjectId>,
) -> Result<impl futures_util::Stream<Item = Result<(ObjectId, Bytes), Status>>, Status> {
    let encodings = agent.directories(ids.clone()).await.map_err(|error| agent_status(&error))?;
    if encodings.len() != ids.len() {
        return Err(Status::internal("the agent did not answer with as many directories as were asked for"));
    }
    Ok(stream::iter(ids.into_iter().zip(encodings).map(Ok)))
}

async fn fetch_order(mut parts: Streaming<v1::FetchRequest>) -> Result<FetchRequest, Status> {
    let begin = next(&mut parts).await?;
    let begin = begin.ok_or_else(|| invalid("an order to fetch that is empty"))?;
    let mut order = wire::fetch_beginning(begin)?;
    let needs = &mut order.needs;
    while let Some(part) = next(&mut parts).await? {
        let Some(FetchPart::Objects(batch)) = part.part else {
            return Err(invalid("an order to fetch with a part that is not known here, or out of order"));
        };
        needs.objects.extend(wire::needed_from(&batch)?);
        if needs.objects.len() > limits::IDS_IN_CALL {
            return Err(Status::resource_exhausted(format!("more than {} objects", limits::IDS_IN_CALL)));
        }
    }
    Ok(order)
}

async fn update_order(mut parts: Streaming<v1::UpdateRequest>) -> Result<UpdateRequest, Status> {
    let Some(v1::UpdateRequest { part: Some(UpdatePart::Header(header)) }) = next(&mut parts).await? else {
        return Err(invalid("an update that does not begin with its header"));
    };
    let mut triggers = Collector::new("triggers", Triggers::MAX_JSON);
    let mut health = Collector::new("health checks", HealthChecks::MAX_JSON);
    let mut plan = Collector::new("a plan", limits::PLAN);
    while let Some(part) = next(&mut parts).await? {
        match part.part {
            Some(UpdatePart::Triggers(data)) => triggers.push(&data)?,
            Some(UpdatePart::Health(data)) => health.push(&data)?,
            Some(UpdatePart::Plan(data)) => plan.push(&data)?,
            Some(UpdatePart::Header(_)) | None => {
                return Err(invalid("an update with a part that is not known here, or out of order"));
            }
        }
    }
    let (triggers, health, plan) = (triggers.finish(), health.finish(), plan.finish());
    let triggers = Triggers::from_json(&triggers).map_err(|error| invalid(wire::text(&error)))?;
    let (base, view) = (TreeId(digest(&header.base)?), ViewId(digest(&header.view)?));
    let plan = wire::decode("the plan", move || Plan::decode(&plan)).await?;
    Ok(UpdateRequest {
        image: header.image.map(|name| wire::image_name(&name)).transpose()?,
        sparse: header.sparse.map(|name| wire::image_name(&name)).transpose()?,
        triggers,
        health: health_checks(&health)?,
        disruption: if header.force_disruption { Disruption::Force } else { Disruption::Ask },
        reboot: if header.no_reboot { Reboot::Refused } else { Reboot::Allowed },
        lock: header.lock.map(LockToken),
        ..UpdateRequest::new(base, view, plan)
    })
}

/// Those of an order that brings none are none.
fn health_checks(json: &[u8]) -> Result<HealthChecks, Status> {
    if json.is_empty() {
        return Ok(HealthChecks::default());
    }
    HealthChecks::from_json(json).map_err(|error| invalid(wire::text(&error)))
}

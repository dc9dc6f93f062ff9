use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::port::{Agent, AgentError, Boost, FetchRequest, UpdateRequest};
use dominator_core::tree::TreeId;
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, ViewId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status, Streaming};

use super::driven::Driven;
use super::{Answer, next};
use crate::v1::fetch_request::Part as FetchPart;
use crate::v1::subd_server::Subd;
use crate::v1::update_request::Part as UpdatePart;
use crate::wire::{self, Collector, agent_status, digest, invalid};
use crate::{limits, v1};

/// How many directories are in memory at once.
const SLICE: usize = 256;

/// An agent, served.
pub(super) struct SubdService {
    agent: Arc<dyn Agent>,
    receiving: Semaphore,
}

impl SubdService {
    /// Serves `agent`.
    pub(super) fn new(agent: Arc<dyn Agent>) -> Self {
        Self { agent, receiving: Semaphore::new(limits::ORDERS) }
    }

    /// Room in memory for what an order brings along, until the agent has it.
    fn room(&self) -> Result<SemaphorePermit<'_>, Status> {
        let full = |_| agent_status(&AgentError::NotNow("too many orders are being received".into()));
        self.receiving.try_acquire().map_err(full)
    }

    async fn boost(&self, boost: Boost) -> Result<Response<v1::Empty>, Status> {
        self.agent.boost(boost).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }
}

#[async_trait]
impl Subd for SubdService {
    async fn poll(&self, request: Request<v1::PollRequest>) -> Result<Response<v1::PollReply>, Status> {
        let (request, held) = wire::poll_request_from(request.get_ref())?;
        let reply = self.agent.poll(request).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::poll_reply(&reply, &held)))
    }

    async fn set_view(
        &self,
        request: Request<Streaming<v1::Chunk>>,
    ) -> Result<Response<v1::SetViewReply>, Status> {
        let _room = self.room()?;
        let mut parts = request.into_inner();
        let mut encoding = Collector::new("a view", limits::VIEW);
        while let Some(part) = next(&mut parts).await? {
            encoding.push(&part.data)?;
        }
        let encoding = encoding.finish();
        let view = wire::decode("the view", move || View::decode(&encoding)).await?;
        let id = self.agent.set_view(view).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::SetViewReply { view: wire::ids([&id.0]) }))
    }

    type GetDirectoriesStream = Answer<v1::ObjectPieces>;

    async fn get_directories(
        &self,
        request: Request<v1::ObjectIds>,
    ) -> Result<Response<Self::GetDirectoriesStream>, Status> {
        let ids = wire::ids_from(&request.get_ref().ids, limits::DIRECTORIES_IN_CALL)?;
        let agent = self.agent.clone();
        let slices: Vec<Vec<ObjectId>> = ids.chunks(SLICE).map(<[_]>::to_vec).collect();
        let directories = stream::iter(slices).then(move |slice| directories(agent.clone(), slice));
        let pieces = wire::encodings(directories.try_flatten());
        Ok(Response::new(Driven::stream(wire::pack_pieces(pieces)).boxed()))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<v1::FetchReply>, Status> {
        let room = self.room()?;
        let order = fetch_order(request.into_inner()).await?;
        drop(room);
        let report = self.agent.fetch(order).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::FetchReply { objects: report.objects, bytes: report.bytes }))
    }

    async fn update(
        &self,
        request: Request<Streaming<v1::UpdateRequest>>,
    ) -> Result<Response<v1::UpdateReply>, Status> {
        let room = self.room()?;
        let order = update_order(request.into_inner()).await?;
        drop(room);
        let report = self.agent.update(order).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::update_reply(&report)))
    }

    async fn cleanup(&self, _request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.agent.clean_up().await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_configuration(
        &self,
        _request: Request<v1::Empty>,
    ) -> Result<Response<v1::Configuration>, Status> {
        let configuration = self.agent.configuration().await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(wire::configuration(&configuration)))
    }

    async fn set_configuration(
        &self,
        request: Request<v1::SetConfigurationRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let change = wire::reconfiguration_from(request.get_ref())?;
        self.agent.configure(change).await.map_err(|error| agent_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn boost_cpu_limit(&self, _request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.boost(Boost::Cpu).await
    }

    async fn boost_scan_limit(&self, _request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.boost(Boost::Scan).await
    }
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
    let Some(v1::FetchRequest { part: Some(FetchPart::Source(source)) }) = next(&mut parts).await? else {
        return Err(invalid("an order to fetch that does not begin with a source"));
    };
    if source.len() > limits::ADDRESS {
        return Err(invalid("the address of a source that is too long"));
    }
    let mut objects = Vec::new();
    while let Some(part) = next(&mut parts).await? {
        let Some(FetchPart::Objects(batch)) = part.part else {
            return Err(invalid("an order to fetch with a part that is not known here, or out of order"));
        };
        objects.extend(wire::sized_from(&batch)?);
        if objects.len() > limits::IDS_IN_CALL {
            return Err(Status::resource_exhausted(format!("more than {} objects", limits::IDS_IN_CALL)));
        }
    }
    Ok(FetchRequest { objects, source })
}

async fn update_order(mut parts: Streaming<v1::UpdateRequest>) -> Result<UpdateRequest, Status> {
    let Some(v1::UpdateRequest { part: Some(UpdatePart::Header(header)) }) = next(&mut parts).await? else {
        return Err(invalid("an update that does not begin with its header"));
    };
    let mut triggers = Collector::new("triggers", Triggers::MAX_JSON);
    let mut plan = Collector::new("a plan", limits::PLAN);
    while let Some(part) = next(&mut parts).await? {
        match part.part {
            Some(UpdatePart::Triggers(data)) => triggers.push(&data)?,
            Some(UpdatePart::Plan(data)) => plan.push(&data)?,
            Some(UpdatePart::Header(_)) | None => {
                return Err(invalid("an update with a part that is not known here, or out of order"));
            }
        }
    }
    let (triggers, plan) = (triggers.finish(), plan.finish());
    let triggers = Triggers::from_json(&triggers).map_err(|error| invalid(wire::text(&error)))?;
    Ok(UpdateRequest {
        base: TreeId(digest(&header.base)?),
        view: ViewId(digest(&header.view)?),
        plan: wire::decode("the plan", move || Plan::decode(&plan)).await?,
        image: header.image.map(|name| wire::image_name(&name)).transpose()?,
        triggers,
    })
}

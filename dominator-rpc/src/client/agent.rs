use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::authorise::Role;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Agent, AgentError, Boost, Cause, Configuration, FetchReport, FetchRequest, PollReply, PollRequest,
    Reconfiguration, UpdateReport, UpdateRequest,
};
use dominator_core::tree::Directory;
use dominator_core::view::{View, ViewId};
use futures_util::stream;
use tonic::transport::Channel;

use super::answers::{Answered, KnownAnswers};
use super::{next, within};
use crate::transport::{ConnectError, Tls, connect};
use crate::v1::fetch_request::Part as FetchPart;
use crate::v1::subd_client::SubdClient;
use crate::v1::update_request::Part as UpdatePart;
use crate::wire::{self, Assembler, Breach, Sequence, agent_error};
use crate::{limits, v1};

/// The agent of a machine elsewhere.
#[derive(Debug)]
pub struct RemoteAgent {
    client: SubdClient<Channel>,
    known: KnownAnswers,
    /// What need not be sent again.
    last: Mutex<Option<Answered>>,
}

impl RemoteAgent {
    /// Connects to the agent at `address`, as in `host:port`.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`], with the reason.
    pub async fn connect(tls: &Tls, address: &str) -> Result<Self, AgentError> {
        Self::connect_among(KnownAnswers::new(), tls, address).await
    }

    /// The same, for one of many agents.
    pub(super) async fn connect_among(
        known: KnownAnswers,
        tls: &Tls,
        address: &str,
    ) -> Result<Self, AgentError> {
        let channel = connect(tls, address, Role::Subd).await.map_err(unreachable)?;
        let client = SubdClient::new(channel).max_decoding_message_size(limits::POLL_REPLY);
        Ok(Self { client, known, last: Mutex::new(None) })
    }

    /// Directories of one call.
    async fn some_directories(&self, ids: &[ObjectId]) -> Result<Vec<Bytes>, AgentError> {
        let tried = "getting directories failed";
        let failed = |status| agent_error(tried, status);
        let request = v1::ObjectIds { ids: wire::ids(ids) };
        let mut client = self.client.clone();
        let answer = within(limits::STALL, client.get_directories(request)).await.map_err(failed)?;
        let mut answer = answer.into_inner();
        let sequence = Sequence::of(ids.iter().copied());
        let mut assembler = Assembler::new(sequence, Directory::MAX_LEN, limits::DIRECTORY_BYTES);
        let mut directories = Vec::new();
        while let Some(message) = next(&mut answer).await.map_err(failed)? {
            for piece in wire::unpack(message).map_err(|status| protocol(status.message()))? {
                directories.extend(assembler.push(piece).map_err(breach)?.map(|(_, bytes)| bytes));
            }
        }
        assembler.end().map_err(breach)?;
        Ok(directories)
    }
}

#[async_trait]
impl Agent for RemoteAgent {
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError> {
        let wait = request.wait.min(limits::POLL_WAIT);
        let mut client = self.client.clone();
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let message = wire::poll_request(&request, before.as_ref().map(Answered::held).as_ref());
        let answer = within(wait + limits::CALL, client.poll(message)).await;
        let answer = answer.map_err(|status| agent_error("polling failed", status))?.into_inner();
        let whole = self.known.whole(answer, before.as_ref()).await;
        let (reply, last) = whole.map_err(|status| protocol(status.message()))?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        Ok(reply)
    }

    async fn set_view(&self, view: View) -> Result<ViewId, AgentError> {
        let chunks: Vec<_> = wire::chunks(view.encode()).map(|data| v1::Chunk { data }).collect();
        let mut client = self.client.clone();
        let answer = within(limits::STALL, client.set_view(stream::iter(chunks))).await;
        let answer = answer.map_err(|status| agent_error("setting the view failed", status))?.into_inner();
        wire::digest(&answer.view).map(ViewId).map_err(|status| protocol(status.message()))
    }

    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        let mut directories = Vec::with_capacity(ids.len());
        for some in ids.chunks(limits::DIRECTORIES_IN_CALL) {
            directories.extend(self.some_directories(some).await?);
        }
        Ok(directories)
    }

    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        let source = FetchPart::Source(request.source);
        let objects: Vec<_> =
            request.objects.chunks(limits::IDS).map(|some| FetchPart::Objects(wire::sized(some))).collect();
        let parts = std::iter::once(source).chain(objects);
        let parts = stream::iter(parts.map(|part| v1::FetchRequest { part: Some(part) }));
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.fetch(parts)).await;
        let answer = answer.map_err(|status| agent_error("the fetch failed", status))?.into_inner();
        Ok(FetchReport { objects: answer.objects, bytes: answer.bytes })
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        let header = UpdatePart::Header(v1::UpdateHeader {
            base: wire::ids([&request.base.0]),
            view: wire::ids([&request.view.0]),
            image: request.image.as_ref().map(ToString::to_string),
        });
        let triggers = wire::chunks(request.triggers.to_json().into_bytes()).map(UpdatePart::Triggers);
        let plan = wire::chunks(request.plan.encode()).map(UpdatePart::Plan);
        let parts = std::iter::once(header).chain(triggers).chain(plan);
        let parts = stream::iter(parts.map(|part| v1::UpdateRequest { part: Some(part) }));
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.update(parts)).await;
        let answer = answer.map_err(|status| agent_error("the update failed", status))?.into_inner();
        wire::update_reply_from(answer).map_err(|status| protocol(status.message()))
    }

    async fn clean_up(&self) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let answer = within(limits::STALL, client.cleanup(v1::Empty {})).await;
        answer.map(drop).map_err(|status| agent_error("cleaning up failed", status))
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.get_configuration(v1::Empty {})).await;
        let answer = answer.map_err(|status| agent_error("asking for the configuration failed", status))?;
        wire::configuration_from(answer.get_ref()).map_err(|status| protocol(status.message()))
    }

    async fn configure(&self, change: Reconfiguration) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.set_configuration(wire::reconfiguration(change))).await;
        answer.map(drop).map_err(|status| agent_error("changing the configuration failed", status))
    }

    async fn boost(&self, boost: Boost) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let answer = match boost {
            Boost::Cpu => within(limits::CALL, client.boost_cpu_limit(v1::Empty {})).await,
            Boost::Scan => within(limits::CALL, client.boost_scan_limit(v1::Empty {})).await,
        };
        answer.map(drop).map_err(|status| agent_error("lifting the limit failed", status))
    }
}

fn unreachable(error: ConnectError) -> AgentError {
    AgentError::Unreachable { why: error.why(), cause: Cause::new(error) }
}

fn breach(breach: Breach) -> AgentError {
    AgentError::Protocol(Cause::new(breach))
}

fn protocol(text: &str) -> AgentError {
    AgentError::Protocol(Cause::new(text))
}

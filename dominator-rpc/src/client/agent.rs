use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::auth::Role;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{
    Agent, AgentError, Blame, Boost, Cause, Configuration, Disruption, FetchReport, FetchRequest,
    FileContents, ForgiveRequest, LockRequest, LockToken, PollReply, PollRequest, Reboot, Reconfiguration,
    RemovedConflicts, RestartRequest, ServiceOutcome, UndoRequest, UpdateRecord, UpdateReport, UpdateRequest,
};
use dominator_core::tree::Directory;
use dominator_core::view::{View, ViewId};
use futures_util::stream;
use prost::Message as _;
use tonic::Status;

use super::answers::{Answered, KnownAnswers};
use super::{RemoteObjects, next, within};
use crate::transport::{Channel, ConnectError, Tls, connect};
use crate::v1::subd_client::SubdClient;
use crate::v1::update_request::Part as UpdatePart;
use crate::wire::{self, Assembler, Breach, Files, Sequence, agent_error};
use crate::{limits, v1};

/// The agent of a machine elsewhere.
#[derive(Debug)]
pub struct RemoteAgent {
    client: SubdClient<Channel>,
    channel: Channel,
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
        let client = SubdClient::new(channel.clone()).max_decoding_message_size(limits::POLL_REPLY);
        Ok(Self { client, channel, known, last: Mutex::new(None) })
    }

    /// The objects the agent keeps for updates, to be added to, over the same connection.
    pub fn objects(&self) -> RemoteObjects {
        RemoteObjects::over(self.channel.clone())
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

    async fn set_view(&self, view: View, lock: Option<LockToken>) -> Result<ViewId, AgentError> {
        let mut lock = lock.map(|token| token.0);
        let part = |data| v1::SetViewRequest { data, lock: lock.take() };
        let chunks: Vec<_> = wire::chunks(view.encode()).map(part).collect();
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
        let parts = stream::iter(wire::fetch_parts(request));
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.fetch(parts)).await;
        let answer = answer.map_err(|status| agent_error("the fetch failed", status))?.into_inner();
        Ok(wire::fetch_reply_from(answer))
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        let header = UpdatePart::Header(v1::UpdateHeader {
            base: wire::ids([&request.base.0]),
            view: wire::ids([&request.view.0]),
            image: request.image.as_ref().map(ToString::to_string),
            sparse: request.sparse.as_ref().map(ToString::to_string),
            force_disruption: request.disruption == Disruption::Force,
            lock: request.lock.map(|token| token.0),
            no_reboot: request.reboot == Reboot::Refused,
        });
        let triggers = wire::chunks(request.triggers.to_json().into_bytes()).map(UpdatePart::Triggers);
        let plan = wire::chunks(request.plan.encode()).map(UpdatePart::Plan);
        let health = wire::chunks(request.health.to_json().into_bytes()).map(UpdatePart::Health);
        let parts = std::iter::once(header).chain(triggers).chain(health).chain(plan);
        let parts = stream::iter(parts.map(|part| v1::UpdateRequest { part: Some(part) }));
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.update(parts)).await;
        let answer = answer.map_err(|status| agent_error("the update failed", status))?.into_inner();
        wire::update_reply_from(answer).map_err(|status| protocol(status.message()))
    }

    async fn clean_up(&self, lock: Option<LockToken>) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let request = v1::CleanupRequest { lock: lock.map(|token| token.0) };
        let answer = within(limits::STALL, client.cleanup(request)).await;
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

    async fn undo(&self, request: UndoRequest) -> Result<UpdateReport, AgentError> {
        let (mark_bad, lock) = (request.blame == Blame::Image, request.lock.map(|token| token.0));
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.undo(v1::UndoRequest { mark_bad, lock })).await;
        let answer = answer.map_err(|status| agent_error("undoing failed", status))?.into_inner();
        wire::update_reply_from(answer).map_err(|status| protocol(status.message()))
    }

    async fn history(&self, limit: usize) -> Result<Vec<UpdateRecord>, AgentError> {
        let failed = |status| agent_error("asking for the history failed", status);
        let limit = limit.min(UpdateRecord::MAX_COUNT);
        let request = v1::HistoryRequest { limit: u32::try_from(limit).unwrap_or(u32::MAX) };
        let mut client = self.client.clone();
        let mut answer =
            within(limits::CALL, client.get_history(request)).await.map_err(failed)?.into_inner();
        let (mut records, mut left) = (Vec::new(), limits::HISTORY);
        while let Some(record) = next(&mut answer).await.map_err(failed)? {
            if records.len() == limit {
                return Err(protocol("more records than were asked for"));
            }
            left = left
                .checked_sub(record.encoded_len())
                .ok_or_else(|| protocol("records that are longer than an agent keeps"))?;
            records.push(wire::record_from(record).map_err(|status| protocol(status.message()))?);
        }
        Ok(records)
    }

    async fn forgive(&self, request: ForgiveRequest) -> Result<(), AgentError> {
        let ForgiveRequest { image, lock } = request;
        let request = v1::ForgiveRequest {
            image: image.as_ref().map(ToString::to_string),
            lock: lock.map(|token| token.0),
        };
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.forgive(request)).await;
        answer.map(drop).map_err(|status| agent_error("forgiving failed", status))
    }

    async fn restart_service(&self, request: RestartRequest) -> Result<ServiceOutcome, AgentError> {
        let RestartRequest { service, lock } = request;
        let request = v1::RestartRequest { service: service.to_string(), lock: lock.map(|token| token.0) };
        let mut client = self.client.clone();
        // Services have time limits of their own.
        let answer = within(limits::ORDER, client.restart_service(request)).await;
        let answer = answer.map_err(|status| agent_error("restarting the service failed", status))?;
        Ok(wire::service_outcome_from(answer.into_inner()))
    }

    async fn files(&self, paths: Vec<ImagePath>) -> Result<Vec<FileContents>, AgentError> {
        let failed = |status| agent_error("getting files failed", status);
        let broken = |status: Status| protocol(status.message());
        let mut client = self.client.clone();
        let request = wire::files_request(&paths);
        let mut answer = within(limits::STALL, client.get_files(request)).await.map_err(failed)?.into_inner();
        let mut files = Files::of(paths);
        while let Some(part) = next(&mut answer).await.map_err(failed)? {
            files.push(part).map_err(broken)?;
        }
        files.finish().map_err(broken)
    }

    async fn remove_conflicts(&self, lock: Option<LockToken>) -> Result<RemovedConflicts, AgentError> {
        let request = v1::RemoveConflictsRequest { lock: lock.map(|token| token.0) };
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.remove_conflicts(request)).await;
        let answer = answer.map_err(|status| agent_error("removing conflicts failed", status))?;
        wire::removed_from(answer.get_ref()).map_err(|status| protocol(status.message()))
    }

    async fn lock(&self, request: LockRequest) -> Result<(), AgentError> {
        let LockRequest { token, who, lease } = request;
        let lease_millis = u32::try_from(lease.get().as_millis()).unwrap_or(u32::MAX);
        let mut client = self.client.clone();
        let answer =
            within(limits::CALL, client.lock(v1::LockRequest { token: token.0, who, lease_millis })).await;
        answer.map(drop).map_err(|status| agent_error("locking failed", status))
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

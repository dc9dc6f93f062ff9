//! Every service of the protocol, and a way to call each.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::auth::Role;
use dominator_core::herd::FastUpdate;
use dominator_core::object::ObjectId;
use dominator_core::port::{Agent as _, ImageStore as _, ObjectStore as _, PollRequest};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteFleet, RemoteImages, RemoteObjects, list_methods};
use dominator_rpc::controller::{Consent, FleetControl, FleetError, Progress, SubInfo, Switch, Updates};
use dominator_rpc::log::{BadLevel, Levels, LogLevels, LogRing};
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;

use crate::support::{Stores, chain, fake_agent};

/// One service, as it is served and called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Subd,
    Dominator,
    ImageServer,
    ObjectServer,
    Introspection,
}

/// What is called of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A method that a certificate must list.
    Listed,
    /// A method that every identity may call.
    Public,
}

/// Why a call through our own client failed: the variant of its error, and all it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: String,
    pub text: String,
}

impl Service {
    pub const ALL: [Self; 5] =
        [Self::Subd, Self::Dominator, Self::ImageServer, Self::ObjectServer, Self::Introspection];

    /// The method, if there is one of that kind. Every server answers what it offers, so there is always a public one.
    pub fn method(self, call: Call) -> Option<&'static str> {
        Some(match (self, call) {
            (Self::Subd, Call::Listed) => "Subd.Poll",
            (Self::Subd, Call::Public) => "Subd.GetConfiguration",
            (Self::Dominator, Call::Listed) => "Dominator.EnableUpdates",
            (Self::Dominator, Call::Public) => "Dominator.ListSubs",
            (Self::ImageServer, Call::Listed) => "ImageServer.AddImage",
            (Self::ImageServer, Call::Public) => "ImageServer.ListImages",
            (Self::ObjectServer, Call::Listed) => "ObjectServer.CheckObjects",
            (Self::ObjectServer | Self::Introspection, Call::Public) => "Introspection.ListMethods",
            (Self::Introspection, Call::Listed) => return None,
        })
    }

    /// Fills in what is called: `{method}` as in `Subd.Poll`, its `{service}` and its `{name}`, of these the first letter
    /// (`{S}`, `{N}`), the others (`{ervice}`, `{ame}`), and all in small letters (`{service-}`, `{name-}`); its gRPC
    /// `{path}`; and the `{role}` of its server.
    pub fn fill(self, template: &str) -> String {
        let method = self.method(Call::Listed).or(self.method(Call::Public)).unwrap();
        let (service, name) = method.split_once('.').unwrap();
        let parts = [
            ("{method}", method.to_owned()),
            ("{service}", service.into()),
            ("{S}", service[..1].into()),
            ("{ervice}", service[1..].into()),
            ("{service-}", service.to_lowercase()),
            ("{name}", name.into()),
            ("{N}", name[..1].into()),
            ("{ame}", name[1..].into()),
            ("{name-}", name.to_lowercase()),
            ("{path}", path(method)),
            ("{role}", self.role().to_string()),
        ];
        parts.iter().fold(template.into(), |text: String, (name, value)| text.replace(name, value))
    }

    /// Whose service it is.
    pub fn role(self) -> Role {
        match self {
            Self::Subd => Role::Subd,
            Self::Dominator => Role::Dominator,
            Self::ImageServer | Self::ObjectServer => Role::ImageServer,
            Self::Introspection => Role::FilegenServer,
        }
    }

    pub fn served(self) -> Services {
        let (services, stores) = (Services::new("test"), Stores::new());
        stores.objects.put_tree(&tree_of(&[]));
        match self {
            Self::Subd => services.agent(fake_agent()),
            Self::Dominator => services.fleet(Arc::new(NoMachines)),
            Self::ImageServer => services.images(stores.images, crate::support::noon),
            Self::ObjectServer => services.objects(stores.objects),
            Self::Introspection => services,
        }
    }

    /// How our client of this service begins what it says of a server that can't be reached, and the variant.
    pub fn unreachable(self) -> (&'static str, &'static str) {
        match self {
            Self::Subd => ("Unreachable", "the agent can't be reached: "),
            Self::Dominator => ("Unreachable", "the controller can't be reached: "),
            Self::ImageServer => ("Unreachable", "the image server can't be reached: "),
            Self::ObjectServer => ("Unreachable", "the object store can't be reached: "),
            Self::Introspection => ("Connect", "the server can't be reached: "),
        }
    }

    /// Connects as our own programs do.
    pub async fn connect(self, tls: &Tls, address: &str) -> Result<Client, Failure> {
        Ok(match self {
            Self::Subd => Client::Agent(RemoteAgent::connect(tls, address).await.map_err(failure)?),
            Self::Dominator => Client::Fleet(RemoteFleet::connect(tls, address).await.map_err(failure)?),
            Self::ImageServer => Client::Images(RemoteImages::connect(tls, address).await.map_err(failure)?),
            Self::ObjectServer => {
                Client::Objects(RemoteObjects::connect(tls, address).await.map_err(failure)?)
            }
            Self::Introspection => {
                let ask = list_methods(tls, address, self.role());
                ask.await.map(|_| Client::Inquirer(tls.clone(), address.into())).map_err(failure)?
            }
        })
    }

    /// Connects as our own programs do, and calls.
    pub async fn call(self, tls: &Tls, address: &str, call: Call) -> Result<(), Failure> {
        self.connect(tls, address).await?.call(call).await
    }
}

/// A client of our own.
pub enum Client {
    Agent(RemoteAgent),
    Fleet(RemoteFleet),
    Images(RemoteImages),
    Objects(RemoteObjects),
    /// Connects for every question.
    Inquirer(Tls, String),
}

impl Client {
    /// Calls a method of its service.
    pub async fn call(&self, call: Call) -> Result<(), Failure> {
        match (self, call) {
            (Self::Agent(agent), Call::Listed) => {
                agent.poll(PollRequest::default()).await.map(drop).map_err(failure)
            }
            (Self::Agent(agent), Call::Public) => agent.configuration().await.map(drop).map_err(failure),
            (Self::Fleet(fleet), Call::Listed) => {
                fleet.switch_updates(Switch::Enabled, "", "").await.map_err(failure)
            }
            (Self::Fleet(fleet), Call::Public) => fleet.subs().await.map(drop).map_err(failure),
            (Self::Images(images), Call::Listed) => {
                images.add(&"base/1".parse().unwrap(), image_of(&tree_of(&[]))).await.map_err(failure)
            }
            (Self::Images(images), Call::Public) => images.list().await.map(drop).map_err(failure),
            // A store of objects has no public method; where one is asked for, that it connected is enough.
            (Self::Objects(_), Call::Public) => Ok(()),
            (Self::Objects(objects), Call::Listed) => {
                objects.sizes(&[ObjectId::of(b"")]).await.map(drop).map_err(failure)
            }
            (Self::Inquirer(tls, address), _) => {
                list_methods(tls, address, Service::Introspection.role()).await.map(drop).map_err(failure)
            }
        }
    }
}

/// Every service at one server.
pub fn everything() -> Services {
    let stores = Stores::new();
    let services = stores.services().agent(fake_agent()).fleet(Arc::new(NoMachines));
    services.logger(LogRing::new(), Arc::new(FixedLevels))
}

/// The path of a method's gRPC requests.
pub fn path(method: &str) -> String {
    format!("/dominator.v1.{}", method.replace('.', "/"))
}

fn failure(error: impl Error) -> Failure {
    let debug = format!("{error:?}");
    let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Failure { kind: kind.into(), text: chain(&error) }
}

/// A log that is as it is.
struct FixedLevels;

impl LogLevels for FixedLevels {
    fn levels(&self) -> Levels {
        Levels { level: "info".into(), usual: "info".into(), left: None }
    }

    fn set(&self, _level: &str, _time: Option<Duration>) -> Result<Levels, BadLevel> {
        Ok(self.levels())
    }
}

/// A controller without machines.
struct NoMachines;

#[async_trait]
impl FleetControl for NoMachines {
    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        Ok(Vec::new())
    }

    async fn info(&self, _: &[String]) -> Result<Vec<SubInfo>, FleetError> {
        Ok(Vec::new())
    }

    async fn updates(&self) -> Result<Updates, FleetError> {
        Ok(Updates::default())
    }

    async fn switch_updates(&self, _: Switch, _: &str, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn clear_safety_shutoff(&self, _: &str) -> Result<Consent, FleetError> {
        Ok(Consent::NoSuchMachine)
    }

    async fn force_disruptive_update(&self, _: &str) -> Result<Consent, FleetError> {
        Ok(Consent::NoSuchMachine)
    }

    async fn fast_update(&self, _: &str, _: FastUpdate) -> Result<Option<Progress>, FleetError> {
        Ok(None)
    }
}

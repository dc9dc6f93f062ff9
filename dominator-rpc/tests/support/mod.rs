//! A fleet's authority, servers on loopback, and the certificates of those who call them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::authorise::MethodPattern;
use dominator_core_testkit::{FakeAgent, MemoryImages, MemoryObjects, NamedSources};
use dominator_pki::ca::{Authority, Leaf};
use dominator_pki::{Credentials, Trust};
use dominator_rpc::authorise::Refusals;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Those who trust one another.
pub struct World {
    authority: Authority,
}

impl World {
    pub fn new() -> Self {
        Self { authority: Authority::create("Test fleet", SystemTime::now()).unwrap() }
    }

    pub fn trust(&self) -> Trust {
        Trust::from_pem(self.authority.certificate_pem().as_bytes(), None).unwrap()
    }

    pub fn credentials(&self, user: &str, methods: &str) -> Credentials {
        self.credentials_at(user, methods, SystemTime::now())
    }

    pub fn credentials_at(&self, user: &str, methods: &str, now: SystemTime) -> Credentials {
        let leaf = Leaf::new(user).unwrap().methods(MethodPattern::parse_list(methods).unwrap()).days(30);
        self.authority.issue_credentials(&leaf, now).unwrap()
    }

    /// Somebody whose certificate lists `methods`.
    pub fn tls(&self, user: &str, methods: &str) -> Tls {
        Tls::new(self.trust(), self.credentials(user, methods)).unwrap()
    }

    /// A server of that role, with `services` behind it.
    pub async fn serve(&self, role: &str, services: Services) -> Running {
        serve(self.tls(role, "ObjectServer.GetObjects"), services).await
    }
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    pub refusals: Arc<Refusals>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Running {
    pub fn at(&self) -> String {
        self.address.to_string()
    }

    /// Stops it and waits for the end.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap();
    }
}

pub async fn serve(tls: Tls, services: Services) -> Running {
    let server = Server::bind(([127, 0, 0, 1], 0).into(), tls, services).await.unwrap();
    let (address, refusals) = (server.local_address(), server.refusals());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(async move {
        server.serve(async { drop(stopped.await) }).await.unwrap();
    });
    Running { address, refusals, stop, ended }
}

/// The stores of an image server.
pub struct Stores {
    pub objects: Arc<MemoryObjects>,
    pub images: Arc<MemoryImages>,
}

impl Stores {
    pub fn new() -> Self {
        let objects = Arc::new(MemoryObjects::default());
        Self { images: Arc::new(MemoryImages::new(objects.clone())), objects }
    }

    pub fn services(&self) -> Services {
        Services::new("test").objects(self.objects.clone()).images(self.images.clone(), noon)
    }
}

/// When everything happens here.
pub fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub fn fake_agent() -> Arc<FakeAgent> {
    Arc::new(FakeAgent::new(Arc::new(NamedSources::default())))
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

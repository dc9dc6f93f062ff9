//! A fleet's authority, servers on loopback, and the certificates of those who call them.

pub mod events;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::{MethodPattern, Role, Scope};
use dominator_core_testkit::{FakeAgent, MemoryImages, MemoryObjects, NamedSources};
use dominator_pki::ca::{Authority, Leaf, LeafKey, Reason, Revoked};
use dominator_pki::{AlternativeName, Credentials, DenyList, Origin, Revocation, Trust};
use dominator_rpc::metrics::Metrics;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Certificate and key, PEM.
pub type Issued = (String, String);

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
        self.credentials_for(user, methods, 30, now)
    }

    pub fn credentials_for(&self, user: &str, methods: &str, days: u32, now: SystemTime) -> Credentials {
        let leaf = Leaf::new(user).unwrap().methods(MethodPattern::parse_list(methods).unwrap()).days(days);
        self.authority.issue_credentials(&leaf, now).unwrap()
    }

    /// The authority's certificate.
    pub fn trusted_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// A certificate and its key as they lie in files.
    pub fn issued(&self, user: &str, days: u32, now: SystemTime) -> Issued {
        let key = LeafKey::generate().unwrap();
        let leaf = Leaf::new(user).unwrap().days(days);
        let issued = self.authority.issue(&leaf, &key.public_key().unwrap(), now).unwrap();
        (issued.pem, key.to_pem().to_string())
    }

    /// Somebody's on a machine of this id.
    pub fn credentials_of_node(&self, user: &str, methods: &str, node: &str) -> Credentials {
        let methods = MethodPattern::parse_list(methods).unwrap();
        let leaf = Leaf::new(user).unwrap().methods(methods).node(node.parse().unwrap());
        self.authority.issue_credentials(&leaf, SystemTime::now()).unwrap()
    }

    /// Somebody's whose certificate ends at images in that directory.
    pub fn credentials_at_images(&self, user: &str, methods: &str, directory: &str) -> Credentials {
        let scope = Scope { directories: [directory.to_owned()].into(), ..Scope::default() };
        let methods = MethodPattern::parse_list(methods).unwrap();
        let leaf = Leaf::new(user).unwrap().methods(methods).scope(scope);
        self.authority.issue_credentials(&leaf, SystemTime::now()).unwrap()
    }

    /// Somebody's whose certificate holds under these names only.
    pub fn credentials_named(
        &self,
        user: &str,
        names: impl IntoIterator<Item = AlternativeName>,
    ) -> Credentials {
        let leaf = Leaf::new(user).unwrap().alternative_names(names);
        self.authority.issue_credentials(&leaf, SystemTime::now()).unwrap()
    }

    /// The authority's list of those it takes back, current for a day from `now` on.
    pub fn revoke(&self, revoked: &[&Credentials], now: SystemTime) -> String {
        let one = |credentials: &&Credentials| Revoked {
            serial: credentials.certificate().serial().clone(),
            since: now,
            reason: Reason::Unspecified,
        };
        let revoked: Vec<_> = revoked.iter().map(one).collect();
        self.authority.revoke(None, &revoked, 1, now).unwrap().pem().to_owned()
    }

    /// The authority is trusted, and not those it takes back by `list` or whom this machine denies.
    pub fn trust_without(&self, list: Option<&str>, denied: &str) -> Trust {
        let mut revocation = Revocation::default();
        if let Some(list) = list {
            revocation.read_lists(&self.trust(), list.as_bytes(), &Origin::Memory).unwrap();
        }
        revocation.deny(DenyList::parse(denied.as_bytes(), &Origin::Memory).unwrap());
        self.trust().with_revocation(revocation)
    }

    /// Those, and the others.
    pub fn trust_also(&self, others: &Self) -> Trust {
        let both = [&self.authority, &others.authority].map(Authority::certificate_pem);
        Trust::from_pem(both.concat().as_bytes(), None).unwrap()
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
    pub metrics: Metrics,
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
    let (address, metrics) = (server.local_address(), server.metrics());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(async move {
        server.serve(async { drop(stopped.await) }).await.unwrap();
    });
    Running { address, metrics, stop, ended }
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

/// A peer that speaks the protocol without our adapters.
pub async fn raw(world: &World, server: &Running, methods: &str, role: Role) -> Channel {
    raw_from([127, 0, 0, 1], world, server, methods, role).await
}

/// The same from an address of its own.
pub async fn raw_from(from: [u8; 4], world: &World, server: &Running, methods: &str, role: Role) -> Channel {
    raw_between(from, server.address, world, methods, role).await
}

/// The same with whatever serves at `address`.
pub async fn raw_at(world: &World, address: SocketAddr, methods: &str, role: Role) -> Channel {
    raw_between([127, 0, 0, 1], address, world, methods, role).await
}

async fn raw_between(
    from: [u8; 4],
    address: SocketAddr,
    world: &World,
    methods: &str,
    role: Role,
) -> Channel {
    let config = world.trust().client_config(&world.credentials("mallory", methods), role).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect(address).await?;
            let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://raw").connect_with_connector(connect).await.unwrap()
}

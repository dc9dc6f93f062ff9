//! The fleet: an authority, an image server, three machines and a controller, each with a certificate of its own. All
//! they know of each other are addresses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dominator_core::auth::MethodPattern;
use dominator_core::filter::Filter;
use dominator_core::herd;
use dominator_core::image::{Image, ImageName};
use dominator_core::port::ImageStore as _;
use dominator_core::trigger::Triggers;
use dominator_daemon::{During, Failure};
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::import;
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::service::NoServices;
use dominator_fs::store::cluster::DirectoryClusterStore;
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::{LocalImages, LocalObjects, PortSink};
use dominator_pki::Trust;
use dominator_pki::ca::{Authority, Leaf};
use dominator_rpc::client::{RemoteFleet, RemoteImages, RemoteObjects, Sources};
use dominator_rpc::controller::{Controller, FleetControl as _, Parts, SubInfo, Tuning};
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::LIMIT;
use super::machines::{AddressBook, Assignments};

/// What the machines are called.
pub(super) const MACHINES: [&str; 3] = ["web1", "web2", "web3"];
/// How long the machines rest between two scans.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
/// The least time between two polls of a machine.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the controller is asked how the machines stand.
const ASK: Duration = Duration::from_millis(20);

/// What each certificate may do: for the daemons, what the files in their folders say.
const IMAGE_SERVER: &str = include_str!("../../../imageserver/required-methods");
const CONTROLLER: &str = include_str!("../../../dominator/required-methods");
const AGENT: &str = include_str!("../../../subd/required-methods");
const AUTHOR: &str = "ImageServer.AddImage,ObjectServer.AddObjects,ObjectServer.CheckObjects";

/// A fleet that runs.
pub(super) struct Fleet {
    directory: PathBuf,
    author: Tls,
    image_server: String,
    controller: RemoteFleet,
    assignments: Assignments,
    hostnames: Vec<String>,
    agents: Vec<Arc<LocalAgent>>,
    tasks: JoinSet<Result<(), Failure>>,
    shutdown: watch::Sender<bool>,
}

/// An image that was made and sent.
pub(super) struct Made {
    pub(super) name: ImageName,
    pub(super) sent_objects: u64,
    pub(super) sent_bytes: u64,
}

impl Fleet {
    /// Starts it below `directory`. The roots of the machines are empty.
    pub(super) async fn start(directory: &Path) -> Result<Self, Failure> {
        let authority = Authorities::new()?;
        let (shutdown, ending) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut begin = Beginning { tasks: &mut tasks, ending };
        let services = image_services(directory).await?;
        let image_server = begin.serve(authority.tls("imageserver", IMAGE_SERVER)?, services).await?;
        let image_server = image_server.to_string();
        let (mut agents, mut addresses) = (Vec::new(), BTreeMap::new());
        for name in MACHINES {
            let tls = authority.tls("subd", AGENT)?;
            let agent = start_agent(directory.join(name), tls.clone()).await?;
            let services = Services::new(env!("CARGO_PKG_VERSION")).agent(agent.clone());
            addresses.insert(name.to_owned(), begin.serve(tls, services).await?);
            agents.push(agent);
        }
        let tls = authority.tls("dominator", CONTROLLER)?;
        let (assignments, machines) = Assignments::new();
        let parts = Parts {
            machines: Box::new(machines),
            dialer: Arc::new(AddressBook { tls: tls.clone(), addresses }),
            images: Arc::new(RemoteImages::lazy(&tls, &image_server)),
            sources: vec![image_server.clone()],
            cluster: Arc::new(cluster(directory)?),
        };
        let controller = begin.control(tls, parts).await?;
        let author = authority.tls("author", AUTHOR)?;
        let controller = RemoteFleet::connect(&author, &controller.to_string())
            .await
            .during(|| "can't ask the controller".into())?;
        let (directory, hostnames) = (directory.to_owned(), MACHINES.map(str::to_owned).to_vec());
        Ok(Self {
            directory,
            author,
            image_server,
            controller,
            assignments,
            hostnames,
            agents,
            tasks,
            shutdown,
        })
    }

    /// Where a machine's files are.
    pub(super) fn root(&self, machine: &str) -> PathBuf {
        root(&self.directory.join(machine))
    }

    /// Makes an image of a directory and sends it to the image server.
    pub(super) async fn add_image(&self, name: &str, tree: &Path) -> Result<Made, Failure> {
        let what = || format!("can't make image {name} of {}", tree.display());
        let objects = RemoteObjects::connect(&self.author, &self.image_server).await.during(what)?;
        let images = RemoteImages::connect(&self.author, &self.image_server).await.during(what)?;
        let mut sink = PortSink::new(Arc::new(objects), Handle::current());
        let root = Root::open(tree).during(what)?;
        let imported = spawn_blocking(move || {
            let imported = import::directory(&root, &Filter::Empty, &Cancel::default(), &mut sink);
            let imported = imported.map_err(|error| Failure::caused("can't import", error))?;
            sink.finish().during(|| "can't send objects".into()).map(|sent| (imported, sent))
        });
        let (imported, sent) = imported.await.during(what)?.during(what)?;
        let image = Image::new(imported.snapshot.tree, Filter::Empty, Triggers::default(), imported.xattrs);
        let name: ImageName = name.parse().during(what)?;
        images.add(&name, image).await.during(what)?;
        let sent_bytes = sent.iter().map(dominator_core::port::Verified::size).sum();
        Ok(Made { name, sent_objects: sent.len() as u64, sent_bytes })
    }

    /// Says that all machines must be `image`, and waits until the controller says that they are.
    pub(super) async fn become_image(&mut self, image: &ImageName) -> Result<(), Failure> {
        self.assignments.assign(self.hostnames.iter(), image);
        let deadline = Instant::now() + LIMIT;
        loop {
            let subs = self.subs().await?;
            let is =
                |sub: &SubInfo| sub.status == herd::Status::Synced && sub.last_image.as_ref() == Some(image);
            if subs.len() == MACHINES.len() && subs.iter().all(is) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let limit = LIMIT.as_secs();
                return Err(Failure::new(format!(
                    "not all machines became {image} in {limit} s: {}",
                    told(&subs)
                )));
            }
            self.none_ended()?;
            tokio::time::sleep(ASK).await;
        }
    }

    /// Ends everything, and waits for the end.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        self.shutdown.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.during(|| "a part of the fleet broke down".into())??;
        }
        for agent in &self.agents {
            agent.idle().await;
        }
        // Ending the threads that scan takes a moment and would hold the runtime up.
        spawn_blocking(move || drop(self.agents)).await.during(|| "the agents broke down".into())
    }

    async fn subs(&self) -> Result<Vec<SubInfo>, Failure> {
        self.controller.info(&[]).await.during(|| "can't ask the controller".into())
    }

    /// A server that ended would be waited for in vain.
    fn none_ended(&mut self) -> Result<(), Failure> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended.during(|| "a part of the fleet broke down".into())??;
                Err(Failure::new("a part of the fleet ended too early"))
            }
        }
    }
}

fn told(subs: &[SubInfo]) -> String {
    let words =
        |sub: &SubInfo| format!("{}: {} {}", sub.hostname, sub.status, sub.detail).trim_end().to_owned();
    subs.iter().map(words).collect::<Vec<_>>().join("; ")
}

/// Who vouches for everybody.
struct Authorities {
    authority: Authority,
    trust: Trust,
}

impl Authorities {
    fn new() -> Result<Self, Failure> {
        let what = || "can't make the authority".into();
        let authority = Authority::create("dominate demo", SystemTime::now()).during(what)?;
        let trust = Trust::from_pem(authority.certificate_pem().as_bytes(), None).during(what)?;
        Ok(Self { authority, trust })
    }

    /// A new key and certificate for `user`.
    fn tls(&self, user: &str, methods: &str) -> Result<Tls, Failure> {
        let what = || format!("can't make the certificate of {user}");
        let methods = MethodPattern::parse_list(methods).during(what)?;
        let leaf = Leaf::new(user).during(what)?.methods(methods).days(1);
        let credentials = self.authority.issue_credentials(&leaf, SystemTime::now()).during(what)?;
        Tls::new(self.trust.clone(), credentials).during(what)
    }
}

/// What is started, and when it ends.
struct Beginning<'a> {
    tasks: &'a mut JoinSet<Result<(), Failure>>,
    ending: watch::Receiver<bool>,
}

impl Beginning<'_> {
    /// Serves on a free port of this machine.
    async fn serve(&mut self, tls: Tls, services: Services) -> Result<SocketAddr, Failure> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(anywhere, tls, services).await.during(|| "can't listen".into())?;
        let address = server.local_address();
        let end = ended(self.ending.clone());
        self.tasks.spawn(async move { server.serve(end).await.during(|| "can't serve".into()) });
        Ok(address)
    }

    async fn control(&mut self, tls: Tls, parts: Parts) -> Result<SocketAddr, Failure> {
        let herd = herd::Settings { min_interval: POLL_INTERVAL, ..herd::Settings::default() };
        let tuning = Tuning { herd, ..Tuning::default() };
        let controller =
            Controller::new(parts, tuning).await.during(|| "can't start the controller".into())?;
        let services = Services::new(env!("CARGO_PKG_VERSION")).fleet(Arc::new(controller.fleet()));
        let end = ended(self.ending.clone());
        self.tasks.spawn(async move {
            controller.run(end).await;
            Ok(())
        });
        self.serve(tls, services).await
    }
}

async fn ended(mut ending: watch::Receiver<bool>) {
    // A sender that is gone ends everything, too.
    drop(ending.wait_for(|ending| *ending).await);
}

async fn image_services(directory: &Path) -> Result<Services, Failure> {
    let at = directory.join("imageserver");
    let what = || "can't make the stores".into();
    let opened = spawn_blocking(move || {
        let (objects, images) = (at.join("objects"), at.join("images"));
        for path in [&objects, &images] {
            std::fs::create_dir_all(path).during(|| format!("can't make {}", path.display()))?;
        }
        let objects = ObjectStore::open(&objects).during(what)?;
        let images = ImageStore::open(&images, objects.clone()).during(what)?;
        Ok::<_, Failure>((objects, images))
    });
    let (objects, images) = opened.await.during(what)??;
    Ok(Services::new(env!("CARGO_PKG_VERSION"))
        .objects(Arc::new(LocalObjects::new(objects)))
        .images(Arc::new(LocalImages::new(images)), SystemTime::now))
}

fn cluster(directory: &Path) -> Result<DirectoryClusterStore, Failure> {
    let path = directory.join("dominator");
    std::fs::create_dir(&path).during(|| format!("can't make {}", path.display()))?;
    DirectoryClusterStore::open(&path).during(|| format!("can't use {}", path.display()))
}

fn root(machine: &Path) -> PathBuf {
    machine.join("root")
}

async fn start_agent(machine: PathBuf, tls: Tls) -> Result<Arc<LocalAgent>, Failure> {
    let what = || "can't start an agent".into();
    let root = root(&machine);
    std::fs::create_dir_all(&root).during(|| format!("can't make {}", root.display()))?;
    let sources = Arc::new(Sources::new(tls));
    let mut config = AgentConfig::new(root, machine.join("state"), Arc::new(NoServices), sources);
    config.scan_interval = SCAN_INTERVAL;
    let started = spawn_blocking(|| LocalAgent::start(config)).await;
    Ok(Arc::new(started.during(what)?.during(what)?))
}

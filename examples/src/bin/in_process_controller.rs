//! The whole of it in one process: a controller makes two machines, which are directories here, be what an image says,
//! and keeps them so. No network and no certificates: the controller knows ports only.
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::filter::Filter;
use dominator_core::herd::Status;
use dominator_core::image::{Image, ImageName};
use dominator_core::machine::Machine;
use dominator_core::port::{
    Agent, AgentDialer, AgentError, Cause, ObjectSource, ObjectSources, StoreError, Unreachable,
};
use dominator_core::trigger::Triggers;
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::import;
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::service::NoServices;
use dominator_fs::store::cluster::DirectoryClusterStore;
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::{LocalImages, LocalObjects};
use dominator_rpc::controller::{Controller, FixedMachines, Fleet, Parts, SubInfo, Tuning};
use tokio::sync::oneshot;

/// How long the machines may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds agents without a network.
struct Here(BTreeMap<String, Arc<LocalAgent>>);

#[async_trait]
impl AgentDialer for Here {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        let agent = self.0.get(&machine.hostname).cloned().ok_or_else(|| AgentError::Unreachable {
            why: Unreachable::Dns,
            cause: Cause::new("no such machine in this process"),
        })?;
        Ok(agent)
    }
}

/// One store, whatever the address.
struct OneStore(Arc<LocalObjects>);

#[async_trait]
impl ObjectSources for OneStore {
    async fn source(&self, _address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        Ok(self.0.clone())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let here = directory.path();
    let image: ImageName = "example/1".parse()?;
    let objects = ObjectStore::open(&here.join("objects"))?;
    let images = ImageStore::open(&here.join("images"), objects.clone())?;
    make_image(&here.join("golden"), &image, &images)?;

    let sources = Arc::new(OneStore(Arc::new(LocalObjects::new(objects))));
    let (mut machines, mut agents) = (Vec::new(), BTreeMap::new());
    for host in ["web1", "web2"] {
        machines.push(Machine { required_image: Some(image.clone()), ..Machine::named(host) });
        agents.insert(host.into(), Arc::new(start_agent(&here.join(host), sources.clone())?));
    }
    let parts = Parts {
        machines: Box::new(FixedMachines::new(machines)),
        dialer: Arc::new(Here(agents)),
        images: Arc::new(LocalImages::new(images)),
        sources: vec!["here".into()],
        cluster: Arc::new(DirectoryClusterStore::open(&here.join("cluster"))?),
    };
    let controller = Controller::new(parts, Tuning::default()).await?;
    let fleet = controller.fleet();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(controller.run(async { drop(stopped.await) }));

    let welcomes = ["web1", "web2"].map(|host| here.join(host).join("etc/motd"));
    println!("two empty machines");
    tokio::time::timeout(PATIENCE, watch(&fleet, &welcomes)).await?;
    fs::write(here.join("web1/etc/motd"), "Go away.\n")?;
    fs::remove_dir_all(here.join("web2/etc"))?;
    println!("one was broken into, the other had an accident");
    tokio::time::timeout(PATIENCE, watch(&fleet, &welcomes)).await?;

    drop(stop);
    Ok(running.await?)
}

/// Imports a little tree that belongs to the caller.
fn make_image(golden: &Path, name: &ImageName, images: &ImageStore) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(golden.join("etc"))?;
    fs::write(golden.join("etc/motd"), "Welcome.\n")?;
    fs::write(golden.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let mut batch = images.objects().batch();
    let imported = import::directory(&Root::open(golden)?, &Filter::Empty, &Cancel::default(), &mut batch)?;
    // What these return is evidence: a power cut takes nothing of it away any more.
    drop(batch.finish()?);
    let filter = Filter::parse("/var/log/.*")?;
    let image = Image::new(imported.snapshot.tree, filter, Triggers::default(), imported.xattrs);
    drop(images.add(name, &image)?);
    Ok(())
}

fn start_agent(root: &Path, sources: Arc<dyn ObjectSources>) -> Result<LocalAgent, Box<dyn Error>> {
    fs::create_dir(root)?;
    let mut config = AgentConfig::new(root, root.with_extension("state"), Arc::new(NoServices), sources);
    config.scan_interval = Duration::from_millis(200);
    Ok(LocalAgent::start(config)?)
}

/// Shows how the machines stand until all of them are, also to the eye, what they must be.
async fn watch(fleet: &Fleet, welcomes: &[PathBuf]) {
    let mut shown = BTreeMap::new();
    let done = |subs: &[SubInfo]| {
        for sub in subs {
            if shown.insert(sub.hostname.clone(), sub.status) != Some(sub.status) {
                println!("  {}: {} {}", sub.hostname, sub.status, sub.detail);
            }
        }
        let welcome = |path: &PathBuf| fs::read(path).is_ok_and(|text| text == b"Welcome.\n");
        subs.iter().all(|sub| sub.status == Status::Synced) && welcomes.iter().all(welcome)
    };
    fleet.wait_until(done).await;
}

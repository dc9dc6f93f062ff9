//! What a fleet in sync costs its controller, in memory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::herd::Status;
use dominator_core::image::Image;
use dominator_core::machine::Machine;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::*;
use dominator_core::tree::Tree;
use dominator_core::view::{Granularity, Ownership, View, ViewId, XattrPolicy};
use dominator_core_testkit::{MemoryCluster, MemoryImages, MemoryMachines, MemoryObjects, image_of, tree_of};
use dominator_rpc::controller::{Controller, Parts, Tuning};
use tokio::sync::watch;

/// How many bytes are allocated and not freed.
static IN_USE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "memory is counted where it is given out, by the system's allocator")]
// SAFETY: all is left to the system's allocator, with what it is given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All machines: each is what the image says, and nothing ever changes.
struct Still {
    tree: Tree,
    details: Arc<AgentDetails>,
    /// How many polls wait for a change.
    waiting: watch::Sender<usize>,
}

#[async_trait]
impl Agent for Still {
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError> {
        if request.known.is_some() {
            self.waiting.send_modify(|waiting| *waiting += 1);
            std::future::pending::<()>().await;
        }
        let status = AgentStatus { instance: 1, generation: 1, details: 1, ..AgentStatus::default() };
        let details = Arc::clone(&self.details);
        Ok(PollReply { scanned: Scanned::Tree(self.tree.clone()), status, details })
    }

    async fn set_view(&self, view: View, _: Option<LockToken>) -> Result<ViewId, AgentError> {
        Ok(view.id())
    }

    async fn directories(&self, _: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Ok(Vec::new())
    }

    async fn fetch(&self, _: FetchRequest) -> Result<FetchReport, AgentError> {
        Ok(FetchReport::default())
    }

    async fn update(&self, _: UpdateRequest) -> Result<UpdateReport, AgentError> {
        Ok(UpdateReport::default())
    }

    async fn clean_up(&self, _: Option<LockToken>) -> Result<(), AgentError> {
        Ok(())
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow("it is still".into()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        Ok(())
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        Ok(())
    }
}

struct Everywhere(Arc<Still>);

#[async_trait]
impl AgentDialer for Everywhere {
    async fn dial(&self, _: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        Ok(self.0.clone())
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// A machine as they are: seven exclusions, six protected paths, twenty facts.
fn details() -> AgentDetails {
    let exclusions = "/data/.*\n/home/.*\n/tmp/.*\n/var/log/.*\n/var/mail/.*\n/var/spool/.*\n/var/tmp/.*\n";
    let protected = ["/var/lib/subd", "/etc/ssl/subd/cert.pem", "/etc/ssl/subd/key.pem", "/etc/ssl/CA.pem"];
    let traits = MachineTraits {
        protected: protected.iter().chain(&["/etc/subd.toml", "/proc"]).map(|text| path(text)).collect(),
        exclusions: Filter::parse(exclusions).unwrap(),
        xattrs: XattrPolicy::ALL,
        ownership: Ownership::Kept,
        mtime: Granularity::FINE,
    };
    let fact = |number| PathFailure {
        path: path(&format!("/usr/lib/somewhere/deep/{number}")),
        reason: "unreadable: Input/output error (os error 5)".into(),
    };
    AgentDetails {
        facts: (0..20).map(fact).collect(),
        last_image: Some("web/2026-11-22:10:00:00".parse().unwrap()),
        ..AgentDetails::new(Arc::new(traits))
    }
}

#[tokio::test]
async fn a_machine_in_sync_takes_little_of_its_controllers_memory() {
    const MACHINES: usize = 2_000;
    /// The state machine, its task and the entry in the fleet, but for what the connection takes.
    const MOST: isize = 2_048;
    let tree = tree_of(&[("/etc/motd", b"hello"), ("/bin/sh", b"#!")]);
    let (objects, details) = (Arc::new(MemoryObjects::default()), Arc::new(details()));
    objects.put_tree(&tree);
    objects.put("hello");
    objects.put("#!");
    let image: Image = image_of(&tree);
    let view = details.traits.view(&image, &tree);
    let name = details.last_image.clone().unwrap();
    let images = Arc::new(MemoryImages::new(objects));
    images.add(&name, image).await.unwrap();
    let tree = view.apply(&tree).tree;
    let agent = Arc::new(Still { tree, details, waiting: watch::Sender::default() });
    let machine = |number| Machine {
        required_image: Some(name.clone()),
        ip_address: Some(format!("10.0.0.{number}")),
        ..Machine::named(&format!("web{number:05}.example.com"))
    };
    let run = async |machines: usize| {
        let (source, _mdb) = MemoryMachines::new((0..machines).map(machine));
        let before = IN_USE.load(Ordering::Relaxed);
        let parts = Parts {
            machines: Box::new(source),
            dialer: Arc::new(Everywhere(agent.clone())),
            images: images.clone(),
            sources: vec!["images:6971".into()],
            cluster: Arc::new(MemoryCluster::default()),
        };
        let mut tuning = Tuning::default();
        tuning.herd.min_interval = Duration::from_millis(1);
        let controller = Controller::new(parts, tuning).await.unwrap();
        let fleet = controller.fleet();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(controller.run(async { drop(stopped.await) }));
        fleet
            .wait_until(|subs| subs.len() == machines && subs.iter().all(|sub| sub.status == Status::Synced))
            .await;
        agent.waiting.subscribe().wait_for(|waiting| *waiting == machines).await.unwrap();
        agent.waiting.send_replace(0);
        let in_use = IN_USE.load(Ordering::Relaxed) - before;
        stop.send(()).unwrap();
        running.await.unwrap();
        in_use
    };
    let few = run(100).await;
    let many = run(100 + MACHINES).await;
    let each = (many - few) / isize::try_from(MACHINES).unwrap();
    println!("{each} bytes a machine");
    assert!(each < MOST, "{each} bytes a machine");
}

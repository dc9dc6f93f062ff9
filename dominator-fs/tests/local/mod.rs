//! Contents the machine has already.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::plan::{Comparison, Plan};
use dominator_core::port::*;
use dominator_core::tree::{Snapshot, Tree};
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs_testkit::scenario::view_by;

use crate::Machine;
use crate::sources::{Way, World};

/// A machine whose image renames a directory.
struct Renaming {
    machine: Machine,
    view: View,
    required: Snapshot,
}

impl Renaming {
    async fn new() -> Self {
        let world = Arc::new(World::default());
        world.add("images:1", Way::Honest);
        let machine = Machine::new(&world);
        let (before, after) = (machine.root.join("before"), machine.root.join("after"));
        std::fs::create_dir(&after).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(after.join(name), format!("the same before and after: {name}")).unwrap();
        }
        std::fs::hard_link(after.join("b"), after.join("b2")).unwrap();
        // Twice, and not with the same time.
        std::fs::copy(after.join("c"), after.join("c2")).unwrap();
        let agent = machine.agent.as_ref().unwrap();
        let view = view_by(&agent.poll(PollRequest::default()).await.unwrap().details.traits);
        let required = scan(&machine.root, &view);
        std::fs::remove_file(after.join("c2")).unwrap();
        std::fs::rename(after, before).unwrap();
        agent.set_view(view.clone(), None).await.unwrap();
        let renaming = Self { machine, view, required };
        renaming.tree().await;
        renaming
    }

    fn agent(&self) -> &dominator_fs::agent::LocalAgent {
        self.machine.agent.as_ref().unwrap()
    }

    /// Polls until there is a tree.
    async fn tree(&self) -> Tree {
        let mut known = None;
        loop {
            let wait = Duration::from_secs(60);
            let reply = self.agent().poll(PollRequest { known, wait, view: None }).await.unwrap();
            match reply.scanned {
                Scanned::Tree(tree) => return tree,
                Scanned::NotYet => known = Some(reply.status.generation),
                Scanned::NeedView => panic!("the view is set"),
            }
        }
    }

    fn plan(&self) -> Plan {
        let actual = scan(&self.machine.root, &self.view);
        let comparison = Comparison {
            required: &self.required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        comparison.plan().unwrap().plan
    }

    async fn fetch(&self, plan: &Plan) -> FetchReport {
        self.machine.fetch_for(plan.needs(), &["images:1"]).await.unwrap()
    }

    async fn update(&self, plan: Plan) -> Result<UpdateReport, AgentError> {
        let base = self.tree().await;
        let (triggers, image) = (Triggers::default(), None);
        let request = UpdateRequest { image, triggers, ..UpdateRequest::new(base.id(), base.view, plan) };
        self.agent().update(request).await
    }

    fn ino(&self, path: &str) -> u64 {
        self.machine.root.join(path).metadata().unwrap().ino()
    }
}

fn scan(root: &std::path::Path, view: &View) -> Snapshot {
    let scanner = Scanner::new(Root::open(root).unwrap(), Arc::new(view.clone()));
    scanner.scan(&Cancel::default()).unwrap().snapshot
}

#[tokio::test]
async fn a_directory_that_was_renamed_in_an_image_transfers_no_object() {
    let renaming = Renaming::new().await;
    let (a, b) = (renaming.ino("before/a"), renaming.ino("before/b"));
    let plan = renaming.plan();
    // The source has nothing.
    let fetched = renaming.fetch(&plan).await;
    assert_eq!((fetched.objects, fetched.local), (0, 3));
    assert!(renaming.update(plan).await.unwrap().is_success());
    assert_eq!(renaming.tree().await.id(), renaming.required.id());
    // A file with one name has become the other; one with several is copied, as its other names may stay.
    assert_eq!(renaming.ino("after/a"), a);
    assert_ne!(renaming.ino("after/b"), b);
    assert_ne!(renaming.ino("after/c"), renaming.ino("after/c2"));
}

#[tokio::test]
async fn contents_that_changed_since_they_were_seen_are_not_taken_and_are_fetched_next_time() {
    for (path, gone) in [("before/a", false), ("before/b", false), ("before/a", true)] {
        let renaming = Renaming::new().await;
        let machine = &renaming.machine;
        let plan = renaming.plan();
        assert_eq!(renaming.fetch(&plan).await.local, 3);
        let place = machine.root.join(path);
        let mtime = place.metadata().unwrap().modified().unwrap();
        let contents = std::fs::read(&place).unwrap();
        if gone {
            std::fs::remove_file(&place).unwrap();
        } else {
            // As long as before and with the time it had.
            std::fs::write(&place, contents.to_ascii_uppercase()).unwrap();
            std::fs::File::options().write(true).open(&place).unwrap().set_modified(mtime).unwrap();
        }
        let error = renaming.update(plan).await.unwrap_err();
        assert!(Chain(&error).to_string().contains("were not fetched"), "{path} {gone}: {}", Chain(&error));
        assert!(!machine.root.join("after").exists());
        let id = machine.world.put(contents);
        renaming.tree().await;
        let plan = renaming.plan();
        let fetched = renaming.fetch(&plan).await;
        assert_eq!(fetched.objects, 1, "{path} {gone}");
        machine.has_only(&[id]);
        assert!(renaming.update(plan).await.unwrap().is_success());
        assert_eq!(renaming.tree().await.id(), renaming.required.id());
    }
}

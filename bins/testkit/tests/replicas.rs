//! Image servers that copy each other: real processes, links that are cut, servers that lose what they had.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dominator_testkit::{Certificate, Lab, Link, Outcome, Process, trees};

/// Image servers on addresses of their own, each with a state directory of its own.
struct Site {
    lab: Lab,
    alice: Certificate,
    certificates: [Certificate; 3],
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let alice = lab.certificate("alice", "alice", "*.*");
        let certificate = |number| lab.daemon_certificate("imageserver", &format!("imageserver{number}"));
        let certificates = [0, 1, 2].map(certificate);
        Self { lab, alice, certificates }
    }

    fn address(&self, number: u8) -> String {
        format!("{}:6971", self.lab.address(number))
    }

    /// Server `number`, with these flags; one that is started again has its state.
    fn server(&self, number: u8, flags: &[&str]) -> Process {
        let name = format!("imageserver{number}");
        let certificate = &self.certificates[usize::from(number)];
        let mut command = self.lab.daemon("imageserver", certificate, &self.address(number), &name);
        Process::start(&name, command.args(flags))
    }

    fn replica(&self, number: u8, master: &str, flags: &[&str]) -> Process {
        self.server(number, &[&["--image-server", master], flags].concat())
    }

    /// A link to server `number`, from the address beside it.
    fn link(&self, number: u8) -> Link {
        Link::new(&format!("{}:6981", self.lab.address(number)), &self.address(number))
    }

    fn tool(&self, number: u8, words: &[&str]) -> Outcome {
        let server = self.address(number);
        let flags = ["--image-server", server.as_str()];
        self.lab.tool("imagetool", &self.alice, flags.iter().chain(words).copied())
    }

    /// Adds an image with a file of so many bytes that nobody can compress.
    fn add(&self, number: u8, name: &str, bytes: usize) -> Outcome {
        let tree = self.lab.path(name.replace('/', "-"));
        if !tree.exists() {
            fs::create_dir(&tree).unwrap();
            trees::small(&tree, 1);
            fs::write(tree.join("etc/name"), name).unwrap();
            let mut seed = name.bytes().fold(1_u64, |seed, byte| seed * 31 + u64::from(byte));
            let mut noise = Vec::with_capacity(bytes + 8);
            while noise.len() < bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                noise.extend_from_slice(&seed.to_be_bytes()[..4]);
            }
            fs::write(tree.join("usr/share/noise"), noise).unwrap();
        }
        self.tool(number, &["add", name, tree.to_str().unwrap(), "", ""])
    }

    fn images(&self, number: u8) -> BTreeSet<String> {
        let listed = self.tool(number, &["list"]).success();
        listed.lines().map(str::to_owned).collect()
    }

    fn wait_for_images(&self, number: u8, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        wait(&format!("server {number} to have {wanted:?}"), || self.images(number) == wanted);
    }

    fn status(&self, number: u8) -> serde_json::Value {
        self.tool(number, &["get-replication-master", "--json"]).json()
    }

    /// Waits until it has done all its master has said, and returns what it holds, with the reasons.
    fn wait_for_sync(&self, number: u8) -> Vec<(String, String)> {
        wait(&format!("server {number} to be in sync"), || self.status(number)["in_sync"] == true);
        let status = self.status(number);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let held = status["held"].as_array().unwrap().iter();
        held.map(|held| (text(&held["image"]), text(&held["reason"]))).collect()
    }

    /// Waits for server `number` to hold exactly these.
    fn wait_for_held(&self, number: u8, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())).collect();
        wait(&format!("server {number} to hold {wanted:?}"), || self.wait_for_sync(number) == wanted);
    }

    /// What a machine would get of an image there is exactly the tree that was added.
    fn is_whole(&self, number: u8, name: &str) {
        let got = self.lab.path(format!("got{number}-{}", name.replace('/', "-")));
        self.tool(number, &["get", name, got.to_str().unwrap()]).success();
        let tree = self.lab.path(name.replace('/', "-"));
        assert_eq!(trees::differences(&tree, &got, &[]), Vec::<String>::new(), "{name} from server {number}");
        fs::remove_dir_all(got).unwrap();
    }

    fn state(&self, number: u8) -> std::path::PathBuf {
        self.lab.path(format!("imageserver{number}"))
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(180), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn copy(from: &Path, to: &Path) {
    Outcome::of(Command::new("cp").arg("-a").arg(from).arg(to)).success();
}

#[test]
fn what_is_added_anywhere_is_everywhere_and_the_first_server_has_it_before_it_is_acknowledged() {
    let site = Site::new();
    let _first = site.server(0, &[]);
    let link = site.link(0);
    let _second = site.replica(1, &link.address(), &[]);
    let _third = site.replica(2, &site.address(1), &[]);
    site.add(0, "web/1", 1000).success();
    site.add(2, "web/2", 1000).success();
    assert!(site.images(0).contains("web/2"), "acknowledged, and the first server does not have it");
    for number in 0..3 {
        site.wait_for_images(number, &["web/1", "web/2"]);
        site.is_whole(number, "web/1");
        site.is_whole(number, "web/2");
        let shown = site.tool(number, &["show", "web/2"]).success();
        assert!(shown.contains("alice"), "who added it is known everywhere: {shown}");
    }
    link.cut_after(0);
    let refused = site.add(2, "web/3", 1000).failure();
    assert!(refused.contains("can't be reached"), "{refused}");
    let refused = site.tool(2, &["delete", "web/1"]).failure();
    assert!(refused.contains("this is a replica; ask its master"), "{refused}");
    for number in 0..3 {
        assert!(!site.images(number).contains("web/3"), "refused, and server {number} has it");
    }
    link.mend();
    site.add(2, "web/3", 1000).success();
    site.tool(0, &["delete", "web/1"]).success();
    for number in 0..3 {
        site.wait_for_images(number, &["web/2", "web/3"]);
    }
    assert_eq!(site.wait_for_sync(2), []);
}

#[test]
fn an_object_in_which_a_link_was_cut_is_gone_on_with_and_what_came_does_not_come_again() {
    const NOISE: usize = 8 * 1024 * 1024;
    let site = Site::new();
    let _first = site.server(0, &[]);
    let link = site.link(0);
    let _second = site.replica(1, &link.address(), &[]);
    site.wait_for_sync(1);
    site.add(0, "web/1", NOISE).success();
    for _ in 0..3 {
        // Within the large object, again and again.
        link.cut_after(1_800_000);
        wait("the link to be cut", || link.is_cut());
        link.mend();
    }
    site.wait_for_images(1, &["web/1"]);
    site.is_whole(1, "web/1");
    let carried = link.carried();
    assert!(carried < NOISE as u64 * 5 / 4, "{carried} bytes were carried for {NOISE}");
}

#[test]
fn a_master_that_lost_everything_wipes_nobody_until_an_operator_agrees() {
    let site = Site::new();
    let first = site.server(0, &[]);
    let _second = site.replica(1, &site.address(0), &[]);
    let _third = site.replica(2, &site.address(1), &[]);
    for name in ["web/1", "web/2"] {
        site.add(0, name, 1000).success();
    }
    site.wait_for_images(2, &["web/1", "web/2"]);
    drop(first);
    fs::remove_dir_all(site.state(0)).unwrap();
    let _first = site.server(0, &[]);
    site.add(0, "web/3", 1000).success();
    site.wait_for_images(2, &["web/1", "web/2", "web/3"]);
    site.wait_for_held(1, &[("web/1", "missing"), ("web/2", "missing")]);
    assert_eq!(site.wait_for_sync(2), [], "what its own master has is held by nobody");
    let refused = site.tool(1, &["accept-deletions", "web/3"]).failure();
    assert!(refused.contains("web/3"), "{refused}");
    site.tool(1, &["accept-deletions", "web/1"]).success();
    for number in [1, 2] {
        site.wait_for_images(number, &["web/2", "web/3"]);
    }
    site.wait_for_held(1, &[("web/2", "missing")]);
    site.is_whole(2, "web/2");
    // Another image of the name is no reason to give this one up either.
    fs::write(site.lab.path("web-2").join("etc/name"), "another").unwrap();
    site.add(0, "web/2", 1000).success();
    site.wait_for_held(1, &[("web/2", "another")]);
}

#[test]
fn a_replica_from_an_old_backup_catches_up() {
    let site = Site::new();
    let _first = site.server(0, &[]);
    let second = site.replica(1, &site.address(0), &[]);
    let _third = site.replica(2, &site.address(1), &[]);
    for name in ["web/1", "web/2"] {
        site.add(0, name, 1000).success();
    }
    site.wait_for_images(1, &["web/1", "web/2"]);
    drop(second);
    let backup = site.lab.path("backup");
    copy(&site.state(1), &backup);
    let second = site.replica(1, &site.address(0), &[]);
    site.tool(0, &["delete", "web/1"]).success();
    site.add(0, "web/3", 1000).success();
    site.wait_for_images(2, &["web/2", "web/3"]);
    drop(second);
    fs::remove_dir_all(site.state(1)).unwrap();
    fs::rename(&backup, site.state(1)).unwrap();
    let _second = site.replica(1, &site.address(0), &[]);
    site.wait_for_images(1, &["web/2", "web/3"]);
    site.is_whole(1, "web/3");
    // Meanwhile its own replica has not lost what it had, and holds nothing in the end.
    site.wait_for_images(2, &["web/2", "web/3"]);
    site.wait_for_held(2, &[]);
}

#[test]
fn an_archive_keeps_what_is_deleted_and_filters_choose_what_is_copied() {
    let site = Site::new();
    let _first = site.server(0, &[]);
    let include = site.lab.write("include", "web/\ndb/\n");
    let exclude = site.lab.write("exclude", "web/test\n");
    let chosen = ["--include", include.to_str().unwrap(), "--exclude", exclude.to_str().unwrap()];
    let _second = site.replica(1, &site.address(0), &chosen);
    let _archive = site.replica(2, &site.address(0), &["--archive-mode"]);
    for name in ["web/1", "web/test1", "db/1", "mail/1"] {
        site.add(0, name, 1000).success();
    }
    site.wait_for_images(1, &["db/1", "web/1"]);
    site.wait_for_images(2, &["db/1", "mail/1", "web/1", "web/test1"]);
    site.tool(0, &["delete", "web/1"]).success();
    site.wait_for_images(1, &["db/1"]);
    site.add(0, "web/2", 1000).success();
    site.wait_for_images(2, &["db/1", "mail/1", "web/1", "web/2", "web/test1"]);
    assert_eq!(site.wait_for_sync(2), [], "an archive has nothing to hold");
}

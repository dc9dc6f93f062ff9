//! Machines become what their images say and stay so: real daemons, real files, judged and disturbed by programs that
//! share no code with ours.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dominator_testkit::{Certificate, Lab, Process, is_root, schema, trees};

/// Programs around one image server and one controller.
struct Fleet {
    lab: Lab,
    admin: Certificate,
    images: (Process, String),
    dominator: (Process, String),
}

impl Fleet {
    /// Starts the servers; machines are given as (name, number of the address, image).
    fn start(machines: &[(&str, u8, &str)]) -> Self {
        let lab = Lab::new();
        let admin = lab.certificate("admin", "admin", "*.*");
        let images = lab.image_server();
        let dominator = lab.dominator(&images.1, &lab.mdb(machines));
        Self { lab, admin, images, dominator }
    }

    fn imagetool(&self, arguments: &[&str]) -> dominator_testkit::Outcome {
        let arguments = ["--image-server", &self.images.1].into_iter().chain(arguments.iter().copied());
        self.lab.tool("imagetool", &self.admin, arguments)
    }

    fn add(&self, name: &str, tree: &Path, filter: &str) -> serde_json::Value {
        let filter = match filter {
            "" => String::new(),
            lines => self.lab.write("filter", lines).display().to_string(),
        };
        let added = self.imagetool(&["add", name, tree.to_str().unwrap(), &filter, "", "--json"]).json();
        schema::check("imagetool-add", &added).unwrap();
        added
    }

    /// Waits until the machine's tree is like `image`, as the oracle sees it, and the controller says so.
    fn wait_until_alike(&self, sub: &str, since: usize, image: &Path, root: &Path, excluded: &[&str]) {
        let mut mark = since;
        for _ in 0..20 {
            self.dominator.0.wait_for_event(mark, "status", &[("sub", sub), ("status", "synced")]);
            mark = self.dominator.0.mark();
            if trees::differences(image, root, excluded).is_empty() {
                return;
            }
        }
        panic!("{sub}: {:?}", trees::differences(image, root, excluded));
    }

    /// An agent that tells of its scans.
    fn subd_that_tells(&self, number: u8, root: &Path) -> Process {
        let flags = ["--scan-interval", "200ms", "--log-level", "info,dominator_fs::agent=debug"];
        self.lab.subd_with(number, root, &flags)
    }

    fn tree(&self, name: &str, version: u32) -> PathBuf {
        let path = self.lab.path(name);
        fs::create_dir(&path).unwrap();
        trees::small(&path, version);
        path
    }

    fn empty(&self, name: &str) -> PathBuf {
        let path = self.lab.path(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

/// Waits until the machine has been scanned whole so many times more. Nobody polls it meanwhile: who did so without a pause
/// would take the processor from the scans, which come behind all others.
fn wait_for_scans(subd: &Process, more: usize) {
    for _ in 0..more {
        subd.wait_for_event(subd.mark(), "scan", &[("reach", "Incremental")]);
    }
}

#[test]
fn three_machines_become_two_images_and_every_drift_is_repaired_unasked() {
    if !is_root("three_machines_become_two_images_and_every_drift_is_repaired_unasked") {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "web/1"), ("two", 2, "web/2"), ("three", 3, "web/1")]);
    let images = [fleet.tree("image1", 1), fleet.tree("image2", 2)];
    fleet.add("web/1", &images[0], "/srv(|/.*)$\n");
    fleet.add("web/2", &images[1], "/srv(|/.*)$\n");
    let machines = [("one", 1, 0), ("two", 2, 1), ("three", 3, 0)];
    let roots = machines.map(|(name, ..)| fleet.empty(name));
    for root in &roots {
        fs::create_dir_all(root.join("srv/data")).unwrap();
        fs::write(root.join("srv/data/precious"), "mine").unwrap();
    }
    let _subds: Vec<_> =
        machines.iter().zip(&roots).map(|((_, number, _), root)| fleet.lab.subd(*number, root)).collect();
    for ((name, _, image), root) in machines.iter().zip(&roots) {
        fleet.wait_until_alike(name, 0, &images[*image], root, &["/srv(|/.*)$"]);
    }
    for (seed, ((name, _, image), root)) in (1..).zip(machines.iter().zip(&roots)) {
        let mark = fleet.dominator.0.mark();
        let done = trees::disturb(root, seed, &["/srv(|/.*)$"], &[]);
        assert_eq!(done.len(), 21, "{done:#?}");
        fleet.wait_until_alike(name, mark, &images[*image], root, &["/srv(|/.*)$"]);
        assert_eq!(fs::read_to_string(root.join("srv/data/precious")).unwrap(), "mine");
    }
    let fleet_info = fleet.lab.tool(
        "domtool",
        &fleet.admin,
        ["--dominator", &fleet.dominator.1, "get-info-for-subs", "--json"],
    );
    let info = fleet_info.json();
    schema::check("domtool-get-info-for-subs", &info).unwrap();
    for sub in info["subs"].as_array().unwrap() {
        assert_eq!(sub["status"], "synced", "{info:#}");
    }
}

#[test]
fn what_the_filter_spares_stays_even_in_a_directory_the_image_lacks() {
    if !is_root("what_the_filter_spares_stays_even_in_a_directory_the_image_lacks") {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "web/1")]);
    let image = fleet.tree("image", 1);
    fleet.add("web/1", &image, "/opt/app/keep.*\n");
    // Most of the machine is right already: one that would lose more than half of it would be left alone.
    let root = fleet.tree("root", 2);
    fs::create_dir_all(root.join("opt/app/more")).unwrap();
    for name in ["keep-this", "drop-this", "more/drop-this"] {
        fs::write(root.join("opt/app").join(name), name).unwrap();
    }
    let _subd = fleet.lab.subd(1, &root);
    fleet.wait_until_alike("one", 0, &image, &root, &["/opt(|/.*)$"]);
    assert_eq!(fs::read_to_string(root.join("opt/app/keep-this")).unwrap(), "keep-this");
    let left: Vec<_> =
        fs::read_dir(root.join("opt/app")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["keep-this"]);
}

#[test]
fn no_image_takes_away_what_the_agent_starts_from() {
    if !is_root("no_image_takes_away_what_the_agent_starts_from") {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "web/1")]);
    let image = fleet.tree("image", 1);
    fleet.add("web/1", &image, "/none\n");
    let root = fleet.tree("root", 2);
    fs::create_dir_all(root.join("etc/ssl/subd")).unwrap();
    let made = fleet.lab.daemon_certificate("subd", "subd1");
    let own = Certificate {
        certificate: root.join("etc/ssl/subd/cert.pem"),
        key: root.join("etc/ssl/subd/key.pem"),
        authority: root.join("etc/ssl/CA.pem"),
    };
    for (from, to) in
        [(&made.certificate, &own.certificate), (&made.key, &own.key), (&made.authority, &own.authority)]
    {
        fs::copy(from, to).unwrap();
    }
    let config = root.join("etc/subd.toml");
    fs::write(&config, format!("root-dir = {root:?}\nscan-interval = \"200ms\"\n")).unwrap();
    fs::write(root.join("etc/ssl/stray.pem"), "").unwrap();
    let start = || {
        let mut command =
            fleet.lab.daemon("subd", &own, &format!("{}:6969", fleet.lab.address(1)), "subd1-state");
        Process::start("subd", command.arg("--config").arg(&config))
    };
    let subd = start();
    fleet.wait_until_alike("one", 0, &image, &root, &["/etc/ssl(|/.*)$", "/etc/subd.toml$"]);
    assert!(!root.join("etc/ssl/stray.pem").exists());
    assert!(subd.end().success());
    assert!(start().end().success());
}

#[test]
fn a_sparse_image_repairs_its_own_paths_and_deletes_nothing() {
    if !is_root("a_sparse_image_repairs_its_own_paths_and_deletes_nothing") {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "keys/1")]);
    let image = fleet.empty("image");
    fs::create_dir_all(image.join("etc/keys")).unwrap();
    fs::write(image.join("etc/keys/a"), "key").unwrap();
    fleet.add("keys/1", &image, "");
    let root = fleet.tree("root", 1);
    fs::create_dir_all(root.join("etc/keys")).unwrap();
    fs::write(root.join("etc/keys/own"), "own").unwrap();
    let subd = fleet.lab.subd(1, &root);
    fleet.wait_until_alike(
        "one",
        0,
        &image,
        &root,
        &["/(usr|var|etc/(keys/own|link|passwd|version))(|/.*)$"],
    );
    let mark = fleet.dominator.0.mark();
    fs::remove_file(root.join("etc/keys/a")).unwrap();
    fs::write(root.join("etc/keys/another"), "stays").unwrap();
    fleet.dominator.0.wait_for_event(mark, "status", &[("sub", "one"), ("status", "synced")]);
    assert_eq!(fs::read_to_string(root.join("etc/keys/a")).unwrap(), "key");
    for name in ["etc/keys/own", "etc/keys/another", "usr/bin/tool", "etc/passwd"] {
        assert!(root.join(name).exists(), "{name} is gone");
    }
    assert!(subd.end().success());
}

#[test]
fn an_upgrade_sends_what_is_new_and_a_machine_in_sync_is_sent_nothing() {
    if !is_root("an_upgrade_sends_what_is_new_and_a_machine_in_sync_is_sent_nothing") {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "web/1")]);
    let images = [fleet.tree("image1", 1), fleet.tree("image2", 2)];
    fleet.add("web/1", &images[0], "/none\n");
    let root = fleet.empty("root");
    let subd = fleet.subd_that_tells(1, &root);
    fleet.wait_until_alike("one", 0, &images[0], &root, &[]);
    let mark = fleet.dominator.0.mark();
    wait_for_scans(&subd, 3);
    let count =
        |word: &str| fleet.dominator.0.log_since(mark).iter().filter(|line| line.contains(word)).count();
    let (update, fetch) = (r#""message":"update""#, r#""status":"fetching""#);
    assert_eq!((count(update), count(fetch)), (0, 0), "a machine in sync is sent no plan and no object");
    let added = fleet.add("web/2", &images[1], "/none\n");
    assert!(added["sent_objects"].as_u64() < added["objects"].as_u64(), "{added}");
    // Nothing happened to the machine while the image was added.
    assert_eq!((count(update), count(fetch)), (0, 0));
    fleet.lab.mdb(&[("one", 1, "web/2")]);
    fleet.wait_until_alike("one", mark, &images[1], &root, &[]);
    assert_eq!((count(update), count(fetch)), (1, 1));
}

#[test]
fn a_write_is_repaired_at_once_though_no_scan_is_due() {
    const NAME: &str = "a_write_is_repaired_at_once_though_no_scan_is_due";
    if !is_root(NAME) {
        return;
    }
    let fleet = Fleet::start(&[("one", 1, "web/1")]);
    let image = fleet.tree("image", 1);
    fleet.add("web/1", &image, "/none\n");
    let root = fleet.empty("root");
    // Held back as every agent is, unless something else is said.
    let _subd = fleet.lab.subd_with(1, &root, &["--scan-interval", "1h"]);
    fleet.wait_until_alike("one", 0, &image, &root, &[]);
    let sub = format!("{}:6969", fleet.lab.address(1));
    let poll = || fleet.lab.tool("subtool", &fleet.admin, ["--sub", &sub, "poll", "--json"]).json();
    let status = poll();
    schema::check("subtool-poll", &status).unwrap();
    if status["watch"]["works"] != true {
        println!("{NAME}: left out: {}", status["watch"]["why_not"]);
        return;
    }
    let right = fs::read(image.join("etc/passwd")).unwrap();
    for round in 0..5 {
        let mark = fleet.dominator.0.mark();
        let written = Instant::now();
        fs::write(root.join("etc/passwd"), format!("intruder {round}")).unwrap();
        fleet.dominator.0.wait_for_event(mark, "status", &[("sub", "one"), ("status", "synced")]);
        println!("from the write to the word that it is repaired: {:?}", written.elapsed());
        assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), right);
    }
    assert_eq!(trees::differences(&image, &root, &[]), Vec::<String>::new());
}

#[test]
fn updates_that_were_disabled_stay_so_when_the_controller_restarts() {
    if !is_root("updates_that_were_disabled_stay_so_when_the_controller_restarts") {
        return;
    }
    let Fleet { lab, admin, images, dominator } = Fleet::start(&[("one", 1, "web/1")]);
    let tell = |address: &str, words: &[&str]| {
        lab.tool("domtool", &admin, ["--dominator", address].into_iter().chain(words.iter().copied()))
    };
    tell(&dominator.1, &["disable-updates", "a test"]).success();
    let image = lab.path("image");
    fs::create_dir(&image).unwrap();
    trees::small(&image, 1);
    let add = ["--image-server", &images.1, "add", "web/1", image.to_str().unwrap(), "/dev/null", ""];
    lab.tool("imagetool", &admin, add).success();
    assert!(dominator.0.end().success());
    let mut command = lab.daemon(
        "dominator",
        &Certificate {
            certificate: lab.path("dominator.pem"),
            key: lab.path("dominator.key.pem"),
            authority: lab.path("CA.pem"),
        },
        &dominator.1,
        "dominator-state",
    );
    command.args(["--image-server", &images.1, "--mdb"]).arg(lab.path("mdb.json"));
    let again = Process::start("dominator", &mut command);
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    let _subd = lab.subd(1, &root);
    again.wait_for_event(0, "status", &[("sub", "one"), ("status", "updates disabled")]);
    assert!(!root.join("etc").exists());
    tell(&dominator.1, &["enable-updates", "done"]).success();
    again.wait_for_event(0, "status", &[("sub", "one"), ("status", "synced")]);
    assert_eq!(trees::differences(&image, &root, &[]), Vec::<String>::new());
}

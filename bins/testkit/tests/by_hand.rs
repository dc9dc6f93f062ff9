//! Orders given to one machine by hand: what they do, what they refuse, and that their JSON is what the schemas say.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;

use dominator_testkit::{Certificate, Lab, Outcome, Process, schema, trees};
use serde_json::Value;

/// An image server with two images of one stream and one of another, and a machine that is none of them.
struct Site {
    lab: Lab,
    admin: Certificate,
    images: String,
    sub: String,
    _daemons: [Process; 2],
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let admin = lab.certificate("admin", "admin", "*.*");
        let (imageserver, images) = lab.image_server();
        fs::create_dir(lab.path("root")).unwrap();
        let subd = lab.subd(1, &lab.path("root"));
        let sub = format!("{}:6969", lab.address(1));
        let site = Self { lab, admin, images, sub, _daemons: [imageserver, subd] };
        for (name, version) in [("web/1", 1), ("web/2", 2), ("db/1", 3)] {
            fs::create_dir(site.tree(version)).unwrap();
            trees::small(&site.tree(version), version);
            site.add(name, version);
        }
        site
    }

    fn add(&self, name: &str, version: u32) {
        let triggers = self.lab.write("triggers", r#"[{"MatchLines": ["/etc/.*"], "Service": "greeter"}]"#);
        let (tree, triggers) = (self.tree(version), triggers);
        let words = ["--image-server", &self.images, "add", name, tree.to_str().unwrap(), "/dev/null"];
        self.lab
            .tool("imagetool", &self.admin, words.into_iter().chain([triggers.to_str().unwrap()]))
            .success();
    }

    fn tree(&self, version: u32) -> PathBuf {
        self.lab.path(format!("tree{version}"))
    }

    fn root(&self) -> PathBuf {
        self.lab.path("root")
    }

    /// Runs subtool; commands that take an image are told where it is.
    fn subtool(&self, words: &[&str]) -> Outcome {
        let server: &[&str] = match words[0] {
            "push-image"
            | "show-update-request"
            | "fetch-image"
            | "list-missing-objects"
            | "push-missing-objects" => &["--image-server", &self.images],
            "fetch" | "push-file" => &["--object-server", &self.images],
            _ => &[],
        };
        let flags = ["--sub", &self.sub];
        self.lab.tool("subtool", &self.admin, flags.iter().chain(words).chain(server).copied())
    }

    /// The same as JSON, which must be what the schema says.
    #[track_caller]
    fn json(&self, schema: &str, words: &[&str], code: i32) -> Value {
        let outcome = self.subtool(&[words, &["--json"]].concat());
        assert_eq!(outcome.code(), Some(code), "{words:?}: {outcome:?}");
        let value = serde_json::from_str(&outcome.stdout).unwrap();
        schema::check(schema, &value).unwrap();
        value
    }

    #[track_caller]
    fn is(&self, version: u32) {
        let differences = trees::differences(&self.tree(version), &self.root(), &["/\\.subd(/.*)?"]);
        assert_eq!(differences, Vec::<String>::new());
    }
}

#[test]
fn an_image_is_pushed_once_after_it_was_said_what_that_does() {
    let site = Site::new();
    let planned = site.json("subtool-show-update-request", &["push-image", "web/1", "--dry-run"], 0);
    assert_eq!(planned["plan"]["services"], serde_json::json!([]), "its agent leaves services alone");
    assert!(!site.root().join("etc").exists());
    let missing = site.json("subtool-list-missing-objects", &["list-missing-objects", "web/1"], 0);
    let objects = missing["objects"].as_array().unwrap();
    assert_eq!(planned["objects"], objects.len());
    let one = objects[0]["object"].as_str().unwrap();
    assert_eq!(site.json("subtool-fetch", &["fetch", one], 0)["fetched_objects"], 1);
    let fetched = site.json("subtool-fetch-image", &["fetch-image", "web/1"], 0);
    assert!(fetched["fetched_objects"].as_u64().unwrap() > 10, "{fetched}");
    let pushed = site.json("subtool-push-image", &["push-image", "web/1"], 0);
    assert_eq!((&pushed["outcome"], &pushed["fetched"]["fetched_objects"]), (&"made".into(), &0.into()));
    site.is(1);
    site.json("subtool-wait-for-image", &["wait-for-image", "web/1"], 0);
    let waited = site.json("subtool-wait-for-image", &["wait-for-image", "web/2", "--timeout=50ms"], 1);
    assert_eq!(waited["last_image"], "web/1");
    let told = site.subtool(&["show-update-request", "web/2"]).success();
    assert!(!told.contains("greeter"), "{told}");
    assert!(told.contains("window      paths change within about "), "{told}");
    site.json("subtool-cleanup", &["cleanup"], 0);
}

#[test]
fn a_machine_becomes_something_else_by_force_only() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    for more in [&[][..], &["--dry-run"]] {
        let refused = site.subtool(&[&["push-image", "db/1"], more].concat());
        assert_eq!(refused.code(), Some(2), "{refused:?}");
        assert!(refused.stderr.contains("the machine was web/1"), "{refused:?}");
    }
    site.is(1);
    site.subtool(&["push-image", "web/2"]).success();
    site.is(2);
    site.subtool(&["push-image", "db/1", "--force"]).success();
    site.is(3);
}

#[test]
fn paths_are_put_in_place_and_deleted_by_hand_and_others_stay() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    let file = site.lab.write("file", "of ours\n");
    let pushed = site.json("subtool-push-file", &["push-file", file.to_str().unwrap(), "/etc/version"], 0);
    assert_eq!((&pushed["applied"], &pushed["outcome"]), (&1.into(), &"made".into()));
    assert_eq!(fs::read_to_string(site.root().join("etc/version")).unwrap(), "of ours\n");
    let directory = site.subtool(&["push-file", file.to_str().unwrap(), "/usr/lib"]);
    assert_eq!(directory.code(), Some(2), "{directory:?}");
    let deleted =
        site.json("subtool-delete", &["delete", "/usr/lib/d3/f3", "/usr/lib", "/usr/share/empty"], 0);
    assert_eq!(deleted["outcome"], "made");
    assert!(!site.root().join("usr/lib").exists() && !site.root().join("usr/share/empty").exists());
    let nothing = site.subtool(&["delete", "/usr/share", "/no/such"]);
    assert!(nothing.stderr.contains("there is no /no/such in view"), "{nothing:?}");
    assert!(site.root().join("usr/share/only-in").exists());
}

#[test]
fn an_update_is_remembered_taken_back_and_not_made_again_until_its_image_is_forgiven() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    site.subtool(&["push-image", "web/2"]).success();
    let history = site.json("subtool-history", &["history"], 0);
    assert_eq!(
        (&history["updates"][0]["image"], &history["updates"][0]["previous"]),
        (&"web/2".into(), &"web/1".into())
    );
    assert_eq!(history["updates"].as_array().unwrap().len(), 2);
    assert_eq!(site.json("subtool-poll", &["poll"], 0)["undoable"]["image"], "web/1");
    let undone = site.json("subtool-undo", &["undo", "--mark-bad"], 0);
    assert_eq!(undone["outcome"], "undone");
    site.is(1);
    let waited = site.json("subtool-wait-for-image", &["wait-for-image", "web/2"], 1);
    assert!(waited["why_not"].as_str().unwrap().starts_with("it was found bad on this machine"), "{waited}");
    let refused = site.json("subtool-show-update-request", &["show-update-request", "web/2"], 0);
    assert!(refused["refused"].as_str().unwrap().contains("web/2 was found bad"), "{refused}");
    assert_eq!(site.subtool(&["push-image", "web/2"]).code(), Some(2));
    assert_eq!(site.subtool(&["forgive", "web/1"]).code(), Some(2));
    assert_eq!(site.json("subtool-forgive", &["forgive", "web/2"], 0)["forgiven"][0], "web/2");
    site.subtool(&["push-image", "web/2"]).success();
    site.is(2);
}

#[test]
fn a_machine_that_was_stopped_is_not_changed_and_says_why() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    let switch = site.lab.write("subd1-state/stop", "the disk is being copied\n");
    let refused = site.subtool(&["push-image", "web/2"]);
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("the disk is being copied"), "{refused:?}");
    site.is(1);
    assert_eq!(site.json("subtool-poll", &["poll"], 0)["stopped"], "the disk is being copied");
    fs::remove_file(switch).unwrap();
    site.subtool(&["push-image", "web/2"]).success();
    site.is(2);
}

#[test]
fn files_are_got_by_hand() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    let got = site.lab.path("got");
    let words = ["get-file", "/etc/link", got.to_str().unwrap()];
    assert_eq!(site.json("subtool-get-file", &words, 0)["bytes"], 26);
    assert_eq!(fs::read(got).unwrap(), fs::read(site.root().join("etc/passwd")).unwrap());
    assert_eq!(site.subtool(&["get-file", "/etc/version"]).success(), "1\n");
    assert_eq!(site.subtool(&["get-file", "/no/such"]).code(), Some(2));
}

#[test]
fn an_agent_of_a_root_that_is_not_the_running_system_says_that_it_leaves_services_alone() {
    let site = Site::new();
    let refused = site.subtool(&["restart-service", "greeter"]).failure();
    assert!(refused.contains("without triggers"), "{refused}");
    assert_eq!(site.json("subtool-poll", &["poll"], 0)["mode"], "triggers-disabled");
}

#[test]
fn objects_are_handed_to_a_machine_that_can_not_fetch_them() {
    let site = Site::new();
    let pushed = site.json("subtool-push-missing-objects", &["push-missing-objects", "web/1"], 0);
    assert!(pushed["pushed_objects"].as_u64().unwrap() > 10, "{pushed}");
    assert_eq!(pushed["pushed_objects"], pushed["needed_objects"]);
    assert!(!site.root().join("etc").exists());
    let again = site.json("subtool-push-missing-objects", &["push-missing-objects", "web/1"], 0);
    assert_eq!(again["pushed_objects"], 0);
    let made = site.json("subtool-push-image", &["push-image", "web/1"], 0);
    assert_eq!(made["fetched"]["fetched_objects"], 0);
    site.is(1);
    // What it keeps is to be added to, and nothing else.
    let admin = &site.admin;
    let methods = site.lab.tool("list-methods", admin, [site.sub.as_str()]).success();
    let of_objects: Vec<_> = methods.lines().filter(|line| line.contains("ObjectServer")).collect();
    assert!(matches!(of_objects[..], [one] if one.contains("AddObjects")), "{of_objects:?}");
}

#[test]
fn what_undoing_moved_out_of_the_way_is_removed_when_somebody_says_so() {
    let site = Site::new();
    site.subtool(&["push-image", "web/1"]).success();
    site.subtool(&["push-image", "web/2"]).success();
    fs::write(site.root().join("etc/version"), "of somebody\n").unwrap();
    site.subtool(&["undo"]);
    let kept = site.json("subtool-poll", &["poll"], 0);
    let conflict = kept["conflicts"][0].as_str().unwrap().to_owned();
    assert_eq!(fs::read_to_string(site.root().join(&conflict[1..])).unwrap(), "of somebody\n");
    let removed = site.json("subtool-remove-conflicts", &["remove-conflicts"], 0);
    assert_eq!((&removed["removed"][0], &removed["removed_count"]), (&conflict.into(), &1.into()));
    assert_eq!(site.json("subtool-poll", &["poll"], 0)["conflicts"], serde_json::json!([]));
}

#[test]
fn a_script_ends_with_the_first_command_that_fails() {
    let site = Site::new();
    let shell = |script: &str| {
        let flags = ["--sub", &site.sub, "shell"];
        site.lab.tool_reading("subtool", &site.admin, flags, script)
    };
    let images = &site.images;
    let well = shell(&format!(
        "# to begin with\npush-image web/1 --image-server {images}\n\nget-file '/etc/version'\n"
    ));
    assert!(well.code() == Some(0) && well.stdout.ends_with("\n1\n"), "{well:?}");
    let badly = shell("get-file /etc/version\nforgive web/9\nget-file /etc/version\n");
    assert_eq!((badly.code(), badly.stdout.as_str()), (Some(2), "1\n"), "{badly:?}");
    assert!(badly.stderr.contains("line 2") && badly.stderr.contains("web/9 was not found bad"), "{badly:?}");
}

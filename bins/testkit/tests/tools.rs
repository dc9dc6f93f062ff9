//! What the tools print is what `docs/schemas` says, and their exit statuses are what `--help` says.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::process::Command;

use dominator_testkit::{Lab, Outcome, binary, schema, trees};

/// A schema, the tool, its flags, its words, and its exit code.
type Row<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str], i32);

#[test]
fn every_json_result_is_as_its_schema_says() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let trees = [1, 2].map(|version| {
        let path = lab.path(format!("tree{version}"));
        fs::create_dir(&path).unwrap();
        trees::small(&path, version);
        path
    });
    let sub = format!("{}:6969", lab.address(1));
    let _subd = lab.subd(1, &trees[1]);
    let (dominator, controller) = lab.dominator(&server, &lab.mdb(&[("one", 1, "none/1")]));
    dominator.wait_for_event(0, "status", &[("sub", "one"), ("status", "image not ready")]);
    let filter = lab.write("filter", "/srv(|/.*)$\n");
    let triggers = lab.write("triggers", r#"[{"MatchLines": ["/etc/.*"], "Service": "ssh"}]"#);
    let health = lab.write("health", r#"{"Checks": [{"Name": "ssh runs", "Unit": "ssh.service"}]}"#);
    let got = lab.path("got");
    let open = lab.write("open", "/tmp\n/srv/.*\n");
    let [filter, open, triggers, health, got] =
        [&filter, &open, &triggers, &health, &got].map(|path| path.to_str().unwrap());
    let [first, second] = [&trees[0], &trees[1]].map(|path| path.to_str().unwrap());
    let images = ["--image-server", &server, "--json"];
    let fleet = ["--dominator", &controller, "--json"];
    let rows: [Row<'_>; 34] = [
        (
            "imagetool-add",
            "imagetool",
            &images,
            &["add", "web/1", first, filter, triggers, "--health", health],
            0,
        ),
        ("imagetool-add", "imagetool", &images, &["add", "web/2", second, "", ""], 0),
        ("imagetool-list", "imagetool", &images, &["list"], 0),
        ("imagetool-show", "imagetool", &images, &["show", "web/1"], 0),
        ("imagetool-check", "imagetool", &images, &["check", "web/1"], 0),
        ("imagetool-check", "imagetool", &images, &["check", "web/3"], 1),
        ("imagetool-diff", "imagetool", &images, &["diff", "web/1", "web/2"], 1),
        ("imagetool-get", "imagetool", &images, &["get", "web/1", got], 0),
        ("domtool-list-subs", "domtool", &fleet, &["list-subs"], 0),
        ("domtool-get-info-for-subs", "domtool", &fleet, &["get-info-for-subs"], 0),
        ("domtool-get-updates-state", "domtool", &fleet, &["get-updates-state"], 0),
        ("domtool-disable-updates", "domtool", &fleet, &["disable-updates", "a test"], 0),
        ("domtool-get-updates-state", "domtool", &fleet, &["get-updates-state"], 0),
        ("domtool-enable-updates", "domtool", &fleet, &["enable-updates"], 0),
        ("domtool-clear-safety-shutoff", "domtool", &fleet, &["clear-safety-shutoff", "one"], 0),
        ("domtool-force-disruptive-update", "domtool", &fleet, &["force-disruptive-update", "one"], 0),
        ("domtool-fast-update", "domtool", &fleet, &["fast-update", "one", "--timeout=50ms"], 1),
        ("subtool-poll", "subtool", &["--sub", &sub, "--json"], &["poll"], 0),
        ("subtool-boost-cpu-limit", "subtool", &["--sub", &sub, "--json"], &["boost-cpu-limit"], 0),
        ("subtool-boost-scan-limit", "subtool", &["--sub", &sub, "--json"], &["boost-scan-limit"], 0),
        ("subtool-get-config", "subtool", &["--sub", &sub, "--json"], &["get-config"], 0),
        ("subtool-set-config", "subtool", &["--sub", &sub, "--json"], &["set-config", "--cpu-percent=9"], 0),
        (
            "subtool-show-update-request",
            "subtool",
            &["--sub", &sub, "--json"],
            &["show-update-request", "web/1", "--image-server", &server],
            0,
        ),
        ("imagetool-find-latest-image", "imagetool", &images, &["find-latest-image", "web"], 0),
        ("imagetool-find-latest-image", "imagetool", &images, &["find-latest-image", "db"], 1),
        ("imagetool-wait", "imagetool", &images, &["wait", "web/1"], 0),
        ("imagetool-wait", "imagetool", &images, &["wait", "web/9", "--timeout=50ms"], 1),
        ("imagetool-add", "imagetool", &images, &["add", "brief/1", second, "", "", "--expires-in", "1h"], 0),
        (
            "imagetool-change-image-expiration",
            "imagetool",
            &images,
            &["change-image-expiration", "brief/1", "--expires-in", "2h"],
            0,
        ),
        ("imagetool-get-image-expiration", "imagetool", &images, &["get-image-expiration", "brief/1"], 0),
        ("imagetool-delete", "imagetool", &images, &["delete", "web/2"], 0),
        ("imagetool-lint", "imagetool", &["--json"], &["lint-filter", filter], 0),
        ("imagetool-lint", "imagetool", &["--json"], &["lint-filter", open], 1),
        ("imagetool-lint", "imagetool", &["--json"], &["lint-filter", open, "--explain", "/tmpfoo/x"], 0),
    ];
    for (name, tool, flags, words, code) in rows {
        let outcome = lab.tool(tool, &admin, flags.iter().chain(words).copied());
        assert_eq!(outcome.code(), Some(code), "{name}: {outcome:?}");
        let value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {outcome:?}"));
        schema::check(name, &value).unwrap();
    }
    assert_eq!(trees::differences(&trees[0], &lab.path("got"), &[]), Vec::<String>::new());
}

#[test]
fn an_image_that_would_empty_machines_is_refused() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    let filter = lab.write("filter", "/srv\n");
    let add =
        ["--image-server", &server, "add", "web/1", tree.to_str().unwrap(), filter.to_str().unwrap(), ""];
    let complaint = lab.tool("imagetool", &admin, add).failure();
    assert!(complaint.contains("/etc/passwd, /usr, /usr/bin"), "{complaint}");
    lab.tool("imagetool", &admin, add.into_iter().chain(["--no-required-paths"])).success();
}

#[test]
fn a_tar_archive_and_the_directory_it_was_made_of_are_one_image() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let tree = lab.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let archive = lab.path("tree.tar");
    let mut tar = Command::new("tar");
    tar.args(["--format=pax", "--xattrs", "--xattrs-include=*", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg(".");
    Outcome::of(&mut tar).success();
    for (name, source) in [("web/1", &tree), ("web/2", &archive)] {
        let words = ["--image-server", &server, "add", name, source.to_str().unwrap(), "/dev/null", ""];
        lab.tool("imagetool", &admin, words).success();
    }
    let diff = lab.tool("imagetool", &admin, ["--image-server", &server, "diff", "web/1", "web/2"]);
    assert_eq!((diff.code(), diff.stdout.as_str()), (Some(0), ""), "{diff:?}");
}

#[test]
fn a_question_that_can_not_be_asked_is_not_answered_with_no() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let nobody_there = format!("{}:6971", lab.address(5));
    let check = lab.tool("imagetool", &admin, ["--image-server", &nobody_there, "check", "web/1"]);
    assert_eq!(check.code(), Some(2), "{check:?}");
    assert!(check.stderr.contains("nothing listens there"), "{check:?}");
}

#[test]
fn who_disabled_updates_and_why_can_be_asked_and_a_stranger_can_not_be_agreed_to() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "alice", "*.*");
    let (_images, server) = lab.image_server();
    let (_dominator, controller) = lab.dominator(&server, &lab.mdb(&[]));
    let tool = |words: &[&str]| {
        lab.tool("domtool", &admin, ["--dominator", &controller].iter().chain(words).copied())
    };
    assert_eq!(tool(&["get-updates-state"]).success(), "updates are enabled\n");
    assert_eq!(tool(&["disable-updates", "row 7 burns"]).success(), "updates are disabled\n");
    let told = tool(&["get-updates-state"]).success();
    assert!(told.starts_with("updates are disabled by alice since 2"), "{told}");
    assert!(told.ends_with("Z: row 7 burns\n"), "{told}");
    let stranger = tool(&["clear-safety-shutoff", "nobody"]);
    assert_eq!(stranger.code(), Some(2), "{stranger:?}");
    assert!(stranger.stderr.contains("no machine \"nobody\""), "{stranger:?}");
    let stranger = tool(&["fast-update", "nobody"]);
    assert_eq!(stranger.code(), Some(2), "{stranger:?}");
    assert!(stranger.stderr.contains("no machine \"nobody\""), "{stranger:?}");
}

#[test]
fn a_newcomer_without_certificates_is_told_how_to_show_one() {
    let home = tempfile::tempdir().unwrap();
    let outcome = Outcome::of(Command::new(binary("imagetool")).arg("list").env("HOME", home.path()));
    assert_eq!(outcome.code(), Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("give --cert-file and --key-file, or fill ~/.ssl"), "{outcome:?}");
}

#[test]
fn help_shows_an_example_and_where_certificates_are_looked_for() {
    let daemons =
        ["subd", "imageserver", "dominator"].map(|daemon| (daemon, format!("/etc/ssl/{daemon}/cert.pem")));
    let tools =
        ["imagetool", "domtool", "subtool", "list-methods", "logtool"].map(|tool| (tool, "~/.ssl]".into()));
    for (program, place) in daemons.into_iter().chain(tools) {
        let help = Outcome::of(Command::new(binary(program)).arg("--help")).success();
        assert!(help.contains("Example"), "{program}: {help}");
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&place), "{program}: {words}");
    }
}

#[test]
fn a_filter_is_linted_without_a_server_or_a_certificate_and_when_an_image_is_added() {
    let lab = Lab::new();
    let filter = lab.write("filter", "# kept\n/tmp\n/srv/x/.*\n");
    let filter = filter.to_str().unwrap();
    let linted =
        Outcome::of(Command::new(binary("imagetool")).args(["lint-filter", filter]).env("HOME", "/nowhere"));
    assert_eq!(linted.code(), Some(1));
    for words in
        ["filter:2: warning: /tmp\n", "/tmpfoo too", "did you mean  /tmp(|/.*)$", ":3: note: /srv/x/.*"]
    {
        assert!(linted.stdout.contains(words), "{words}: {linted:?}");
    }
    let explain = |path: &str| {
        Outcome::of(Command::new(binary("imagetool")).args(["lint-filter", filter, "--explain", path]))
    };
    let hidden = explain("/tmp/a/b");
    assert_eq!(hidden.code(), Some(0));
    for words in ["line 2 matches /tmp: /tmp\n", "as /tmp is", "neither made, changed nor deleted"] {
        assert!(hidden.stdout.contains(words), "{words}: {hidden:?}");
    }
    let other = explain("/usr");
    assert_eq!((other.code(), other.stdout.contains("/usr is not left alone")), (Some(1), true), "{other:?}");
    assert_eq!(explain("usr").code(), Some(2));

    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let tree = lab.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let add = ["--image-server", &server, "add", "web/1", tree.to_str().unwrap(), filter, ""];
    let added = lab.tool("imagetool", &admin, add);
    assert_eq!(added.code(), Some(0), "{added:?}");
    let warnings: Vec<_> = added.stderr.lines().filter(|line| line.contains("filter:")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("filter:2: /tmp: it has no end"), "{added:?}");
}

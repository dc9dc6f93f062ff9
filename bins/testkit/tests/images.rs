//! What `imagetool` makes of images, machines, directories and archives, with real servers; and that its JSON is what the
//! schemas say.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dominator_testkit::{Certificate, Lab, Outcome, Process, binary, schema, trees};
use serde_json::Value;

/// An image server with two images of one directory.
struct Site {
    lab: Lab,
    admin: Certificate,
    server: String,
    _images: Process,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let admin = lab.certificate("admin", "admin", "*.*");
        let (images, server) = lab.image_server();
        let site = Self { lab, admin, server, _images: images };
        for (name, version) in [("web/1", 1), ("web/2", 2)] {
            fs::create_dir(site.tree(version)).unwrap();
            trees::small(&site.tree(version), version);
            let filter = site.lab.write("filter", "/srv(|/.*)$\n");
            let triggers = r#"[{"MatchLines": ["/etc/version$", "/no/such/path"], "Service": "greeter"}]"#;
            let triggers = site.lab.write("triggers", triggers);
            let tree = site.tree(version);
            site.ok(&["add", name, text(&tree), text(&filter), text(&triggers)]);
        }
        site
    }

    fn tree(&self, version: u32) -> PathBuf {
        self.lab.path(format!("tree{version}"))
    }

    fn run(&self, words: &[&str]) -> Outcome {
        let flags = ["--image-server", &self.server];
        self.lab.tool("imagetool", &self.admin, flags.iter().chain(words).copied())
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).success()
    }

    /// The result as JSON, which must be what the schema of the verb says.
    #[track_caller]
    fn json(&self, words: &[&str], code: i32) -> Value {
        let outcome = self.run(&[words, &["--json"]].concat());
        assert_eq!(outcome.code(), Some(code), "{words:?}: {outcome:?}");
        let value = serde_json::from_str(&outcome.stdout).unwrap();
        schema::check(&format!("imagetool-{}", words[0]), &value).unwrap();
        value
    }

    /// Gets an image and compares it with a tree.
    #[track_caller]
    fn is(&self, name: &str, tree: &Path) {
        let got = tempfile::tempdir().unwrap();
        let got = got.path().join("got");
        self.ok(&["get", name, text(&got)]);
        assert_eq!(trees::differences(tree, &got, &[]), Vec::<String>::new());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_is_read_path_by_path() {
    let site = Site::new();
    assert_eq!(site.ok(&["show-filter", "web/1"]), "/srv(|/.*)$\n");
    assert_eq!(site.json(&["show-filter", "web/1"], 0)["kind"], "lines");
    assert_eq!(site.json(&["show-triggers", "web/1"], 0)["triggers"][0]["Service"], "greeter");
    assert_eq!(site.json(&["show-metadata", "web/1"], 0)["created_by"], "admin");
    let inode = site.json(&["show-inode", "web/1", "/etc/version"], 0);
    let contents = fs::read_to_string(site.tree(1).join("etc/version")).unwrap();
    assert_eq!((&inode["kind"], &inode["size"]), (&"file".into(), &contents.len().into()));
    assert!(site.json(&["show-inode", "web/1", "/etc"], 0)["entries"].as_u64().unwrap() > 1);
    assert_eq!(site.run(&["show-inode", "web/1", "/no/such"]).code(), Some(2));
    assert_eq!(site.ok(&["get-file-in-image", "web/1", "/etc/version"]), contents);
    let file = site.lab.path("file");
    site.json(&["get-file-in-image", "web/1", "/etc/version", text(&file)], 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), contents);
    let directory = site.run(&["get-file-in-image", "web/1", "/etc"]);
    assert!(directory.code() == Some(2) && directory.stderr.contains("directory"), "{directory:?}");
    let usage = site.json(&["estimate-usage", "web/1"], 0);
    assert!(usage["allocated_bytes"].as_u64() > usage["file_bytes"].as_u64(), "{usage}");
    let matched = site.json(&["match-triggers", "web/1"], 1);
    let counts: Vec<_> =
        matched["triggers"].as_array().unwrap().iter().map(|line| &line["matches"]).collect();
    assert_eq!(counts, [&Value::from(1), &Value::from(0)]);
    let history = site.json(&["trace-inode-history", "web/2", "/etc/version"], 0);
    let images: Vec<_> =
        history["changes"].as_array().unwrap().iter().map(|change| &change["image"]).collect();
    assert_eq!(images, ["web/1", "web/2"]);
}

#[test]
fn an_image_goes_out_as_an_archive_and_comes_back_however_it_is_compressed() {
    let site = Site::new();
    let archive = site.lab.path("image.tar");
    assert_eq!(site.json(&["tar", "web/1", text(&archive)], 0)["left_out"], serde_json::json!([]));
    for (number, program) in ["gzip", "xz", "zstd"].into_iter().enumerate() {
        let packed = Command::new(program).arg("-c").arg(&archive).output().unwrap();
        assert!(packed.status.success());
        let path = site.lab.path("packed");
        fs::write(&path, packed.stdout).unwrap();
        let name = format!("back/{number}");
        site.ok(&["add", &name, text(&path), "", ""]);
        assert_eq!(site.run(&["diff", "web/1", &name]).code(), Some(0), "{program}");
    }
    let mut command = Command::new(binary("imagetool"));
    site.admin.flags(&mut command);
    command.args(["--image-server", &site.server, "add", "back/stdin", "-", "", ""]);
    Outcome::of(command.stdin(fs::File::open(&archive).unwrap())).success();
    assert_eq!(site.run(&["diff", "web/1", "back/stdin"]).code(), Some(0));
    let evil = site.lab.write("evil.tar", "no archive, and long enough to be taken for none\n");
    assert_eq!(site.run(&["add", "evil/1", text(&evil), "", ""]).code(), Some(2));
    assert_eq!(site.run(&["check", "evil/1"]).code(), Some(1));
}

#[test]
fn an_image_is_made_of_another_one() {
    let site = Site::new();
    assert_eq!(site.json(&["copy", "copies/1", "web/1"], 0)["sent_objects"], 0);
    assert_eq!(site.ok(&["show-filter", "copies/1"]), "/srv(|/.*)$\n");
    site.is("copies/1", &site.tree(1));
    assert_eq!(site.json(&["show-metadata", "copies/1"], 0)["source_image"], "web/1");
    assert_eq!(site.run(&["copy", "copies/1", "web/2"]).code(), Some(2), "names are unique");
    let filter = site.lab.write("less", "/usr/share(|/.*)$\n");
    site.json(&["addi", "less/1", "web/1", text(&filter), ""], 0);
    assert_eq!(site.run(&["show-inode", "less/1", "/usr/share"]).code(), Some(2));
    assert_eq!(site.ok(&["show-filter", "less/1"]), "/usr/share(|/.*)$\n");
    assert_eq!(site.json(&["show-triggers", "less/1"], 0)["triggers"], serde_json::json!([]));
}

#[test]
fn files_of_images_are_replaced_and_nothing_else_is() {
    let site = Site::new();
    let layer = site.lab.path("layer");
    fs::create_dir_all(layer.join("etc")).unwrap();
    fs::write(layer.join("etc/version"), "patched\n").unwrap();
    let layer = text(&layer);
    site.json(&["addrep", "web/2.1", "web/2", layer], 0);
    assert_eq!(site.json(&["show-metadata", "web/2.1"], 0)["source_image"], "web/2");
    assert_eq!(site.ok(&["get-file-in-image", "web/2.1", "/etc/version"]), "patched\n");
    let diff = site.json(&["diff", "web/2", "web/2.1"], 1);
    let paths: Vec<_> = diff["differences"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
    assert_eq!(paths, ["/etc/version"]);
    site.ok(&["copy", "db/1", "web/1"]);
    let planned = site.json(&["bulk-addrep", ".fix", layer, "--in", "db", "--dry-run"], 0);
    assert_eq!(planned["added"], serde_json::json!([{"image": "db/1.fix", "of": "db/1"}]));
    assert_eq!(site.run(&["check", "db/1.fix"]).code(), Some(1), "nothing was done");
    let done = site.json(&["bulk-addrep", ".fix", layer], 0);
    assert_eq!(done["added"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(site.ok(&["get-file-in-image", "db/1.fix", "/etc/version"]), "patched\n");
    fs::write(Path::new(layer).join("etc/versoin"), "misspelt\n").unwrap();
    let refused = site.run(&["addrep", "web/2.2", "web/2", layer]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("/etc/versoin"), "{refused:?}");
    let passed = site.json(&["bulk-addrep", ".more", layer], 0);
    assert_eq!(passed["added"], serde_json::json!([]));
    assert!(passed["passed_over"][0]["why"].as_str().unwrap().contains("/etc/versoin"), "{passed}");
}

#[test]
fn an_image_of_a_machine_is_what_the_machine_is() {
    let site = Site::new();
    let root = site.lab.path("root");
    fs::create_dir(&root).unwrap();
    trees::small(&root, 7);
    let _subd = site.lab.subd(1, &root);
    let sub = format!("{}:6969", site.lab.address(1));
    site.json(&["adds", "golden/1", &sub, "/dev/null", ""], 0);
    let got = site.lab.path("golden");
    site.ok(&["get", "golden/1", text(&got)]);
    assert_eq!(trees::differences(&root, &got, &["/\\.subd(/.*)?"]), Vec::<String>::new());
    let filter = site.lab.write("nothing", "/\n");
    let refused = site.run(&["adds", "golden/2", &sub, text(&filter), ""]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("/etc/passwd"), "{refused:?}");
}

#[test]
fn a_directory_becomes_what_the_image_says_and_keeps_what_is_left_alone() {
    let site = Site::new();
    let root = site.lab.path("machine");
    fs::create_dir_all(root.join("srv/data")).unwrap();
    fs::write(root.join("srv/data/kept"), "ours").unwrap();
    fs::write(root.join("stray"), "nobody's").unwrap();
    let planned = site.json(&["patch-directory", "web/1", text(&root), "--dry-run"], 0);
    assert!(planned["plan"]["operations"].as_u64().unwrap() > 5, "{planned}");
    assert!(root.join("stray").exists() && !root.join("etc").exists());
    site.json(&["patch-directory", "web/1", text(&root)], 0);
    let alone = ["/\\.subd(/.*)?", "/srv(/.*)?"];
    assert_eq!(trees::differences(&site.tree(1), &root, &alone), Vec::<String>::new());
    assert_eq!(fs::read_to_string(root.join("srv/data/kept")).unwrap(), "ours");
    site.ok(&["patch-directory", "web/2", text(&root)]);
    assert_eq!(trees::differences(&site.tree(2), &root, &alone), Vec::<String>::new());
    let again = site.json(&["patch-directory", "web/2", text(&root)], 0);
    assert_eq!((&again["applied"], &again["plan"]["operations"]), (&0.into(), &0.into()));
    let found = site.json(&["scan-filtered-files", "web/2", text(&root)], 0);
    let paths: Vec<_> = found["paths"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
    assert_eq!(paths, ["/srv", "/srv/data", "/srv/data/kept"]);
    let copy = site.lab.path("copy");
    assert_eq!(site.json(&["copy-filtered-files", "web/2", text(&root), text(&copy)], 0)["bytes"], 4);
    assert_eq!(fs::read_to_string(copy.join("srv/data/kept")).unwrap(), "ours");
    assert!(!copy.join("etc").exists());
    assert_eq!(
        site.run(&["patch-directory", "web/1", "/"]).code(),
        Some(2),
        "the machine itself is an agent's"
    );
}

#[test]
fn what_is_remembered_of_a_tree_changes_nothing_of_its_image() {
    let site = Site::new();
    let tree = site.tree(1);
    let cache = site.lab.path("cache");
    let add = |name: &str, more: &[&str]| {
        let words = ["add", name, text(&tree), "/dev/null", ""];
        site.json(&[&words, more].concat(), 0)
    };
    let remembering = ["--scan-cache", text(&cache)];
    let first = add("seen/1", &remembering);
    assert!(first["hashed_bytes"].as_u64().unwrap() > 0, "{first}");
    assert_eq!(add("seen/2", &["--no-scan-cache"])["hashed_bytes"], first["hashed_bytes"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&cache).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "names of files are nobody else's concern");
    fs::write(tree.join("etc/version"), "new\n").unwrap();
    add("seen/3", &remembering);
    assert_eq!(site.ok(&["get-file-in-image", "seen/3", "/etc/version"]), "new\n");
    let files = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    for file in files {
        fs::write(file, "damaged").unwrap();
    }
    add("seen/4", &remembering);
    assert_eq!(site.run(&["diff", "seen/3", "seen/4"]).code(), Some(0), "a damaged cache costs time only");
}

#[test]
fn text_files_are_merged_and_looked_at_without_a_server() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let json = |words: &[&str], code: i32| {
        let outcome = lab.tool("imagetool", &admin, words.iter().chain(&["--json"]).copied());
        assert_eq!(outcome.code(), Some(code), "{words:?}: {outcome:?}");
        let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        schema::check(&format!("imagetool-{}", words[0]), &value).unwrap();
        value
    };
    let whys = |value: &Value| -> Vec<String> {
        let beyond = value["beyond"].as_array().unwrap().iter();
        beyond.map(|one| one["why"].as_str().unwrap().to_owned()).collect()
    };
    let tree = lab.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let [one, two] = [lab.write("one", "/srv$\n/tmp$\n"), lab.write("two", "/tmp$\n/opt$\n")];
    let merged = json(&["merge-filters", text(&one), text(&two)], 0);
    assert_eq!(merged["lines"], serde_json::json!(["/srv$", "/tmp$", "/opt$"]));
    let triggers = lab.write("t1", r#"[{"MatchLines": ["/etc/version$"], "Service": "a"}]"#);
    let more = lab.write("t2", r#"[{"MatchLines": ["/etc/never$"], "Service": "a", "HighImpact": true}]"#);
    let both = json(&["merge-triggers", text(&triggers), text(&more)], 0);
    assert_eq!(both["triggers"][0]["MatchLines"].as_array().unwrap().len(), 2);
    let good = ["lint", text(&one), text(&triggers), "--tree", text(&tree)];
    assert_eq!(whys(&json(&good, 0)), ["line-matches-nothing", "line-matches-nothing"]);
    let never = ["lint", text(&one), text(&more), "--tree", text(&tree)];
    assert!(whys(&json(&never, 1)).contains(&"trigger-matches-nothing".to_owned()));
    let etc = lab.write("etc", "/etc(|/.*)$\n");
    assert_eq!(whys(&json(&["lint", text(&etc)], 1)), ["hides-required-path"]);
    let all = lab.write("all", "/.*\n");
    assert_eq!(whys(&json(&["lint", text(&all)], 1)), ["matches-everything"]);
    fs::remove_file(tree.join("etc/passwd")).unwrap();
    let lacking = ["lint", text(&one), "", "--tree", text(&tree)];
    assert!(whys(&json(&lacking, 1)).contains(&"missing-required-path".to_owned()));
}

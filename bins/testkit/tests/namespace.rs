//! Who may change what among images, asked of a real server, before it is started again and after; and the same by hand.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use dominator_core::image::{Image, ImageName};
use dominator_core::namespace::{DirectoryName, GroupName};
use dominator_core::port::{ImageError, ImageStore as _, Parents};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_rpc::client::RemoteImages;
use dominator_rpc::transport::Tls;
use dominator_testkit::{Certificate, Lab, Process, schema, trees};
use serde_json::{Value, json};

/// Caller, groups, power, change, outcome; a line a case.
const TABLE: &str = include_str!("../../../dominator-core/tests/permissions.txt");

fn rows() -> Vec<[&'static str; 5]> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<_> =
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().unwrap()).collect();
    assert!(rows.len() > 30, "{rows:?}");
    rows
}

fn group(name: &str) -> Option<GroupName> {
    (!name.is_empty()).then(|| name.parse().unwrap())
}

fn directory(name: &str) -> DirectoryName {
    name.parse().unwrap()
}

/// Those who call, each with a certificate of his own.
struct Callers<'a>(&'a Lab);

impl Callers<'_> {
    fn make(&self, name: &str, user: &str, methods: &str, groups: &str) -> Certificate {
        let names = groups.split(',').filter(|group| *group != "-");
        let flags: Vec<&str> = names.flat_map(|group| ["--group", group]).collect();
        self.0.certificate_with(name, user, methods, &flags)
    }

    fn tls(&self, name: &str) -> Tls {
        let file = |ending: &str| self.0.path(format!("{name}.{ending}"));
        let paths = CredentialPaths { certificate: file("pem"), key: file("key.pem") };
        let trust = keystore::load_trust(&self.0.path("CA.pem"), IdentityFile::None).unwrap();
        Tls::new(trust, keystore::load(&paths, SystemTime::now()).unwrap()).unwrap()
    }

    /// Whoever stands in a row.
    fn of(&self, row: &[&str; 5]) -> Tls {
        let [user, groups, power, ..] = row;
        let name = format!("{user}-{groups}-{power}").replace(',', "+");
        if !self.0.path(format!("{name}.pem")).exists() {
            self.make(&name, user, if *power == "power" { "ImageServer.*" } else { "" }, groups);
        }
        self.tls(&name)
    }
}

/// What a row's caller is to change: the names are the row's own, as what is deleted stays so.
fn name(phase: &str, number: usize) -> String {
    format!("all/web/{phase}-{number}")
}

/// Makes what the rows of a phase change.
async fn set_up(root: &RemoteImages, maker: &RemoteImages, image: &Image, phase: &str) {
    for (number, [_, _, _, change, _]) in rows().into_iter().enumerate() {
        let name = name(phase, number);
        if change == "image" {
            maker.add(&name.parse().unwrap(), image.clone()).await.unwrap();
        } else if change != "mkdir" {
            // It is in the one of group `all`, and belongs to `web`.
            let name = directory(&name.replace("/web/", "/"));
            root.make_directory(&name, Parents::Required).await.unwrap();
            root.chown_directory(&name, group("web")).await.unwrap();
        }
    }
}

async fn attempt(images: &RemoteImages, change: &str, name: &str) -> Result<(), ImageError> {
    let above = directory(&name.replace("/web/", "/"));
    match change {
        "image" => images.delete(&name.parse::<ImageName>().unwrap()).await,
        "mkdir" => images.make_directory(&directory(name), Parents::Required).await,
        "rmdir" => images.delete_directory(&above).await,
        chown => images.chown_directory(&above, group(chown.strip_prefix("chown:").unwrap())).await,
    }
}

/// By what right the audit log says that something was done to `target`, once it says that it was.
fn right(lab: &Lab, target: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let log = fs::read_to_string(lab.path("imageserver-state").join("audit.log")).unwrap();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let set_up = |line: &Value| line["user"] == "setup" || line["method"] == "ImageServer.AddImage";
        let about = |line: &Value| line["event"] == "ended" && line["target"] == target && !set_up(line);
        if let Some(line) = lines.rfind(about) {
            let detail = line["detail"].as_str().unwrap_or("as power");
            return detail.rsplit(' ').next().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "nothing of {target} in the log");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn each_row_is_decided_as_it_says(lab: &Lab, callers: &Callers<'_>, address: &str, phase: &str) {
    for (number, row) in rows().into_iter().enumerate() {
        let [_, _, _, change, expected] = row;
        let (images, name) =
            (RemoteImages::connect(&callers.of(&row), address).await.unwrap(), name(phase, number));
        let outcome = attempt(&images, change, &name).await;
        match &outcome {
            Err(ImageError::Denied(said)) => {
                assert!(said.contains("access to method denied"), "{said}");
                assert_eq!(expected, "denied", "{phase}: {row:?}: {said}");
            }
            Err(error) => panic!("{phase}: {row:?}: {error:?}"),
            Ok(()) => {
                let target = match change {
                    "image" => format!("image {name}"),
                    "mkdir" => format!("directory {name}"),
                    _ => format!("directory {}", name.replace("/web/", "/")),
                };
                assert_eq!(right(lab, &target), expected, "{phase}: {row:?}");
            }
        }
    }
}

#[test]
fn who_may_change_what_is_as_in_the_table_before_and_after_a_restart() {
    let lab = Lab::new();
    let address = format!("{}:6971", lab.address(0));
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let start = || {
        let mut command = lab.daemon("imageserver", &certificate, &address, "imageserver-state");
        Process::start("imageserver", &mut command)
    };
    let server = start();
    let callers = Callers(&lab);
    let everything = "ImageServer.*,ObjectServer.*";
    let root = callers.make("setup", "setup", everything, "-");
    let tree = lab.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let base = ["--image-server", &address, "add", "base/1", tree.to_str().unwrap(), "", ""];
    lab.tool("imagetool", &root, base).success();
    callers.make("adder", "maker", everything, "-");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let root = RemoteImages::connect(&callers.tls("setup"), &address).await.unwrap();
        let maker = RemoteImages::connect(&callers.tls("adder"), &address).await.unwrap();
        root.make_directory(&directory("all"), Parents::Required).await.unwrap();
        root.chown_directory(&directory("all"), group("all")).await.unwrap();
        root.make_directory(&directory("all/web"), Parents::Required).await.unwrap();
        root.chown_directory(&directory("all/web"), group("web")).await.unwrap();
        let mut image = Image::clone(&*root.image(&"base/1".parse().unwrap()).await.unwrap());
        image.owner_users = ["owner", "other"].map(str::to_owned).to_vec();
        image.owner_groups = ["owners", "more"].map(str::to_owned).to_vec();
        image.provenance.created_for = "client".into();
        for phase in ["before", "after"] {
            set_up(&root, &maker, &image, phase).await;
        }
        each_row_is_decided_as_it_says(&lab, &callers, &address, "before").await;
    });
    drop(server);
    let _server = start();
    runtime.block_on(each_row_is_decided_as_it_says(&lab, &callers, &address, "after"));
    let outcomes: BTreeSet<_> = rows().into_iter().map(|row| row[4]).collect();
    assert_eq!(outcomes.len(), 9, "{outcomes:?}");
}

#[test]
fn directories_owners_and_what_is_known_of_an_image_by_hand() {
    let lab = Lab::new();
    let (_server, address) = lab.image_server();
    let callers = Callers(&lab);
    let root = callers.make("root", "root", "ImageServer.*,ObjectServer.*", "-");
    let webber = callers.make("webber", "webber", "ObjectServer.GetObjects", "web");
    let stranger = callers.make("stranger", "stranger", "", "-");
    let tool = |who: &Certificate, words: &[&str]| {
        lab.tool("imagetool", who, ["--image-server", &address].into_iter().chain(words.iter().copied()))
    };
    let json = |who: &Certificate, words: &[&str]| -> Value {
        let shown: Value =
            serde_json::from_str(&tool(who, &[words, &["--json"]].concat()).success()).unwrap();
        schema::check(&format!("imagetool-{}", words[0]), &shown).unwrap();
        shown
    };
    assert!(tool(&root, &["mkdir", "web/front"]).failure().contains("there is no directory of images web"));
    assert_eq!(json(&root, &["mkdir", "web"]), json!({"directory": "web"}));
    assert_eq!(json(&root, &["chown", "web", "web"]), json!({"directory": "web", "owner_group": "web"}));
    // The group of the directory goes on by itself.
    assert_eq!(tool(&webber, &["mkdir", "--parents", "web/front/new"]).success(), "web/front/new web\n");
    assert!(tool(&stranger, &["mkdir", "web/mine"]).failure().contains("does not own directory web"));
    assert!(
        tool(&webber, &["rmdir", "web/front/new"])
            .failure()
            .contains("may not call ImageServer.DeleteDirectory")
    );
    let all = json(&stranger, &["listdirs"]);
    let names: Vec<_> =
        all["directories"].as_array().unwrap().iter().map(|it| it["directory"].as_str().unwrap()).collect();
    assert_eq!(names, [".", "web", "web/front", "web/front/new"]);
    assert_eq!(json(&root, &["rmdir", "web/front/new"])["deleted"], true);
    assert_eq!(json(&stranger, &["check-directory", "web/front"])["owner_group"], "web");
    assert_eq!(tool(&stranger, &["check-directory", "web/front/new"]).code(), Some(1));

    let (tree, notes, packages) =
        (lab.path("tree"), "https://example.org/notes", lab.write("packages", "bash 5.2 7163904\n"));
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let log = lab.write("log", "it was built\n");
    let (tree, log, packages) = (tree.to_str().unwrap(), log.to_str().unwrap(), packages.to_str().unwrap());
    let add =
        ["add", "web/front/1", tree, "", "", "--owner-users", "bob,carol", "--owner-groups", "ops", "--tags"];
    let about =
        ["os=debian,stage=test", "--release-notes", notes, "--build-log", log, "--packages", packages];
    let build = ["--branch", "main", "--commit", "0123abcd", "--git-url", "https://example.org/web.git"];
    json(&root, &[&add[..], &about, &build, &["--created-for", "dave", "--source-image", "base/1"]].concat());
    let shown = json(&stranger, &["show", "web/front/1"]);
    for (key, value) in [
        ("owner_users", json!(["bob", "carol"])),
        ("owner_groups", json!(["ops"])),
        ("tags", json!({"os": "debian", "stage": "test"})),
        ("release_notes", json!(notes)),
        ("build_branch", json!("main")),
        ("build_commit_id", json!("0123abcd")),
        ("build_git_url", json!("https://example.org/web.git")),
        ("created_for", json!("dave")),
        ("source_image", json!("base/1")),
        ("packages", json!(1)),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    let text = tool(&stranger, &["show", "web/front/1"]).success();
    assert!(text.contains("made for dave\n") && text.contains("owners   bob, carol\n"), "{text}");
    assert_eq!(tool(&webber, &["get-build-log", "web/front/1"]).success(), "it was built\n");
    assert_eq!(json(&webber, &["get-build-log", "web/front/1"])["log"], "it was built\n");
    assert_eq!(tool(&stranger, &["get-package-list", "web/front/1"]).success(), "bash 5.2 7163904\n");
    json(&stranger, &["get-package-list", "web/front/1"]);
    assert!(tool(&stranger, &["delete", "web/front/1"]).failure().contains("does not own image web/front/1"));
    tool(&webber, &["delete", "web/front/1"]).success();
    // The name of a deleted image keeps its directory.
    assert!(tool(&root, &["rmdir", "web/front"]).failure().contains("is not empty"));
}

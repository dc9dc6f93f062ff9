//! An agent that is killed in the middle of an update: the real daemons, and a real kill.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use dominator_testkit::{Certificate, Lab, Process, is_root, trees};

const DIRECTORIES: usize = 40;
const FILES: usize = 100;
/// The services of this root are nobody's: what becomes of real ones is tried on machines that have some.
const TRIGGERS: &str = r#"[{"MatchLines": ["/d00/.*"], "Service": "web"}]"#;

/// A tree of many files, each of which says which version it is of.
fn image(lab: &Lab, version: usize) -> PathBuf {
    let top = lab.path(format!("image{version}"));
    for directory in 0..DIRECTORIES {
        let directory = top.join(format!("d{directory:02}"));
        fs::create_dir_all(&directory).unwrap();
        (0..FILES)
            .for_each(|file| fs::write(directory.join(format!("f{file:03}")), format!("{version}")).unwrap());
    }
    top
}

/// How many files of the machine are of a version.
fn of_version(root: &Path, version: usize) -> usize {
    let files = (0..DIRECTORIES).flat_map(|d| (0..FILES).map(move |f| format!("d{d:02}/f{f:03}")));
    files.filter(|file| fs::read_to_string(root.join(file)).is_ok_and(|v| v == version.to_string())).count()
}

fn add(lab: &Lab, admin: &Certificate, server: &str, version: usize) {
    let [filter, triggers] = [("filter", "/srv(|/.*)$\n"), ("triggers", TRIGGERS)]
        .map(|(name, contents)| lab.write(name, contents).display().to_string());
    let (name, tree) = (format!("web/{version}"), image(lab, version));
    let arguments = [
        "--image-server",
        server,
        "add",
        &name,
        tree.to_str().unwrap(),
        &filter,
        &triggers,
        "--no-required-paths",
    ];
    lab.tool("imagetool", admin, arguments).success();
}

#[test]
fn a_machine_whose_agent_is_killed_while_thousands_of_files_change_becomes_right_when_it_starts_again() {
    if !is_root(
        "a_machine_whose_agent_is_killed_while_thousands_of_files_change_becomes_right_when_it_starts_again",
    ) {
        return;
    }
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    add(&lab, &admin, &server, 0);
    add(&lab, &admin, &server, 1);
    let (dominator, _) = lab.dominator(&server, &lab.mdb(&[("one", 1, "web/0")]));
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    let start = || lab.subd_with(1, &root, &["--scan-interval", "1h"]);
    let synced = |mark| dominator.wait_for_event(mark, "status", &[("sub", "one"), ("status", "synced")]);
    let mut agent = start();
    synced(0);
    let all = DIRECTORIES * FILES;
    // Who kills may come too late; then the way back is tried.
    for attempt in 1..=20 {
        let version = attempt % 2;
        let mark = dominator.mark();
        lab.mdb(&[("one", 1, &format!("web/{version}"))]);
        wait_until_changed(&agent, &root.join("d00/f000"), version);
        // Not asked to end, but killed.
        drop(agent);
        let changed = of_version(&root, version);
        agent = start();
        let log = agent.log_since(0).join("\n");
        // It listens, and all is done: before anybody can have asked.
        assert_eq!(of_version(&root, version), all, "{changed} of {all} had been changed\n{log}");
        synced(mark);
        let tree = lab.path(format!("image{version}"));
        assert_eq!(trees::differences(&tree, &root, &["/\\.subd(|/.*)$"]), <[String; 0]>::default());
        if changed == all {
            continue;
        }
        assert!(log.contains("an update that was cut off was finished"), "{log}");
        let address = format!("{}:6969", lab.address(1));
        let status = lab.tool("subtool", &admin, ["--sub", &address, "poll", "--json"]).json();
        let image = status.get("last_image").and_then(|image| image.as_str());
        assert_eq!((image, status.get("last_update_error")), (Some(&*format!("web/{version}")), None));
        return;
    }
    panic!("each of many kills came too late");
}

/// Looks without a pause, or the moment is over.
fn wait_until_changed(agent: &Process, file: &Path, version: usize) {
    let wanted = version.to_string();
    let began = std::time::Instant::now();
    while fs::read_to_string(file).is_ok_and(|now| now != wanted) {
        let log = || agent.log_since(0).join("\n");
        assert!(began.elapsed() < std::time::Duration::from_secs(120), "{}", log());
    }
}

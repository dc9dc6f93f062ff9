//! The main job on a real distribution: a Debian root of more than 30,000 files. Takes minutes, root, mmdebstrap and a
//! mirror; it is run when `DOMINATOR_DEBIAN` is set, and says so when it is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use dominator_testkit::{Lab, Outcome, Process, is_root, say, trees};

/// What the machine keeps for itself in this test: nothing but what is mounted.
const FILTER: &str = "/(proc|sys)/.*\n";

fn debian(lab: &Lab, name: &str, version: &[&str]) -> PathBuf {
    let path = lab.path(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian-root.sh");
    Outcome::of(Command::new(script).arg(&path).args(version)).success();
    path
}

fn wait_until_alike(dominator: &Process, since: usize, image: &Path, root: &Path) -> Vec<String> {
    let mut mark = since;
    let mut differences = Vec::new();
    for _ in 0..10 {
        dominator.wait_for_event(mark, "status", &[("sub", "one"), ("status", "synced")]);
        mark = dominator.mark();
        differences = trees::differences(image, root, &[]);
        if differences.is_empty() {
            break;
        }
    }
    differences
}

fn updates(dominator: &Process, since: usize) -> usize {
    dominator.log_since(since).iter().filter(|line| line.contains(r#""message":"update""#)).count()
}

#[test]
fn a_nearly_blank_root_becomes_debian_is_repaired_and_upgraded() {
    if std::env::var_os("DOMINATOR_DEBIAN").is_none() {
        say("a_nearly_blank_root_becomes_debian was not run: DOMINATOR_DEBIAN is not set");
        return;
    }
    assert!(is_root("a_nearly_blank_root_becomes_debian"), "a Debian root can't be made without root");
    let lab = Lab::new();
    let images = [debian(&lab, "debian1", &[]), debian(&lab, "debian2", &["--upgrade"])];
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_server, server) = lab.image_server();
    let filter = lab.write("filter", FILTER);
    let add = |name: &str, tree: &Path| {
        let words = [
            "--image-server",
            &server,
            "add",
            name,
            tree.to_str().unwrap(),
            filter.to_str().unwrap(),
            "",
            "--json",
        ];
        let added = lab.tool("imagetool", &admin, words).json();
        say(&format!("added {name}: {added}"));
        added
    };
    let first = add("debian/1", &images[0]);
    let root = lab.path("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hostname"), "blank\n").unwrap();
    let (dominator, _) = lab.dominator(&server, &lab.mdb(&[("one", 1, "debian/1")]));
    let began = Instant::now();
    let _subd = lab.subd(1, &root);
    assert_eq!(wait_until_alike(&dominator, 0, &images[0], &root), Vec::<String>::new());
    say(&format!("converged and judged in {:.1} s", began.elapsed().as_secs_f64()));

    // The judge took its time, and the machine was scanned and polled meanwhile: nothing was sent a second time.
    assert_eq!(updates(&dominator, 0), 1, "{:#?}", dominator.log_since(0));
    let quiet = dominator.mark();
    let drift = trees::disturb(&root, 7, &["/(proc|sys|dev)(/|$)"], &[]);
    say(&format!("drift: {drift:?}"));
    assert_eq!(wait_until_alike(&dominator, quiet, &images[0], &root), Vec::<String>::new());

    let second = add("debian/2", &images[1]);
    assert!(second["sent_bytes"].as_u64() < first["sent_bytes"].as_u64(), "{second}");
    let mark = dominator.mark();
    lab.mdb(&[("one", 1, "debian/2")]);
    let began = Instant::now();
    assert_eq!(wait_until_alike(&dominator, mark, &images[1], &root), Vec::<String>::new());
    say(&format!("upgraded and judged in {:.1} s", began.elapsed().as_secs_f64()));
    assert_eq!(updates(&dominator, mark), 1, "{:#?}", dominator.log_since(mark));
    let info =
        lab.tool("subtool", &admin, ["--sub", &format!("{}:6969", lab.address(1)), "poll", "--json"]).json();
    assert_eq!((&info["last_image"], &info["unknown_count"]), (&"debian/2".into(), &0.into()), "{info:#}");
}

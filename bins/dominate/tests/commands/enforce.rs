use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use dominator_core::trigger::Triggers;
use dominator_fs::root::Root;
use dominator_fs::service::Activation;
use dominator_fs::update::{Afterwards, Ledger, Updater};
use dominator_fs_testkit::{CallKind, Fault, Faults, Lasting, scenario};

use crate::{Trees, dominate};

fn disturb(root: &Path) {
    fs::remove_file(root.join("etc/issue")).unwrap();
    fs::write(root.join("etc/app/config"), "port = 8080\n").unwrap();
    fs::create_dir_all(root.join("opt/intruder")).unwrap();
    fs::write(root.join("opt/intruder/tool"), "").unwrap();
}

#[test]
fn a_disturbed_root_becomes_the_image_and_then_there_is_nothing_to_do() {
    let trees = Trees::new();
    disturb(&trees.root());
    let ended = trees.run("enforce", &[]).expect(0);
    assert!(ended.out.contains("put file /etc/app/config\n"), "{}", ended.out);
    assert!(ended.out.contains(" 0 failed ("), "{}", ended.out);
    assert_eq!(trees.differing(&[]), "");
    let again = trees.run("enforce", &[]).expect(0);
    assert!(again.out.starts_with("nothing to do"), "{}", again.out);
    trees.run("check", &[]).expect(0);
}

/// Where an update is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BeforeTheFirstRename,
    Between,
    BeforeServicesStart,
}

/// What `dominate enforce` does up to the moment it is killed.
fn cut_off(trees: &Trees, triggers: &Triggers, cut: Cut) {
    let plan = scenario::plan_between(&trees.root(), &trees.image());
    let faults = Faults::none();
    let root = Root::open(&trees.root()).unwrap();
    let view = scenario::view_of(&root);
    let (mut updater, _) = Updater::open(root, faults.disk()).unwrap();
    let mut intake = updater.objects().intake();
    for (id, contents) in scenario::objects_for(&plan, &trees.image()) {
        intake.begin(id, contents.len() as u64).unwrap();
        intake.data(&contents).unwrap();
    }
    intake.finish().unwrap();
    let changed: Vec<_> = plan.operations.iter().flat_map(|operation| operation.paths()).collect();
    let activation = Activation::new(&Triggers::default(), triggers, changed.iter().copied());
    let (afterwards, note) = (updater.afterwards().unwrap(), Afterwards::note_of(&activation));
    let staged = updater.begin(&plan, &view).unwrap().stage().unwrap().journal(&note, None).unwrap();
    afterwards.note(&activation.owed()).unwrap();
    match cut {
        Cut::BeforeTheFirstRename => {}
        Cut::Between => {
            let kind = Some(CallKind::Rename);
            let errno = rustix::io::Errno::IO;
            faults.breaks(Fault { kind, nth: 2, errno, lasting: Lasting::Everything });
            staged.swap().unwrap_err();
        }
        Cut::BeforeServicesStart => drop(staged.swap().unwrap().commit().unwrap()),
    }
}

#[test]
fn what_was_cut_off_is_brought_to_its_end_before_the_root_is_looked_at_and_its_services_started_once() {
    let json = r#"[{"MatchLines": ["/etc/app/.*"], "Service": "app"}, {"MatchLines": ["/run me"], "Service": "run", "DoReload": true}]"#;
    for cut in [Cut::BeforeTheFirstRename, Cut::Between, Cut::BeforeServicesStart] {
        let trees = Trees::new();
        fs::write(trees.root().join("etc/app/config"), "port = 81\n").unwrap();
        fs::write(trees.root().join("run me"), "#!/bin/false\n").unwrap();
        let before = trees.dir.path().join("before");
        assert!(
            Command::new("cp").arg("-a").args([trees.root(), before.clone()]).status().unwrap().success()
        );
        cut_off(&trees, &Triggers::from_json(json.as_bytes()).unwrap(), cut);
        let begun = !dominator_fs_testkit::compared(&before, &trees.root(), &["/\\.subd(|/.*)$"]).is_empty();
        assert_eq!(begun, cut != Cut::BeforeTheFirstRename);
        assert_eq!(trees.differing(&[]).is_empty(), cut == Cut::BeforeServicesStart);
        let triggers = trees.file("triggers", json);
        let ended = trees.run("enforce", &["--triggers", &triggers]).expect(0);
        let has = |what: &str| ended.out.contains(what);
        assert_eq!(has("nothing to do"), begun, "{cut:?}: {}", ended.out);
        assert!(has("start app would be due") && has("reload run would be due"), "{cut:?}: {}", ended.out);
        assert_eq!(trees.differing(&[]), "");
        let again = trees.run("enforce", &["--triggers", &triggers]).expect(0);
        assert!(again.out.starts_with("nothing to do"), "{cut:?}: {}", again.out);
    }
}

#[test]
fn a_root_that_is_right_is_not_written_to() {
    let trees = Trees::new();
    trees.run("enforce", &[]).expect(0);
    assert!(!trees.root().join(".subd").exists());
}

#[test]
fn an_empty_root_becomes_the_nastiest_image() {
    let trees = Trees::of(dominator_fs_testkit::nasty);
    if fs::metadata(trees.image()).unwrap().uid() != 0 {
        // Without privileges an image must be readable.
        assert!(Command::new("chmod").args(["-R", "u+rwX"]).arg(trees.image()).status().unwrap().success());
    }
    trees.run("enforce", &[]).expect(0);
    assert_eq!(trees.differing(&[]), "");
    assert!(trees.run("enforce", &[]).expect(0).out.starts_with("nothing to do"));
}

#[test]
fn an_archive_is_as_good_as_a_directory() {
    let trees = Trees::new();
    let tar = trees.tar();
    disturb(&trees.root());
    trees.run_with(&tar, "check", &[]).expect(1);
    trees.run_with(&tar, "enforce", &[]).expect(0);
    assert_eq!(trees.differing(&[]), "");
    assert!(trees.run_with(&tar, "enforce", &[]).expect(0).out.starts_with("nothing to do"));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let trees = Trees::new();
    disturb(&trees.root());
    let before = dominator_fs_testkit::observed(&trees.root(), &[]);
    let triggers = trees.file("triggers", r#"[{"MatchLines": ["/etc/app/.*"], "Service": "app"}]"#);
    let ended = trees.run("enforce", &["--dry-run", "--triggers", &triggers]).expect(1);
    let lines = ended.lines();
    let operations = lines.iter().position(|line| line.is_empty()).unwrap();
    assert!(lines.contains(&"put file /etc/app/config"), "{}", ended.out);
    assert!(lines.contains(&"delete /opt/intruder/tool"), "{}", ended.out);
    assert!(lines.contains(&"services    stop app, start app"), "{}", ended.out);
    assert!(lines.contains(&"deleted     3 paths"), "{}", ended.out);
    assert_eq!(*lines.last().unwrap(), format!("{operations} operations to do"));
    assert_eq!(dominator_fs_testkit::observed(&trees.root(), &[]), before);
    assert!(!trees.root().join(".subd").exists());
    trees.run("enforce", &[]).expect(0);
    assert_eq!(trees.run("enforce", &["--dry-run"]).expect(0).out, "nothing to do\n");
}

#[test]
fn what_the_filter_matches_is_left_as_it_is() {
    let trees = Trees::new();
    disturb(&trees.root());
    fs::write(trees.root().join("opt/intruder/log"), "precious").unwrap();
    let filter = trees.file("filter", "/etc/app/config$\n/opt/intruder/log$\n");
    let ended = trees.run("enforce", &["--filter", &filter]).expect(0);
    assert!(ended.out.contains("/opt/intruder: must go, but holds what is not looked at"), "{}", ended.out);
    assert_eq!(fs::read_to_string(trees.root().join("etc/app/config")).unwrap(), "port = 8080\n");
    assert_eq!(fs::read_to_string(trees.root().join("opt/intruder/log")).unwrap(), "precious");
    assert!(!trees.root().join("opt/intruder/tool").exists());
    assert_eq!(trees.differing(&["/etc/app/config", "/opt"]), "");
    let again = trees.run("enforce", &["--filter", &filter]).expect(0);
    assert!(again.out.contains("\nnothing to do"), "{}", again.out);
}

#[test]
fn a_sparse_image_repairs_its_own_paths_and_deletes_nothing() {
    let trees = Trees::new();
    disturb(&trees.root());
    let ended = trees.run("enforce", &["--filter", ""]).expect(0);
    assert!(!ended.out.contains("delete"), "{}", ended.out);
    assert!(trees.root().join("opt/intruder/tool").exists());
    assert_eq!(trees.differing(&["/opt"]), "");
}

#[test]
fn services_of_another_root_are_named_and_not_touched() {
    let trees = Trees::new();
    disturb(&trees.root());
    let triggers = trees.file(
        "triggers",
        r#"[{"MatchLines": ["/etc/app/.*"], "Service": "app"}, {"MatchLines": ["/usr"], "Service": "other"}]"#,
    );
    let ended = trees.run("enforce", &["--triggers", &triggers]).expect(0);
    assert!(ended.out.contains("stop app would be due"), "{}", ended.out);
    assert!(ended.out.contains("start app would be due"), "{}", ended.out);
    assert!(!ended.out.contains("other"), "{}", ended.out);
    trees.run("enforce", &["--triggers", &trees.file("bad", "[{}]")]).expect(3);
}

#[test]
fn an_image_and_a_root_within_each_other_are_refused() {
    let trees = Trees::new();
    let root = trees.root();
    let before = dominator_fs_testkit::observed(&root, &[]);
    for (image, root) in
        [(root.join("etc"), root.clone()), (root.clone(), root.join("etc")), (root.clone(), root.clone())]
    {
        let (image, root) = (image.to_str().unwrap(), root.to_str().unwrap());
        let ended = dominate(&["enforce", "--image", image, "--root", root]).expect(3);
        assert!(ended.err.contains("lie within each other"), "{}", ended.err);
    }
    assert_eq!(dominator_fs_testkit::observed(&root, &[]), before);
}

#[test]
fn the_running_system_is_not_changed_by_accident() {
    let trees = Trees::new();
    // Nothing would be done even if this were not refused: it is a dry run.
    for root in ["/", "/proc/self/root", "/usr/.."] {
        let image = trees.image();
        let arguments = ["enforce", "--dry-run", "--image", image.to_str().unwrap(), "--root", root];
        let ended = dominate(&arguments).expect(3);
        assert!(ended.err.contains("--allow-live-root"), "{}", ended.err);
    }
}

#[test]
fn a_watcher_repairs_without_being_asked_until_it_is_interrupted() {
    let trees = Trees::new();
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_dominate"))
        .args(["enforce", "--watch", "--interval", "20ms", "--json", "--image"])
        .arg(trees.image())
        .arg("--root")
        .arg(trees.root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let mut round = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(round()["operations"].as_array().unwrap().len(), 0);
    for _ in 0..3 {
        fs::write(trees.root().join("intruder"), "").unwrap();
        // A look may come between a file's creation and its first byte.
        while trees.root().join("intruder").exists() {
            let gone = serde_json::json!({"operation": "delete", "paths": ["/intruder"]});
            assert!(round()["operations"].as_array().unwrap().contains(&gone));
        }
    }
    let interrupt = Command::new("kill").args(["-INT", &watcher.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert_eq!(watcher.wait().unwrap().code(), Some(0));
    assert_eq!(trees.differing(&[]), "");
}

use std::fs;

use dominator_testkit::schema;
use serde_json::Value;

use crate::{Trees, dominate};

fn json(command: &str, root: &str, code: i32) -> Value {
    let value =
        serde_json::from_str(&dominate(&[command, "--json", "--root", root]).expect(code).out).unwrap();
    schema::check(&format!("dominate-{command}"), &value).unwrap();
    value
}

#[test]
fn the_last_update_is_taken_back_and_what_was_changed_since_is_kept() {
    let trees = Trees::new();
    let before = trees.dir.path().join("before");
    fs::write(trees.root().join("etc/motd"), "farewell\n").unwrap();
    fs::write(trees.root().join("etc/app/config"), "port = 81\n").unwrap();
    fs::create_dir(trees.root().join("opt")).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").args([trees.root(), before.clone()]).status().unwrap();
    assert!(copied.success());
    let root = trees.root();
    let root = root.to_str().unwrap();
    assert_eq!(json("recover", root, 0)["found"], "nothing");
    trees.run("enforce", &[]).expect(0);
    assert_eq!(json("recover", root, 0)["found"], "undoable");
    let undone = dominate(&["undo", "--root", root]).expect(0);
    assert!(undone.out.contains("the last update is undone"), "{}", undone.out);
    assert_eq!(dominator_fs_testkit::compared(&before, &trees.root(), &["/\\.subd(|/.*)$"]), "");
    let nothing = dominate(&["undo", "--root", root]).expect(3);
    assert!(nothing.err.contains("there is no update to undo"), "{}", nothing.err);

    trees.run("enforce", &[]).expect(0);
    fs::write(trees.root().join("etc/app/config"), "port = 82, by hand\n").unwrap();
    let undone = json("undo", root, 1);
    assert_eq!(
        (&undone["found"], &undone["failures"][0]["path"]),
        (&"undone".into(), &"/etc/app/config".into())
    );
    assert_eq!(fs::read_to_string(trees.root().join("etc/app/config")).unwrap(), "port = 81\n");
    let kept = undone["failures"][0]["detail"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("{root}{kept}")).unwrap(), "port = 82, by hand\n", "{undone}");
}

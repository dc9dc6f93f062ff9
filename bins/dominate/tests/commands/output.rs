use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Ended, Trees, dominate};

/// Checks the parts of JSON schema that the schemas of this project use.
fn conforms(value: &Value, schema: &Value, place: &str) {
    if let Some(allowed) = schema.get("enum") {
        assert!(allowed.as_array().unwrap().contains(value), "{place}: {value}");
    }
    let types = &schema["type"];
    let types: Vec<_> = types.as_array().map_or(vec![types], |types| types.iter().collect());
    let types: Vec<_> = types.into_iter().filter_map(Value::as_str).collect();
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{place}: a type this check does not know: {other}"),
    };
    assert!(types.is_empty() || types.iter().any(|name| is(name)), "{place}: {value} is no {types:?}");
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| conforms(value, items, &format!("{place}[]")));
    }
    if let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object()) {
        let names: BTreeSet<_> = members.keys().collect();
        let required = schema["required"].as_array().unwrap();
        let required: BTreeSet<_> = required.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(names, required.iter().collect(), "{place}");
        assert_eq!(names, properties.keys().collect(), "{place}");
        members
            .iter()
            .for_each(|(name, value)| conforms(value, &properties[name], &format!("{place}.{name}")));
    }
}

#[track_caller]
fn is_as_documented(ended: &Ended, command: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/schemas")
        .join(format!("dominate-{command}.json"));
    let schema = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let value = serde_json::from_str(&ended.out).unwrap();
    conforms(&value, &schema, command);
    value
}

#[test]
fn json_is_what_the_schemas_say() {
    let trees = Trees::new();
    fs::write(trees.root().join("etc/motd"), "farewell\n").unwrap();
    fs::create_dir(trees.root().join("opt")).unwrap();
    fs::write(trees.root().join("opt/kept"), "").unwrap();
    let filter = trees.file("filter", "/opt/kept\n");
    let filtered = ["--json", "--filter", &filter];
    let checked = is_as_documented(&trees.run("check", &filtered).expect(1), "check");
    assert_eq!(checked["verdict"], "deviant");
    assert_eq!(checked["deviations"][0]["what"], "contents");
    assert_eq!(checked["kept"][0], "/opt");
    let triggers = trees.file("triggers", r#"[{"MatchLines": ["/etc"], "Service": "s"}]"#);
    let with_triggers = ["--json", "--triggers", &triggers];
    let planned = trees.run("enforce", &[&filtered[..], &["--dry-run"]].concat()).expect(1);
    assert_eq!(is_as_documented(&planned, "enforce")["applied"], 0);
    let done = is_as_documented(&trees.run("enforce", &with_triggers).expect(0), "enforce");
    assert_eq!((&done["verdict"], &done["services"][0]["only_named"]), (&"compliant".into(), &true.into()));
    let root = trees.root();
    let scanned = dominate(&["scan", "--json", "--root", root.to_str().unwrap()]).expect(0);
    let scanned = is_as_documented(&scanned, "scan");
    assert_eq!(scanned["counts"]["symlinks"], 1);
    let nothing = dominate(&["--json", "check", "--image", "/no/such", "--root", "/no/such"]).expect(3);
    assert_eq!(nothing.out, "");
}

#[test]
fn json_says_what_could_not_be_looked_at() {
    let trees = Trees::of(|image| dominator_fs_testkit::chain(image, &"n".repeat(250), 17));
    let ended = dominate(&["scan", "--json", "--root", trees.image().to_str().unwrap()]).expect(2);
    assert_eq!(is_as_documented(&ended, "scan")["unknown"][0]["why"], "could not be read");
}

//! The schemas of `docs/schemas`: each has what readers need, and each command that prints JSON has one.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use dominator_testkit::{Outcome, binary};
use serde_json::Value;

fn schemas() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    let read = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).unwrap();
        let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&text).unwrap())
    };
    fs::read_dir(directory).unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// The commands that a tool's help lists.
fn commands(tool: &str) -> BTreeSet<String> {
    let help = Outcome::of(Command::new(binary(tool)).arg("-h")).success();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    // A shell prints what the commands in it print.
    names.filter(|name| !["help", "shell"].contains(name)).map(|name| format!("{tool}-{name}")).collect()
}

/// The properties below a schema that nothing is said of, and the objects that allow what is not described.
fn undescribed(schema: &Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{place}.{key}");
        if !property["description"].is_string() {
            found.push(place.clone());
        }
        found.extend(undescribed(property, &place));
    }
    if schema.get("properties").is_some() && schema["additionalProperties"] != Value::Bool(false) {
        found.push(format!("{place} is open"));
    }
    if schema.get("items").is_some() {
        found.extend(undescribed(&schema["items"], &format!("{place}[]")));
    }
    found
}

#[test]
fn each_schema_has_an_id_a_title_and_a_word_on_every_property() {
    for (name, schema) in schemas() {
        assert_eq!(schema["$id"], format!("urn:dominator:schema:{name}"));
        let title = schema["title"].as_str().unwrap();
        assert_eq!(title.replace(' ', "-"), format!("Output-of-{name}---json"));
        assert!(schema["description"].is_string(), "{name}");
        assert_eq!(undescribed(&schema, &name), Vec::<String>::new());
    }
}

#[test]
fn each_command_that_prints_json_has_a_schema_and_no_schema_is_left_over() {
    let tools = ["imagetool", "domtool", "subtool"];
    let promised: BTreeSet<String> = tools.into_iter().flat_map(commands).collect();
    let is_a_tools = |name: &String| tools.iter().any(|tool| name.starts_with(&format!("{tool}-")));
    let described = schemas().into_iter().map(|(name, _)| name).filter(is_a_tools).collect();
    assert!(promised.len() > 10, "{promised:?}");
    assert_eq!(promised, described);
}

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::path::Name;
use dominator_core::tree::Snapshot;
use serde_json::{Map, Value, json};

/// Entries by path, as the oracle writes both.
pub type Entries = BTreeMap<String, Value>;

/// What the oracle sees below `root`, but for paths that match one of `excludes`.
///
/// # Panics
/// When the oracle can't run, or can't read the tree.
pub fn observed(root: &Path, excludes: &[&str]) -> Entries {
    let output = oracle(excludes).arg(root).output().expect("python3 runs");
    assert!(output.status.success(), "the oracle failed: {}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut entry: Map<_, _> = serde_json::from_slice(line).expect("the oracle writes JSON");
            let path = entry.remove("path").expect("the oracle names the path");
            (path.as_str().expect("paths are text").to_owned(), Value::Object(entry))
        })
        .collect()
}

/// The paths at which two trees differ, and how; empty when they are the same.
///
/// # Panics
/// When the oracle can't run, or can't read a tree.
pub fn compared(one: &Path, other: &Path, excludes: &[&str]) -> String {
    let output = oracle(excludes).arg("--diff").args([one, other]).output().expect("python3 runs");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "the oracle failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A tree of ours in the oracle's words.
pub fn described(snapshot: &Snapshot) -> Entries {
    let mut entries = Entries::new();
    snapshot.walk(|path, inode| drop(entries.insert(path.to_string(), entry(inode))));
    for set in snapshot.links.iter() {
        let mut names: Vec<_> = set.iter().collect();
        // The oracle goes by bytes, where `/a-b` stands before `/a/b`.
        names.sort_by_key(|path| path.as_bytes());
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        for name in &names {
            if let Some(entry) = entries.get_mut(name).and_then(Value::as_object_mut) {
                entry.insert("links".into(), json!(names));
            }
        }
    }
    entries
}

fn oracle(excludes: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/oracle.py"));
    command.args(excludes.iter().map(|exclude| format!("--exclude={exclude}")));
    command
}

fn entry(inode: &Inode) -> Value {
    if inode.is_unknown() {
        return json!({"type": "unknown"});
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let xattrs: Map<_, _> = inode
        .xattrs
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).into(), hex(value).into()))
        .collect();
    let mut entry = Map::from_iter([
        ("type".to_owned(), json!(inode.kind_name())),
        ("mode".to_owned(), json!(inode.mode.to_string())),
        ("uid".to_owned(), json!(inode.uid)),
        ("gid".to_owned(), json!(inode.gid)),
        ("xattrs".to_owned(), Value::Object(xattrs)),
    ]);
    let mut more = |key: &str, value| drop(entry.insert(key.into(), value));
    match &inode.kind {
        Kind::Regular { mtime, size, object } => {
            more("mtime_ns", nanos(*mtime));
            more("size", json!(size));
            more("sha256", json!(object.to_string()));
        }
        Kind::Symlink { target } => more("target", json!(shown(target))),
        Kind::BlockDevice { mtime, device } | Kind::CharDevice { mtime, device } => {
            more("mtime_ns", nanos(*mtime));
            more("rdev", json!([device.major, device.minor]));
        }
        Kind::Fifo { mtime } => more("mtime_ns", nanos(*mtime)),
        Kind::Computed { .. } | Kind::Directory { .. } | Kind::Unknown { .. } | _ => {}
    }
    Value::Object(entry)
}

/// A target is no path of an image, but is shown as one is.
fn shown(target: &[u8]) -> String {
    let parts = target.split(|byte| *byte == b'/').map(|part| match part {
        b"" | b"." | b".." => String::from_utf8_lossy(part).into_owned(),
        part => part
            .chunks(Name::MAX_LEN)
            .filter_map(|part| Name::parse(part).ok())
            .map(|n| n.to_string())
            .collect(),
    });
    parts.collect::<Vec<_>>().join("/")
}

fn nanos(time: Timestamp) -> Value {
    json!(time.seconds() * 1_000_000_000 + i64::from(time.nanos()))
}

//! Values of which the golden files are.

use std::collections::BTreeMap;

use dominator_core::filter::Filter;
use dominator_core::health::HealthChecks;
use dominator_core::image::{Build, Document, Image, Package, Provenance};
use dominator_core::namespace::DirectoryMetadata;
use dominator_core::object::ObjectId;
use dominator_core::tree::Tree;
use dominator_core::trigger::Triggers;
use dominator_core::view::XattrPolicy;

/// An image of this tree with something of everything.
pub(crate) fn image(tree: Tree) -> Image {
    let json = br#"[{"MatchLines": ["/etc/ssh/.*"], "Service": "ssh", "SortName": "10", "DoReload": true}]"#;
    let words = |words: &[(&str, &str)]| -> BTreeMap<_, _> {
        words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let health = br#"{"Deadline": "2m", "Checks": [
        {"Name": "web answers", "Http": {"URL": "http://127.0.0.1/healthz"}, "Retries": 3},
        {"Name": "shell works", "Command": ["/bin/sh", "-c", "true"], "Timeout": "500ms"}
    ]}"#;
    Image {
        health: HealthChecks::from_json(health).unwrap(),
        created_by: "alice".into(),
        created_on: 1_700_000_000,
        expires_at: Some(1_800_000_000),
        annotations: words(&[("release-notes", "https://example.org/notes")]),
        tags: words(&[("stage", "test"), ("os", "debian")]),
        owner_users: vec!["bob".into(), "alice".into()],
        owner_groups: vec!["ops".into()],
        provenance: provenance(),
        ..Image::new(
            tree,
            Filter::parse("/var/log/.*").unwrap(),
            Triggers::from_json(json).unwrap(),
            XattrPolicy::ALL,
        )
    }
}

fn provenance() -> Provenance {
    let package =
        |name: &str, version: &str, size| Package { name: name.into(), version: version.into(), size };
    Provenance {
        created_for: "carol".into(),
        release_notes: Some(Document::Url("https://example.org/notes".parse().unwrap())),
        build_log: Some(Document::Object(ObjectId::of(b"it was built"))),
        build: Build {
            branch: "main".into(),
            commit_id: "0123abcd".into(),
            git_url: "https://example.org/web.git".into(),
        },
        packages: vec![package("openssh-server", "1:9.2p1-2", 1_536_000), package("bash", "5.2", 7_163_904)],
        source_image: Some("base/1".parse().unwrap()),
    }
}

/// A directory of images that belongs to somebody.
pub(crate) fn metadata() -> DirectoryMetadata {
    DirectoryMetadata { owner_group: Some("web admins".parse().unwrap()) }
}

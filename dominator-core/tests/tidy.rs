//! The rules of the house that a machine can check.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file of the project with that ending, relative to the workspace.
fn files(ending: &str) -> Vec<PathBuf> {
    fn collect(root: &Path, directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with("target") && !name.starts_with('.') {
                    collect(root, &path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    collect(&workspace(), &workspace(), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {ending} files below {}", workspace().display());
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(workspace().join(path)).unwrap()
}

fn manifests() -> Vec<(PathBuf, toml::Table)> {
    let all = files("Cargo.toml").into_iter().map(|path| (path.clone(), read(&path).parse().unwrap()));
    all.filter(|(_, manifest): &(PathBuf, toml::Table)| manifest.contains_key("package")).collect()
}

/// The lines of a file that are code a user runs: no comments, and nothing from the tests on.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.to_owned()));
    let before_tests = lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    before_tests.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

fn is_source_of(crates: &[&str], path: &Path) -> bool {
    !path.ends_with("tests.rs") && crates.iter().any(|name| path.starts_with(format!("{name}/src")))
}

fn offences(paths: impl Iterator<Item = PathBuf>, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        for (number, line) in code(&path) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    found
}

#[test]
fn crates_depend_in_one_direction() {
    let layers: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("dominator-core", [].as_slice()),
        ("dominator-pki", &["dominator-core"]),
        ("dominator-fs", &["dominator-core"]),
        ("dominator-rpc", &["dominator-core", "dominator-pki"]),
    ]);
    for (path, manifest) in manifests() {
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let Some(allowed) = layers.get(name.as_str()) else { continue };
        for table in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for dependency in dependencies.keys().filter(|key| key.starts_with("dominator-")) {
                assert!(
                    allowed.contains(&dependency.as_str()),
                    "{}: {name} depends on {dependency}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn test_support_stays_out_of_what_users_build() {
    for (path, manifest) in manifests() {
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        if name.ends_with("-testkit") {
            continue;
        }
        if let Some(dependencies) = manifest.get("dependencies").and_then(toml::Value::as_table) {
            let kits: Vec<_> = dependencies.keys().filter(|key| key.ends_with("-testkit")).collect();
            assert!(kits.is_empty(), "{}: {kits:?} are for tests", path.display());
        }
    }
}

#[test]
fn every_package_takes_lints_version_and_dependencies_from_the_workspace() {
    for (path, manifest) in manifests() {
        let shown = path.display();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{shown}");
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for (name, dependency) in dependencies {
                let shared = dependency.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(shared, "{shown}: {name} is not one of [workspace.dependencies]");
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    let lengths: Vec<_> = files(".rs").into_iter().map(|path| (read(&path).lines().count(), path)).collect();
    let long: Vec<_> = lengths.iter().filter(|(length, _)| *length > 800).collect();
    assert!(long.is_empty(), "over 800 lines: {long:?}");
    let over = lengths.iter().filter(|(length, _)| *length > 500).count();
    assert!(over * 20 <= lengths.len(), "{over} of {} files have over 500 lines; 5 % may", lengths.len());
}

#[test]
fn binaries_are_thin() {
    for path in files("main.rs").into_iter().filter(|path| path.starts_with("bins")) {
        let lines = read(&path).lines().count();
        assert!(lines <= 150, "{}: {lines} lines", path.display());
    }
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    let words = [
        "std::fs",
        "std::io",
        "std::net",
        "std::process",
        "std::env",
        "std::thread",
        "std::os",
        "Instant",
        "SystemTime",
        "tokio",
        "rustix",
        "nix::",
        "println!",
    ];
    let sources = files(".rs").into_iter().filter(|path| is_source_of(&["dominator-core"], path));
    assert_eq!(offences(sources, &words), Vec::<String>::new());
}

#[test]
fn only_two_places_rename_and_make_durable() {
    // What the seam defines, `publish` calls; the key store has files of its own.
    let allowed = ["dominator-fs/src/seam.rs", "dominator-fs/src/publish.rs", "dominator-pki/src/keystore"];
    let words = [
        ".rename(",
        "::rename",
        "renameat",
        "rename_with",
        "fsync(",
        "sync_all(",
        "sync_data(",
        "syncfs(",
        "persist(",
        "std::fs::write(",
        "fs::write(",
    ];
    let libraries = ["dominator-core", "dominator-fs", "dominator-rpc", "dominator-pki"];
    let watched = files(".rs").into_iter().filter(|path| is_source_of(&libraries, path));
    let watched =
        watched.filter(|path| !allowed.iter().any(|place| path.to_string_lossy().starts_with(place)));
    assert_eq!(offences(watched, &words), Vec::<String>::new());
}

#[test]
fn libraries_print_nothing_and_never_exit() {
    let libraries = ["dominator-core", "dominator-fs", "dominator-rpc", "dominator-pki"];
    let sources = files(".rs").into_iter().filter(|path| is_source_of(&libraries, path));
    let words = ["println!", "eprintln!", "process::exit", "todo!", "unimplemented!", "anyhow"];
    assert_eq!(offences(sources, &words), Vec::<String>::new());
}

#[test]
fn unsafe_code_is_forbidden_where_none_is_needed() {
    for name in ["dominator-core", "dominator-rpc", "dominator-pki"] {
        let lib = read(Path::new(&format!("{name}/src/lib.rs")));
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}

#[test]
fn no_banned_and_no_doubled_crate_is_locked() {
    let banned =
        ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "protoc-bin-vendored", "tough"];
    // Crates of which two versions come in through others, with the reason.
    let doubled_on_purpose: BTreeMap<&str, &str> = BTreeMap::from(DOUBLED);
    let lock: toml::Table = read(Path::new("Cargo.lock")).parse().unwrap();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.contains(&name), "{name} is banned");
        versions.entry(name.into()).or_default().insert(package["version"].as_str().unwrap().into());
    }
    let doubled: Vec<_> = versions
        .iter()
        .filter(|(name, versions)| versions.len() > 1 && !doubled_on_purpose.contains_key(name.as_str()))
        .collect();
    assert!(doubled.is_empty(), "more than one version of: {doubled:?}");
    for name in doubled_on_purpose.keys() {
        assert!(
            versions.get(*name).is_some_and(|versions| versions.len() > 1),
            "{name} is no longer doubled"
        );
    }
}

/// Crates of which more than one version is locked, and why.
const DOUBLED: [(&str, &str); 7] = [
    ("base64", "tonic has the older, pem (of rcgen) the newer"),
    ("getrandom", "ring has the older"),
    ("hashbrown", "petgraph (of prost-build, when building) has the older"),
    ("itertools", "criterion, prost-build and prost-derive each have their own"),
    ("syn", "asn1-rs and logos derive with the older, when building"),
    ("unicode-width", "miette (of protox, when building) has the older"),
    ("windows-sys", "ring has the older; not built on Linux"),
];

#[test]
fn the_top_level_is_the_design_card() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "dominator-core",
        "dominator-fs",
        "dominator-rpc",
        "dominator-pki",
        "bins",
        "examples",
        "benches",
        "README.md",
        "ARCHITECTURE.md",
        "THREATS.md",
        "LICENSE",
        "deny.toml",
        "docs",
        "clippy.toml",
        "rustfmt.toml",
    ];
    for entry in fs::read_dir(workspace()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || name.starts_with("target");
        assert!(hidden || allowed.contains(&name.as_str()), "{name} does not belong to the top level");
    }
}

#[test]
fn services_say_which_methods_they_need() {
    for (daemon, method) in [
        ("subd", "ObjectServer.GetObjects"),
        ("dominator", "Subd.*"),
        ("imageserver", "ImageServer.GetImage"),
    ] {
        let folder = PathBuf::from(format!("bins/{daemon}"));
        let methods = read(&folder.join("required-methods"));
        assert!(methods.lines().any(|line| line == method), "{daemon} does not ask for {method}");
        assert!(
            read(&folder.join(format!("{daemon}.service"))).contains("ExecStart="),
            "{daemon} has no unit"
        );
        assert!(read(&folder.join(format!("{daemon}.toml"))).parse::<toml::Table>().is_ok(), "{daemon}.toml");
    }
}

#[test]
fn every_test_the_documents_name_exists() {
    let mut named = 0;
    for document in ["THREATS.md", "docs/track-record.md"] {
        for part in read(Path::new(document)).split(['|', ';', '\n']) {
            // `file.rs` · `test`, `test`
            let Some((file, tests)) = part.trim().split_once(" · ") else { continue };
            let Some(file) = file.strip_prefix('`').and_then(|file| file.strip_suffix('`')) else { continue };
            let path = workspace().join(file);
            let source = fs::read_to_string(&path)
                .unwrap_or_else(|_| panic!("{document} names {file}, which is not there"));
            for test in tests.split('`').skip(1).step_by(2) {
                assert!(source.contains(&format!("fn {test}(")), "{document}: {file} has no test {test}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "only {named} tests are named: the form of the tables has changed");
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for (path, manifest) in manifests() {
        let folder = path.parent().unwrap();
        let sources: String = files(".rs")
            .iter()
            .filter(|source| {
                let Ok(inside) = source.strip_prefix(folder) else { return false };
                // Packages that lie within this one have manifests of their own.
                !inside.starts_with("testkit")
            })
            .map(|source| read(source))
            .collect();
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for name in dependencies.keys().filter(|name| !ONLY_GENERATED.contains(&name.as_str())) {
                if !sources.contains(&name.replace('-', "_")) {
                    unused.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert_eq!(unused, Vec::<String>::new());
}

/// Used by generated code only.
const ONLY_GENERATED: [&str; 2] = ["prost", "tonic-prost"];

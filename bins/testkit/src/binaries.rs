use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::Outcome;

/// What is tried here, as packages and as programs.
const PROGRAMS: [&str; 10] = [
    "subd",
    "imageserver",
    "dominator",
    "imagetool",
    "domtool",
    "subtool",
    "list-methods",
    "logtool",
    "make-cert",
    "show-cert",
];

/// The program of that name, of the profile this test was built with. It is built at the first call, or taken from the
/// directory that `DOMINATOR_BIN_DIR` names.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| match env::var_os("DOMINATOR_BIN_DIR") {
        Some(directory) => directory.into(),
        None => build(),
    });
    let path = directory.join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// The recovery program, linked statically, as it is on machines.
pub fn recovery_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let built = || {
        let bins = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: testkit lies in bins");
        let said = Outcome::of(&mut Command::new(bins.join("recover/build"))).success();
        let (path, _size) = said.trim().rsplit_once(": ").expect("it says where it is, and its size");
        bins.parent().expect("invariant: bins lies in the workspace").join(path)
    };
    PROGRAM.get_or_init(built).clone()
}

/// Cargo does not build the programs of other packages for a test.
fn build() -> PathBuf {
    let test = env::current_exe().expect("invariant: a test is a file");
    let directory = test.ancestors().nth(2).expect("invariant: tests lie in TARGET/PROFILE/deps").to_owned();
    let target = directory.parent().expect("invariant: tests lie in TARGET/PROFILE/deps");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args(["build", "--quiet", "--bins"]);
    cargo.args(["--profile", profile, "--target-dir"]).arg(target);
    for program in PROGRAMS {
        cargo.args(["--package", program]);
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the programs can't be built: {cargo:?}");
    directory
}

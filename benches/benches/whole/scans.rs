//! Scans: of everything, of what did not change, and of what changed a little.

use std::cell::RefCell;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dominator_benches::bare;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Scanner};

use crate::THREADS;
use dominator_benches::contender::{Contender, Series, compete, run};
use dominator_benches::table::Bar;

const HASH: &str = "bare loop: open, read, SHA-256";
const HASH_CHANGED: &str = "bare loop over the changed files";
const WALK: &str = "bare walk: getdents, statx";
const CALL: &str = "full scan, library";
const SCAN: &str = "full scan, `dominate scan`";
const UNCHANGED_CALL: &str = "nothing changed, library";
const UNCHANGED: &str = "nothing changed, `dominate scan --state`";
const CHANGED_CALL: &str = "20 files changed, library";
const CHANGED: &str = "20 files changed, `dominate scan --state`";
const FIND: &str = "`find -size +100000G`";
const OPENSSL: &str = "`openssl dgst -sha256`, 2 processes";
const SHA512: &str = "`sha512sum`, 2 processes";

/// Scans `root` in all ways, and lets others do the same.
pub(crate) fn measure(root: &Path, dominate: &Path, rounds: usize) -> Vec<Series> {
    let files = bare::files(root).unwrap();
    let chosen = Chosen::of(&files);
    // Nothing writes through mappings here, so nothing can be hidden: what was just made counts as settled.
    let scanner = Scanner::new(Root::open(root).unwrap(), Arc::new(View::everything()))
        .threads(THREADS)
        .write_back_expiry(Duration::ZERO);
    let cache = RefCell::new(Cache::new());
    let rescan = || scanner.rescan(&mut cache.borrow_mut(), &Cancel::default()).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let state = kept.path().join("state");
    let scan = || {
        let mut scan = Command::new(dominate);
        scan.args(["scan", "--threads", "2", "--root"]).arg(root);
        scan
    };
    let rescan_process = || {
        let mut scan = scan();
        scan.args(["--write-back-expiry", "0s", "--state"]).arg(&state);
        scan
    };
    let shell = |name, line| Contender::shell(name, line, root);
    let contenders = vec![
        Contender::call(HASH, || hash(&files)),
        Contender::call(CALL, || drop(scanner.scan(&Cancel::default()).unwrap())),
        Contender::process(SCAN, scan()),
        shell(OPENSSL, r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 openssl dgst -sha256 -r"#),
        shell(SHA512, r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 sha512sum"#),
        Contender::call(WALK, || walk(root)),
        shell(FIND, r#"find "$ROOT" -size +100000G"#),
        Contender::call(UNCHANGED_CALL, || assert_eq!(rescan().files_opened, 0)).after(|| drop(rescan())),
        Contender::process(UNCHANGED, rescan_process()).after(|| run(&mut rescan_process())),
        Contender::call(HASH_CHANGED, || hash(&chosen.0)),
        Contender::call(CHANGED_CALL, || assert_eq!(rescan().files_opened, chosen.len()))
            .after(|| chosen.change()),
        Contender::process(CHANGED, rescan_process()).after(|| chosen.change()),
    ];
    compete(contenders, rounds)
}

fn hash(files: &[PathBuf]) {
    black_box(bare::hash(files, THREADS).unwrap());
}

fn walk(root: &Path) {
    black_box(bare::walk(root, THREADS).unwrap());
}

/// What is promised of the scans of this corpus.
pub(crate) fn bars(corpus: &str, times: &[Series]) -> Vec<Bar> {
    let of = |name| times.iter().find(|series| series.name == name).unwrap();
    let full = format!("full scan of {corpus}");
    let (bare, openssl) = if corpus == "A" { (1.20, Some(0.60)) } else { (1.25, None) };
    let mut bars =
        vec![Bar::ratio(&full, of(CALL), &[of(HASH)], bare), Bar::ratio(&full, of(SCAN), &[of(HASH)], bare)];
    bars.extend(openssl.map(|limit| Bar::ratio(&full, of(SCAN), &[of(OPENSSL)], limit)));
    let again = format!("scan of {corpus} again");
    for (unchanged, changed) in [(UNCHANGED_CALL, CHANGED_CALL), (UNCHANGED, CHANGED)] {
        bars.push(Bar::ratio(&again, of(unchanged), &[of(FIND)], 1.0));
        bars.push(Bar::ratio(&again, of(changed), &[of(FIND), of(HASH_CHANGED)], 1.0));
    }
    bars
}

/// Files that are changed and changed back. They have one name and at most 200 KB.
struct Chosen(Vec<PathBuf>);

impl Chosen {
    /// Twenty, evenly spread.
    fn of(files: &[PathBuf]) -> Self {
        let fits = |path: &&PathBuf| {
            let found = fs::symlink_metadata(path).unwrap();
            found.nlink() == 1 && (1..=200_000).contains(&found.len())
        };
        let mut fitting: Vec<_> = files.iter().filter(fits).cloned().collect();
        fitting.sort();
        let step = (fitting.len() / 20).max(1);
        Self(fitting.into_iter().step_by(step).take(20).collect())
    }

    fn len(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap()
    }

    /// Turns every bit over: done twice, everything is as it was.
    fn change(&self) {
        for path in &self.0 {
            let changed: Vec<u8> = fs::read(path).unwrap().iter().map(|byte| !byte).collect();
            fs::write(path, changed).unwrap();
        }
    }
}

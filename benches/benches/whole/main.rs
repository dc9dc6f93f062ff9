//! Whole scans against what Debian's own tools and bare loops need for the same, in one run on two cores.
//!
//!     cargo bench -p dominator-benches --bench whole -- --corpora DIR
//!
//! makes the corpora in DIR if they are not there, measures, and prints tables. With `--test` it makes small ones in a
//! temporary directory, runs everything once, and judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::panic, missing_docs)]

mod contender;
mod memory;
mod table;

use std::env;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Parser;
use contender::{Contender, Series, compete};
use dominator_benches::{bare, corpus};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use rustix::thread::{CpuSet, sched_setaffinity};
use table::{Bar, Report};

/// Measures scans.
#[derive(Parser)]
struct Options {
    /// Where the corpora are, or are made: 2 GB. What is measured changes some files of them and changes them back
    #[arg(long, value_name = "DIR", required_unless_present_any = ["test", "memory"])]
    corpora: Option<PathBuf>,
    /// How often everybody runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// The two cores to stay on
    #[arg(long, value_name = "CORES", value_delimiter = ',', default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// Write all figures into this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be a process whose memory is measured
    #[arg(long, hide = true)]
    memory: Option<memory::Task>,
}

/// How many threads everybody has.
const THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

fn main() {
    let options = Options::parse();
    if let Some(task) = &options.memory {
        return memory::carry_out(task);
    }
    if options.test {
        let made = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| made.path().join(name));
        fs::create_dir(&b).unwrap();
        corpus::like_a_system(&a, 1000).unwrap();
        corpus::many_small(&b, corpus::Size { files: 2000, links: 20 }).unwrap();
        println!("{}", measure([&a, &b], 1, 100_000));
    } else {
        let directory = options.corpora.as_deref().expect("invariant: clap requires it");
        let [a, b] = corpus::kept(directory).unwrap();
        pin(&options.cores);
        let report = measure([&a, &b], options.rounds, 5_000_000);
        println!("{report}");
        if let Some(json) = &options.json {
            fs::write(json, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
        }
    }
}

/// Keeps this process and all it starts on these cores.
fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).unwrap();
}

fn measure([a, b]: [&Path; 2], rounds: usize, synthetic: u64) -> Report {
    let dominate = dominate();
    let mut report = Report::default();
    let times = full(a, &dominate, rounds);
    report.bars.extend(full_bars("A", &times, 1.20));
    report.bars.push(Bar::ratio("full scan of A", of(&times, SCAN), of(&times, OPENSSL), 0.60));
    report.times.push(("A".into(), times));
    let times = full(b, &dominate, rounds);
    report.bars.extend(full_bars("B", &times, 1.25));
    report.times.push(("B".into(), times));
    report.bars.extend(memory::bars(a, synthetic));
    report
}

const HASH: &str = "bare loop: open, read, SHA-256";
const WALK: &str = "bare walk: getdents, statx";
const CALL: &str = "full scan, library";
const SCAN: &str = "`dominate scan`";
const FIND: &str = "`find -size +100000G`";
const OPENSSL: &str = "`openssl dgst -sha256`, 2 processes";
const SHA512: &str = "`sha512sum`, 2 processes";

fn full(root: &Path, dominate: &Path, rounds: usize) -> Vec<Series> {
    let files = bare::files(root).unwrap();
    let scanner = Scanner::new(Root::open(root).unwrap(), Arc::new(View::everything())).threads(THREADS);
    let mut scan = Command::new(dominate);
    scan.args(["scan", "--threads", "2", "--root"]).arg(root);
    let contenders = vec![
        Contender::call(HASH, || {
            black_box(bare::hash(&files, THREADS).unwrap());
        }),
        Contender::call(CALL, || drop(scanner.scan(&Cancel::default()).unwrap())),
        Contender::process(SCAN, scan),
        Contender::shell(
            OPENSSL,
            r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 openssl dgst -sha256 -r"#,
            root,
        ),
        Contender::shell(SHA512, r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 sha512sum"#, root),
        Contender::call(WALK, || {
            black_box(bare::walk(root, THREADS).unwrap());
        }),
        Contender::shell(FIND, r#"find "$ROOT" -size +100000G"#, root),
    ];
    compete(contenders, rounds)
}

fn full_bars(corpus: &str, times: &[Series], limit: f64) -> [Bar; 2] {
    let work = format!("full scan of {corpus}");
    [CALL, SCAN].map(|ours| Bar::ratio(&work, of(times, ours), of(times, HASH), limit))
}

fn of<'a>(times: &'a [Series], name: &str) -> &'a Series {
    times.iter().find(|series| series.name == name).unwrap()
}

/// The program: built now, or taken from the directory that `DOMINATOR_BIN_DIR` names.
fn dominate() -> PathBuf {
    if let Some(directory) = env::var_os("DOMINATOR_BIN_DIR") {
        return PathBuf::from(directory).join("dominate");
    }
    let own = env::current_exe().unwrap();
    let directory = own.ancestors().nth(2).expect("invariant: benchmarks lie in TARGET/PROFILE/deps");
    let target = directory.parent().expect("invariant: benchmarks lie in TARGET/PROFILE/deps");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--package", "dominate", "--target-dir"]).arg(target);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "{cargo:?}");
    target.join("release/dominate")
}

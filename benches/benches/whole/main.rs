//! Whole scans against what Debian's own tools and bare loops need for the same, in one run on two cores.
//!
//!     cargo bench -p dominator-benches --bench whole -- --corpora DIR
//!
//! makes the corpora in DIR if they are not there, measures, and prints tables. With `--test` it makes small ones in a
//! temporary directory, runs everything once, and judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::panic, missing_docs)]

mod criterion;
mod memory;
mod scans;

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use dominator_benches::corpus;
use dominator_benches::table::Report;
use rustix::thread::{CpuSet, sched_setaffinity};

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
    for (name, root) in [("A", a), ("B", b)] {
        let times = scans::measure(root, &dominate, rounds);
        report.bars.extend(scans::bars(name, &times));
        report.times.push((name.into(), times));
    }
    report.bars.extend(memory::bars(a, synthetic));
    report.bars.extend(criterion::bars());
    report
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

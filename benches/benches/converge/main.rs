//! Whole updates of a machine by real daemons, against what copying, hashing and renaming the same files takes:
//!
//!     cargo bench -p dominator-benches --bench converge -- --corpora DIR
//!
//! makes the corpora in DIR if they are not there, measures, and prints tables; needs root. All it mounts and starts
//! lives in name spaces that end with it, however it ends. With `--test` it runs everything once over small trees and
//! judges nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod alone;
mod disk;
mod fleet;
mod measure;
mod renames;
mod undo;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use dominator_benches::corpus::{self, Change};
use dominator_benches::table::Report;
use measure::Trees;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Measures updates.
#[derive(Parser)]
struct Options {
    /// Where the corpora are, or are made: 4 GB, and as much again for disks while it measures
    #[arg(long, value_name = "DIR", required_unless_present = "test")]
    corpora: Option<PathBuf>,
    /// How often everything is done
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u8,
    /// The two cores to stay on
    #[arg(long, value_name = "CORES", value_delimiter = ',', default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// Write all figures into this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only what the library does by itself, without daemons: change windows and their yardsticks
    #[arg(long)]
    library: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the one that measures, with name spaces of its own
    #[arg(long, hide = true)]
    alone: bool,
}

fn main() {
    let options = Options::parse();
    if options.alone {
        let report = alone(&options);
        println!("{report}");
        if let Some(json) = &options.json {
            fs::write(json, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
        }
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(env::var_os("CI").is_none(), "the updates of machines need root");
        return println!("converge was not run: it needs root");
    }
    // What takes long and needs no name spaces.
    if let Some(directory) = &options.corpora {
        corpus::kept_changes(directory).unwrap();
    }
    // The library needs none of them.
    let program =
        if options.library { env::current_exe().unwrap() } else { dominator_testkit::binary("subd") };
    alone::measure(program.parent().unwrap());
}

/// What is done within the name spaces.
fn alone(options: &Options) -> Report {
    pin(&options.cores);
    let images = options.corpora.clone().unwrap_or_else(env::temp_dir);
    let places = images.join(".converge");
    alone::private_mounts(&places);
    let size = if options.test { 256 << 20 } else { 4 << 30 };
    let disks = disk::Disks { images, places, size };
    // A server's state, certificates and what the library stores lie on a disk that vanishes as well.
    let scratch = disks.mount("scratch");
    let trees = match (&options.corpora, options.test) {
        (Some(directory), false) => corpus::kept_changes(directory).unwrap(),
        _ => small_trees(scratch.path()),
    };
    let rounds = if options.test { 1 } else { options.rounds };
    let [a, small, ten] = trees;
    let trees = Trees { a, small, ten };
    if options.library {
        measure::library(&disks, &trees, rounds)
    } else {
        measure::all(&disks, &scratch, &trees, rounds)
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

fn small_trees(directory: &Path) -> [PathBuf; 3] {
    let [a, small, ten] = ["a", "a-small", "a-ten"].map(|name| directory.join(name));
    corpus::like_a_system(&a, 400).unwrap();
    for (copy, files) in [(&small, 4), (&ten, 40)] {
        corpus::changed(&a, copy, &Change { files, sizes: 1..=40_000 }).unwrap();
    }
    [a, small, ten]
}

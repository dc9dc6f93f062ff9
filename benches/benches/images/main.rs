//! What an image server can do, against what hashing, archiving and a bare TLS stream of the same bytes take:
//!
//!     cargo bench -p dominator-benches --bench images -- --corpora DIR
//!
//! makes the corpora in DIR if they are not there, measures, and prints tables; needs root. Server and clients share two
//! cores. All it mounts and starts lives in name spaces that end with it, however it ends. With `--test` it runs everything
//! once over small trees and judges nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

#[path = "../converge/alone.rs"]
mod alone;
mod crowd;
#[path = "../converge/disk.rs"]
mod disk;
mod many;
mod measure;
mod server;
mod stream;

use std::env;
use std::fs;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use dominator_benches::corpus::{self, Change};
use dominator_benches::table::Report;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Measures an image server.
#[derive(Parser)]
struct Options {
    /// Where the corpora are, or are made: 4 GB, and 8 GB more for disks while it measures
    #[arg(long, value_name = "DIR", required_unless_present = "test")]
    corpora: Option<PathBuf>,
    /// How often everything is done
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// How many images a server has that has many
    #[arg(long, value_name = "N", default_value_t = 200)]
    images: u32,
    /// How many clients come at once
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clients: u32,
    /// What is measured
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Part::Tool, Part::Stream, Part::Crowd, Part::Many])]
    parts: Vec<Part>,
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
    /// Be the one that measures, with name spaces of its own
    #[arg(long, hide = true)]
    alone: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Adding and getting an image.
    Tool,
    /// Objects against a bare stream.
    Stream,
    /// Many clients at once.
    Crowd,
    /// Many images.
    Many,
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
        assert!(env::var_os("CI").is_none(), "images of machines need root");
        return println!("images was not run: it needs root");
    }
    // What takes long and needs no name spaces.
    if let Some(directory) = &options.corpora {
        corpus::kept_small_change(directory).unwrap();
    }
    let program = dominator_testkit::binary("imageserver");
    alone::measure(program.parent().unwrap());
}

/// What is done within the name spaces.
fn alone(options: &Options) -> Report {
    pin(&options.cores);
    let images = options.corpora.clone().unwrap_or_else(env::temp_dir);
    let places = images.join(".images");
    alone::private_mounts(&places);
    let size = if options.test { 512 << 20 } else { 8 << 30 };
    let disks = disk::Disks { images, places, size };
    let scratch = disks.mount("scratch");
    let [a, small] = match (&options.corpora, options.test) {
        (Some(directory), false) => corpus::kept_small_change(directory).unwrap(),
        _ => small_trees(scratch.path()),
    };
    let (rounds, images, clients) =
        if options.test { (1, 3, 20) } else { (options.rounds, options.images, options.clients) };
    let lab = server::Servers::new(&scratch);
    let mut report = Report::default();
    for part in &options.parts {
        let (bars, times) = match part {
            Part::Tool => measure::tool(&lab, &disks, [&a, &small], rounds),
            Part::Stream => stream::measure(&lab, &disks, &a, rounds),
            Part::Crowd => crowd::measure(&lab, &disks, clients),
            Part::Many => many::measure(&lab, &disks, &a, images),
        };
        report.bars.extend(bars);
        report.times.extend(times.map(|times| ("A".into(), times)));
    }
    report
}

/// Keeps this process and all it starts on these cores.
fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).unwrap();
}

fn small_trees(directory: &std::path::Path) -> [PathBuf; 2] {
    let [a, small] = ["a", "a-small"].map(|name| directory.join(name));
    corpus::like_a_system(&a, 400).unwrap();
    corpus::changed(&a, &small, &Change { files: 4, sizes: 1..=40_000 }).unwrap();
    [a, small]
}

//! What the other benchmarks of this package found the last time they ran, where they have something to prove.

use std::env;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use dominator_benches::table::{Bar, Unit};

/// Work, benchmark, and how long it may take, in seconds.
const BARS: [(&str, &str, f64); 4] = [
    ("plan between two trees of 32,000 entries that are equal", "equal/plan", 1e-6),
    ("the same with 20 changes", "20 changes/plan", 200e-6),
    ("the same with 10 % changed", "10 % changes/plan", 5e-3),
    ("filter of 200 lines over 1,000,000 paths, one core", "filter/lines", 0.2),
];

/// Those that ran in this target directory.
pub(crate) fn bars() -> Vec<Bar> {
    let own = env::current_exe().unwrap();
    let target = own.ancestors().nth(3).expect("invariant: benchmarks lie in TARGET/PROFILE/deps");
    let bar = |(work, benchmark, limit): (&str, &str, f64)| {
        let seconds = median(&target.join("criterion").join(benchmark))?;
        Some(Bar::at_most(work, format!("criterion, {benchmark}"), seconds, limit, Unit::Seconds))
    };
    BARS.into_iter().filter_map(bar).collect()
}

fn median(benchmark: &Path) -> Option<f64> {
    #[derive(Deserialize)]
    struct Estimates {
        median: Estimate,
    }
    #[derive(Deserialize)]
    struct Estimate {
        point_estimate: f64,
    }
    let estimates = fs::read(benchmark.join("new/estimates.json")).ok()?;
    let estimates: Estimates = serde_json::from_slice(&estimates).unwrap();
    Some(estimates.median.point_estimate / 1e9)
}

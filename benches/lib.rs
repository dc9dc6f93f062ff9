//! Only benchmarks, each against the bare limit of the machine it runs on: `cargo bench -p dominator-benches`.
#![forbid(unsafe_code)]

//! The scanner against the bare limits: reading and hashing the same files, whose names are known, and nothing else; and,
//! where nothing changed since the last scan, asking for the metadata of everything.
//!
//! The tree is generated, the same every time; or it is `DOMINATOR_BENCH_TREE`, which is only read. The page cache is
//! warm: what is measured is our own work, not the disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dominator_benches::{bare, corpus};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Scanner};

fn scan(criterion: &mut Criterion) {
    let generated = tempfile::tempdir().unwrap();
    let tree = std::env::var_os("DOMINATOR_BENCH_TREE").map_or_else(
        || {
            corpus::like_a_system(generated.path(), 4000).unwrap();
            generated.path().to_owned()
        },
        PathBuf::from,
    );
    let scanner = Scanner::new(Root::open(&tree).unwrap(), Arc::new(View::everything()));
    let bytes = scanner.scan(&Cancel::default()).unwrap().bytes_hashed;
    let files = bare::files(&tree).unwrap();
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    let all = std::thread::available_parallelism().unwrap();
    for threads in [NonZeroUsize::MIN, all] {
        group.bench_function(BenchmarkId::new("bare", threads), |bench| {
            bench.iter(|| bare::hash(&files, threads).unwrap());
        });
        group.bench_function(BenchmarkId::new("scanner", threads), |bench| {
            let scanner = scanner.clone().threads(threads);
            bench.iter(|| scanner.scan(&Cancel::default()).unwrap().snapshot.id());
        });
    }
    group.finish();
    // What was just made counts as settled: nothing writes to it.
    let scanner = scanner.threads(all).write_back_expiry(Duration::ZERO);
    let mut cache = Cache::new();
    let counts = scanner.rescan(&mut cache, &Cancel::default()).unwrap().counts;
    let mut group = criterion.benchmark_group("scan again");
    group.throughput(Throughput::Elements(counts.directories + counts.files + counts.symlinks));
    group.sample_size(10);
    group.bench_function("bare walk", |bench| bench.iter(|| bare::walk(&tree, all).unwrap()));
    group.bench_function("scanner", |bench| {
        bench.iter(|| scanner.rescan(&mut cache, &Cancel::default()).unwrap().snapshot.id());
    });
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);

//! The scanner against the bare limit: reading and hashing the same files, whose names are known, and nothing else.
//!
//! The tree is generated, the same every time; or it is `DOMINATOR_BENCH_TREE`, which is only read. The page cache is
//! warm: what is measured is our own work, not the disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use rayon::prelude::*;

fn scan(criterion: &mut Criterion) {
    let generated = tempfile::tempdir().unwrap();
    let tree = std::env::var_os("DOMINATOR_BENCH_TREE").map_or_else(
        || {
            generate(generated.path());
            generated.path().to_owned()
        },
        PathBuf::from,
    );
    let scanner = Scanner::new(Root::open(&tree).unwrap(), Arc::new(View::everything()));
    let bytes = scanner.scan(&Cancel::default()).unwrap().bytes_hashed;
    let files = files(&tree);
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    let all = std::thread::available_parallelism().unwrap();
    for threads in [NonZeroUsize::MIN, all] {
        group.bench_function(BenchmarkId::new("bare", threads), |bench| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build().unwrap();
            bench.iter(|| pool.install(|| files.par_iter().map(|file| bare(file)).count()));
        });
        group.bench_function(BenchmarkId::new("scanner", threads), |bench| {
            let scanner = scanner.clone().threads(threads);
            bench.iter(|| scanner.scan(&Cancel::default()).unwrap().snapshot.id());
        });
    }
    group.finish();
}

/// 4000 files in 200 directories, 160 MB: sizes as in an operating system, most small, few large.
fn generate(root: &Path) {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for number in 0..4000 {
        let dir = root.join(format!("{}/{}", number % 20, number % 200));
        fs::create_dir_all(&dir).unwrap();
        let size = if number % 100 == 0 { next() % 4_000_000 } else { next() % 40_000 };
        let bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
        fs::write(dir.join(number.to_string()), bytes).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(self::files(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

fn bare(path: &Path) -> ObjectId {
    let (mut file, mut hasher, mut buffer) =
        (File::open(path).unwrap(), ObjectHasher::new(), vec![0; 128 * 1024]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return black_box(hasher.finish()),
            len => hasher.update(buffer.get(..len).unwrap()),
        }
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);

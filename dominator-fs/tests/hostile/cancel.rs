//! Scans that are told to end, again and again.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Progress, ScanError, Scanner};

const MIB: u64 = 1 << 20;

/// Scans until some more was read, or to the end.
fn a_little_further(dir: &Path, cache: &mut Cache) -> Result<u64, ScanError> {
    let (cancel, progress) = (Cancel::default(), Arc::new(Progress::default()));
    let scanner = Scanner::new(Root::open(dir).unwrap(), Arc::new(View::everything()));
    let scanner = scanner.threads(NonZeroUsize::MIN).progress(Arc::clone(&progress));
    std::thread::scope(|scope| {
        let scan = scope.spawn(|| scanner.rescan(cache, &cancel));
        while progress.bytes() < 4 * MIB && !scan.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        scan.join().unwrap().map(|scan| scan.bytes_hashed)
    })
}

#[test]
fn a_file_that_is_gone_does_not_keep_another_from_being_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let large = |name: &str, size| File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
    let mut cache = Cache::new();
    large("gone", 1 << 40);
    assert!(matches!(a_little_further(dir.path(), &mut cache), Err(ScanError::Cancelled)));
    fs::remove_file(dir.path().join("gone")).unwrap();
    large("stays", 64 * MIB);
    let ended = (0..1_000).find_map(|_| a_little_further(dir.path(), &mut cache).ok());
    assert!(ended.is_some_and(|rest| rest < 64 * MIB), "{ended:?}");
}

//! Writes that move no time, found by the scrub wherever they are.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::view::View;
use dominator_fs::pace::Pacer;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Scanner, Scrub};
use dominator_fs_testkit::{chain, left_out};

/// A process that has written to a file through a mapping, and will do so again.
struct Writer(Child);

impl Writer {
    fn begin(file: &Path) -> Self {
        const WRITE: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    mapping = mmap.mmap(file.fileno(), 0)
for letter in b'XY':
    mapping[0] = letter
    print('written', flush=True)
    sys.stdin.readline()
";
        let mut command = Command::new("python3");
        command.args(["-c", WRITE]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut writer = Self(command.spawn().unwrap());
        writer.has_written();
        writer
    }

    fn write_again(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.has_written();
    }

    fn has_written(&mut self) {
        let mut said = [0; 8];
        self.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"written\n");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// File-systems in memory, which write nothing back, notice only the first write through a mapping: the time does not
/// move for others. Here it is done as deep as it can be, and found with no more stack than the threads of a service have.
#[test]
fn a_write_that_moves_no_time_is_found_however_deep_it_is() {
    const TEST: &str = "scrub::a_write_that_moves_no_time_is_found_however_deep_it_is";
    const DEPTH: usize = 2_000;
    const STACK: usize = 2 << 20;
    if !Path::new("/dev/shm").is_dir() {
        return left_out(TEST, "there is no file-system in memory");
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    chain(dir.path(), "d", DEPTH);
    let file = dir.path().join("d/".repeat(DEPTH)).join("bottom");
    std::fs::write(&file, b"as it was").unwrap();
    std::fs::hard_link(&file, dir.path().join("another-name")).unwrap();
    let mut writer = Writer::begin(&file);
    let root = Root::open(dir.path()).unwrap();
    let scanner = Scanner::new(root.clone(), Arc::new(View::everything())).threads(NonZeroUsize::MIN);
    let scanner = scanner.write_back_expiry(Duration::ZERO);
    let (mut cache, cancel) = (Cache::new(), Cancel::default());
    let before = scanner.rescan(&mut cache, &cancel).unwrap();
    writer.write_again();
    let unseen = scanner.rescan(&mut cache, &cancel).unwrap();
    assert_eq!((unseen.snapshot.id(), unseen.files_opened), (before.snapshot.id(), 0), "the time moved");
    let scrub = || {
        let now = Timestamp::new(1_000_000, 0).unwrap();
        let step = Scrub::new(Scrub::DAY).step(&root, &mut cache, now, &Pacer::unlimited(), &cancel);
        (step, scanner.rescan(&mut cache, &cancel).unwrap())
    };
    let (step, seen) = std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, scrub).unwrap().join().unwrap()
    });
    let found: Vec<_> = step.corrupt.iter().map(|corruption| corruption.found).collect();
    assert_eq!(found, [ObjectId::of(b"Ys it was")]);
    assert!(seen.snapshot.objects().contains_key(&found[0]));
    assert_eq!(seen.facts, [], "its names disagree");
}

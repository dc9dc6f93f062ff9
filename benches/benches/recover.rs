//! How long a machine waits for the recovery program before it goes on starting, by what it finds; and how large it is. As
//! root on a disk of its own, an ext4 in a file, that is mounted anew before each start: nothing of it is in memory.
//!
//! ```text
//! bins/recover/build && cargo bench -p dominator-benches --bench recover -- PROGRAM
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Journalled, Judged, Reason, Trial, Update, UpdateError, Updater};
use dominator_fs_testkit::scenario::{objects_for, plan_between, view_of};
use dominator_fs_testkit::{Call, Disk, Tap, Tapped, with_mounts};
use rustix::io::Errno;
use tempfile::TempDir;

const TRIAL: Trial = Trial { deadline: Duration::from_secs(60), judged: Judged::AfterServices };
const SIZE_BAR: u64 = 3 << 20;
const TIME_BAR: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Options {
    /// As bins/recover/build says
    program: Option<PathBuf>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
}

fn main() {
    let Options { program, test, .. } = Options::parse();
    let Some(program) = program else {
        println!("recover: which program? bins/recover/build says where it is");
        return;
    };
    let files = if test { 600 } else { 60_000 };
    if rustix::process::geteuid().is_root() {
        with_mounts("recover", move || table(&program, files, Ground::disk));
    } else {
        table(&program, files, || Ground::Directory(tempfile::tempdir().unwrap()));
    }
}

fn table(program: &Path, files: usize, ground: fn() -> Ground) {
    println!("A machine of {files} files, of which an update changes a tenth:\n");
    println!("| what the recovery program finds | seen | bar | holds |\n|---|---|---|---|");
    let size = fs::metadata(program).unwrap().len();
    println!("| its own size | {size} bytes | ≤ {SIZE_BAR} | {} |", holds(size <= SIZE_BAR));
    let none = ground();
    tell("no journal", none.started(program));
    drop(none);
    let after = Arc::new(tempfile::tempdir().unwrap());
    fill(after.path(), files, "new");
    let start = |what: &str, prepare: fn(&Machine)| {
        let ground = ground();
        fill(&ground.root(), files, "old");
        let cut = Arc::new(CutOff(AtomicUsize::new(CutOff::NEVER)));
        let machine = Machine { ground, after: Arc::clone(&after), cut, changed: files / 10 };
        prepare(&machine);
        tell(what, machine.ground.started(program));
    };
    start("cut off half-way through its renames: finished", Machine::half_swapped);
    start("cut off before it was noted: finished", Machine::swapped);
    start("on trial, first start: counted", Machine::on_trial);
    start("on trial, second start: undone", Machine::booted);
    start("cut off half-way through being undone: undone", Machine::half_undone);
}

fn tell(what: &str, took: Duration) {
    let millis = took.as_secs_f64() * 1000.0;
    println!("| {what} | {millis:.0} ms | < {} ms | {} |", TIME_BAR.as_millis(), holds(took < TIME_BAR));
}

fn holds(it: bool) -> &'static str {
    if it { "yes" } else { "**no**" }
}

/// Makes so many files, of which a tenth has contents of its own.
fn fill(root: &Path, files: usize, which: &str) {
    for number in 0..files {
        let place = root.join(format!("{}", number / 50));
        if number % 50 == 0 {
            fs::create_dir(&place).unwrap();
        }
        let what = if number % 10 == 0 { which } else { "same" };
        let file = place.join(number.to_string());
        fs::write(&file, format!("{number} {what}").repeat(50)).unwrap();
        // A time of its own would be a change of metadata.
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    }
    drop(fs::remove_dir(root.join("lost+found")));
}

/// Where a machine is.
enum Ground {
    Disk(Disk),
    Directory(TempDir),
}

impl Ground {
    fn disk() -> Self {
        Self::Disk(Disk::made_with(2 << 30, &["-N", "300000"]).unwrap())
    }

    fn root(&self) -> PathBuf {
        match self {
            Self::Disk(disk) => disk.path(),
            Self::Directory(directory) => directory.path().to_owned(),
        }
    }

    /// How long the program takes when the machine starts. What was written before is on the disk by then.
    fn started(&self, program: &Path) -> Duration {
        match self {
            Self::Disk(disk) => disk.forget(),
            Self::Directory(_) => rustix::fs::sync(),
        }
        let began = Instant::now();
        let output = Command::new(program).args(["boot", "--root"]).arg(self.root()).output().unwrap();
        let took = began.elapsed();
        assert!(output.status.success(), "{output:?}");
        took
    }
}

/// A disk that takes nothing more from some rename on: what is on it then is what a kill leaves.
struct CutOff(AtomicUsize);

impl CutOff {
    const NEVER: usize = usize::MAX;

    fn takes(&self, renames: usize) {
        self.0.store(renames, Ordering::Relaxed);
    }
}

impl Tap for CutOff {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            Self::NEVER => return Ok(()),
            0 => return Err(Errno::IO.into()),
            left if matches!(call, Call::Rename(..)) => self.takes(left - 1),
            _ => {}
        }
        Ok(())
    }
}

struct Machine {
    ground: Ground,
    after: Arc<TempDir>,
    cut: Arc<CutOff>,
    /// How many an update changes.
    changed: usize,
}

impl Machine {
    fn open(&self) -> Updater {
        let root = Root::open(&self.ground.root()).unwrap();
        Updater::open(root, Arc::new(Tapped(Arc::clone(&self.cut)))).unwrap().0
    }

    fn prepared(&self, work: impl FnOnce(Update<'_, Journalled>)) {
        let plan = plan_between(&self.ground.root(), self.after.path());
        let view = view_of(&Root::open(&self.ground.root()).unwrap());
        let objects = objects_for(&plan, self.after.path());
        assert_eq!(plan.operations.len(), self.changed);
        let mut updater = self.open();
        let mut intake = updater.objects().intake();
        for (id, bytes) in objects {
            intake.begin(id, bytes.len() as u64).unwrap();
            intake.data(&bytes).unwrap();
        }
        intake.finish().unwrap();
        work(updater.begin(&plan, &view).unwrap().stage().unwrap().journal(b"", Some(TRIAL)).unwrap());
    }

    fn half_swapped(&self) {
        self.prepared(|update| {
            self.cut.takes(self.changed / 2);
            let halted = update.swap().map(drop).unwrap_err();
            assert!(matches!(halted, UpdateError::HalfMade { .. }), "{halted}");
        });
    }

    /// When all paths have changed, and nobody has waited for the disk.
    fn swapped(&self) {
        self.prepared(|update| drop(update.swap().unwrap()));
    }

    fn on_trial(&self) {
        self.prepared(|update| drop(update.swap().unwrap().commit().unwrap()));
    }

    fn booted(&self) {
        self.on_trial();
        let root = Root::open(&self.ground.root()).unwrap();
        drop(Updater::open_at_boot(root, Arc::new(Kernel), BootId::of(b"the first")).unwrap());
    }

    fn half_undone(&self) {
        self.on_trial();
        let mut updater = self.open();
        self.cut.takes(self.changed / 2);
        updater.undo_on_record(Reason::Overdue).unwrap_err();
    }
}

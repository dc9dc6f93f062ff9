//! Incremental scans against full ones, over random sequences of what may happen to files.
//!
//! By default some hundred sequences run, in seconds; `DOMINATOR_SEQUENCES=10000 cargo test --release -p dominator-fs
//! --test scan_incremental` runs as many as that. A sequence that fails is run again alone with
//! `DOMINATOR_SEQUENCE=<its number>`.
//!
//! They run in the directory for temporary files, on whatever file-system that is. On tmpfs a write through a shared
//! mapping never moves a time, however old the last one is: only a scrub finds it there, and so the mapped writer is
//! left out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod world;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::{Inode, Timestamp};
use dominator_core::path::ImagePath;
use dominator_core::view::{Granularity, View, XattrPolicy};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Clock, Scan, ScanError, Scanner};

use world::{Random, Times, World};

/// As kernels come, with a margin.
const EXPIRY: Duration = Duration::from_secs(36);

/// One tree, what happens to it, and the cache that must keep up with that.
struct Trial {
    world: World,
    times: Times,
    random: Random,
    root: Root,
    state: tempfile::TempDir,
    cache: Cache,
    view: Arc<View>,
    /// By how many seconds the scanner's clock is before that of the file-system.
    ahead: Arc<AtomicI64>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let world = World::new();
        let root = Root::open(world.root()).unwrap();
        Self {
            times: world.times(),
            world,
            random: Random::new(seed),
            root,
            state: tempfile::tempdir().unwrap(),
            cache: Cache::new(),
            view: Arc::new(View::everything()),
            ahead: Arc::default(),
        }
    }

    /// Up to three rounds of changes and scans, each with the expiry at its end.
    fn run(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            for _ in 0..4 + self.random.below(16) {
                self.step();
            }
            self.go_ahead();
            let incremental = self.scanner().rescan(&mut self.cache, &Cancel::default()).unwrap();
            self.world.settled();
            self.compare(&incremental);
            self.back();
        }
    }

    fn step(&mut self) {
        match self.random.below(14) {
            0 | 1 => {
                let scan = self.scanner().rescan(&mut self.cache, &Cancel::default()).unwrap();
                self.seen(&scan);
            }
            2 => {
                let directories = self.world.touched().iter().map(|dir| path(dir)).collect();
                let scanner = self.scanner();
                let scan = scanner.rescan_only(&mut self.cache, &directories, &Cancel::default()).unwrap();
                self.seen(&scan);
            }
            3 => self.cancelled(),
            4 if self.random.below(4) == 0 => self.other_view(),
            5 => self.restart(),
            _ => self.world.change(&mut self.random),
        }
    }

    /// A scan that is cancelled when it has asked for the time so often: somewhere in its midst.
    fn cancelled(&mut self) {
        if self.random.below(2) == 0 {
            self.go_ahead();
        }
        let (cancel, asked, after) = (Cancel::default(), AtomicU64::new(0), self.random.below(8));
        let (clock, cancels) = (self.clock(), cancel.clone());
        let clock = Clock::new(move || {
            if asked.fetch_add(1, Ordering::Relaxed) >= after {
                cancels.cancel();
            }
            clock.now()
        });
        match self.scanner().clock(clock).rescan(&mut self.cache, &cancel) {
            Ok(_) | Err(ScanError::Cancelled) => {}
            Err(error) => panic!("{error}"),
        }
        self.back();
    }

    /// To when nothing that was written can be hidden any more.
    fn go_ahead(&mut self) {
        self.world.sync();
        self.ahead.store(i64::try_from(EXPIRY.as_secs()).unwrap() + 1, Ordering::Relaxed);
    }

    /// Back to what the file-system's clock says, where another tick begins: the last one is long over for the scans.
    fn back(&self) {
        self.ahead.store(0, Ordering::Relaxed);
        self.world.await_a_tick();
    }

    fn other_view(&mut self) {
        let views = [
            View::everything(),
            View { xattrs: XattrPolicy::NONE, ..View::everything() },
            View { mtime: Granularity::SECOND, ..View::everything() },
            View { protected: [path("/a")].into(), ..View::everything() },
        ];
        let choice = usize::try_from(self.random.below(views.len() as u64)).unwrap();
        self.view = Arc::new(views[choice].clone());
    }

    fn restart(&mut self) {
        let dir = std::fs::File::open(self.state.path()).unwrap();
        let _durable = self.cache.save(dir.as_fd(), b"scan");
        self.cache = Cache::load(dir.as_fd(), b"scan", &self.root).unwrap_or_default();
    }

    /// Before the expiry a scan may miss what moved no time.
    fn seen(&mut self, scan: &Scan) {
        self.world.seen();
        if self.times == Times::Fine {
            self.compare(scan);
        }
    }

    /// The scan must be what a full one is, but for what may be hidden.
    fn compare(&self, incremental: &Scan) {
        let full = self.scanner().scan(&Cancel::default()).unwrap();
        let (ours, theirs) = (inodes(incremental), inodes(&full));
        let paths = ours.keys().chain(theirs.keys());
        let different: Vec<_> = paths.filter(|path| ours.get(*path) != theirs.get(*path)).collect();
        let hidden = self.world.hidden();
        let wrong: Vec<_> = different.iter().filter(|path| !hidden.contains(**path)).collect();
        let told = |inodes: &BTreeMap<String, String>| {
            wrong.iter().map(|p| inodes.get(**p).cloned()).collect::<Vec<_>>()
        };
        let history = self.world.history();
        assert!(
            wrong.is_empty(),
            "{wrong:?}: {:#?}\nnot {:#?}\nafter {history:#?}",
            told(&ours),
            told(&theirs)
        );
        incremental.snapshot.verify(10_000).unwrap();
        if different.is_empty() {
            let id = |scan: &Scan| (scan.snapshot.id(), scan.facts.clone(), scan.held.clone(), scan.counts);
            assert_eq!(id(incremental), id(&full), "after {history:#?}");
        }
    }

    fn scanner(&self) -> Scanner {
        Scanner::new(self.root.clone(), Arc::clone(&self.view))
            .threads(NonZeroUsize::MIN)
            .clock(self.clock())
            .write_back_expiry(EXPIRY)
    }

    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.ahead);
        Clock::new(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seconds = i64::try_from(now.as_secs()).unwrap() + ahead.load(Ordering::Relaxed);
            Timestamp::new(seconds, now.subsec_nanos()).unwrap()
        })
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// Every path and what is there, without what only says what is below.
fn inodes(scan: &Scan) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let told = |inode: &Inode| {
        let kind = if inode.is_directory() { "directory".to_owned() } else { format!("{:?}", inode.kind) };
        format!("{} {}:{} {:?} {kind}", inode.mode, inode.uid, inode.gid, inode.xattrs)
    };
    scan.snapshot.walk(|path, inode| drop(all.insert(path.to_string(), told(inode))));
    for set in scan.snapshot.links.iter() {
        for name in set {
            let others = all.entry(name.to_string()).or_default();
            others.push_str(&format!(" {set:?}"));
        }
    }
    all
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn incremental_scans_are_what_full_ones_would_be() {
    if let Some(seed) = number("DOMINATOR_SEQUENCE") {
        Trial::new(seed).run();
        return;
    }
    let (all, next) = (number("DOMINATOR_SEQUENCES").unwrap_or(300), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut seed = next.fetch_add(1, Ordering::Relaxed);
                while seed < all {
                    let run = std::panic::AssertUnwindSafe(|| Trial::new(seed).run());
                    if let Err(panic) = std::panic::catch_unwind(run) {
                        next.store(all, Ordering::Relaxed);
                        let again =
                            format!("sequence {seed} failed; DOMINATOR_SEQUENCE={seed} runs it alone");
                        assert!(Path::new("/").exists(), "{again}");
                        std::fs::write("/dev/stderr", format!("{again}\n")).unwrap();
                        std::panic::resume_unwind(panic);
                    }
                    seed = next.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

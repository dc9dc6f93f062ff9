//! The rounds: everybody once in each, so that what else the machine does concerns all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dominator_benches::contender::{Series, cpu_time, run};
use dominator_benches::table::{Bar, Report, Unit};

use crate::disk::{Disk, Disks, settle};
use crate::fleet::{Converged, Fleet};
use crate::renames;
use crate::undo;

/// What a machine is made to be.
pub(crate) struct Trees {
    pub(crate) a: PathBuf,
    pub(crate) small: PathBuf,
    pub(crate) ten: PathBuf,
}

const SHA512: &str = "`sha512sum` of A, 2 processes";
const COPY: &str = "`cp -a` of A into an empty folder, `sync`";
const RENAMES: &str = "bare renames: all of A";
const RENAMES_SMALL: &str = "bare renames: what A-small changes";
const RENAMES_TEN: &str = "bare renames: what A-ten changes";
const UPDATE: &str = "A → A-ten by the library: change window";
const UNDO: &str = "A-ten → A, undone by the library: change window";
const BLANK: &str = "blank root → A";
const SMALL: &str = "A → A-small";
const TEN: &str = "A → A-ten";

/// Measures everything `rounds` times.
pub(crate) fn all(disks: &Disks, scratch: &Disk, trees: &Trees, rounds: u8) -> Report {
    let fleet = fleet_in(scratch);
    for (image, tree) in [("a", &trees.a), ("a-small", &trees.small), ("a-ten", &trees.ten)] {
        fleet.add(&format!("{image}/1"), tree);
    }
    let changes = [&trees.small, &trees.ten].map(|tree| renames::differing(&trees.a, tree));
    let (mut seen, mut peak) = (Figures::default(), 0);
    for round in 0..rounds {
        // What is read is in memory, for everybody: some machines drop what nobody has read for half a minute.
        hash(&trees.a);
        yardsticks(disks, trees, &changes, &mut seen);
        peak = peak.max(converge(disks, &fleet, (trees, scratch), round, &mut seen));
    }
    let times = seen.0;
    Report { bars: bars(&times, peak), times: vec![("A".into(), times)] }
}

/// Measures what the library does by itself, in turns with its yardsticks, in one copy of A.
pub(crate) fn library(disks: &Disks, trees: &Trees, rounds: u8) -> Report {
    let ten = renames::differing(&trees.a, &trees.ten);
    let mut seen = Figures::default();
    let disk = disks.mount("yardstick");
    let tree = disk.path().join("tree");
    run(Command::new("cp").args(["-a", "--no-target-directory"]).arg(&trees.a).arg(&tree));
    let staged = disk.path().join("staged");
    for _ in 0..rounds {
        // There and back: the tree is A again.
        seen.note(RENAMES_TEN, renames::exchange(&tree, &staged, &ten));
        seen.note(RENAMES_TEN, renames::exchange(&tree, &staged, &ten));
        let windows = undo::there_and_back(&tree, &trees.ten);
        seen.note(UPDATE, windows.update);
        seen.note(UNDO, windows.undo);
    }
    let times = seen.0;
    let of = |name: &str| times.iter().find(|series| series.name == name).unwrap();
    let bars = vec![
        Bar::ratio(UPDATE, of(UPDATE), &[of(RENAMES_TEN)], 2.0),
        Bar::ratio(UNDO, of(UNDO), &[of(UPDATE)], 1.0),
    ];
    Report { bars, times: vec![("A".into(), times)] }
}

/// The lab takes its directory from the environment.
fn fleet_in(scratch: &Disk) -> Fleet {
    let lab = scratch.path().join("lab");
    fs::create_dir(&lab).unwrap();
    tempfile::env::override_temp_dir(&lab).unwrap();
    Fleet::start()
}

fn hash(tree: &Path) {
    let line = r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 sha512sum"#;
    run(Command::new("sh").args(["-c", line]).env("ROOT", tree));
}

fn yardsticks(disks: &Disks, trees: &Trees, changes: &[Vec<PathBuf>; 2], seen: &mut Figures) {
    seen.time(SHA512, || hash(&trees.a));
    let disk = disks.mount("yardstick");
    let tree = disk.path().join("tree");
    seen.time(COPY, || {
        run(Command::new("cp").args(["-a", "--no-target-directory"]).arg(&trees.a).arg(&tree));
        settle();
    });
    let staged = |name: &str| disk.path().join(name);
    let [small, ten] = changes;
    for (name, paths) in [(RENAMES_SMALL, small), (RENAMES_TEN, ten)] {
        seen.note(name, renames::exchange(&tree, &staged(name), paths));
    }
    let windows = undo::there_and_back(&tree, &trees.ten);
    seen.note(UPDATE, windows.update);
    seen.note(UNDO, windows.undo);
    let (_, all) = renames::put_together(&tree, &staged("all"));
    seen.note(RENAMES, all);
}

/// Makes a blank machine A, then A-small, A again, and A-ten; the most memory the agent ever had, in bytes.
fn converge(
    disks: &Disks,
    fleet: &Fleet,
    (trees, scratch): (&Trees, &Disk),
    round: u8,
    seen: &mut Figures,
) -> u64 {
    let disk = disks.mount("machine");
    let root = disk.path().join("tree");
    fs::create_dir(&root).unwrap();
    let machine = fleet.machine(round, &root);
    hash(scratch.path());
    seen.converged(BLANK, &machine.become_image("a/1"));
    judge(round, &trees.a, &root);
    seen.converged(SMALL, &machine.become_image("a-small/1"));
    machine.become_image("a/1");
    seen.converged(TEN, &machine.become_image("a-ten/1"));
    judge(round, &trees.ten, &root);
    machine.peak()
}

/// The first time around, somebody else says whether it is what it should be.
fn judge(round: u8, tree: &Path, root: &Path) {
    if round == 0 {
        let differences = dominator_testkit::trees::differences(tree, root, &["/[.]subd(|/.*)$"]);
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

/// The promises.
fn bars(times: &[Series], peak: u64) -> Vec<Bar> {
    let of = |name: &str| times.iter().find(|series| series.name == name).unwrap();
    let seconds = |name: &str, limit: f64| {
        let figure = of(name).median();
        Bar::at_most(name, "from the MDB's change to synced".into(), figure, limit, Unit::Seconds)
    };
    let window = |work: &str, bare: &str| {
        let ours = window_of(work);
        Bar::ratio(&ours, of(&ours), &[of(bare)], 2.0)
    };
    vec![
        Bar::ratio(BLANK, of(BLANK), &[of(COPY)], 2.0),
        Bar::ratio(BLANK, of(BLANK), &[of(SHA512)], 3.0),
        seconds(SMALL, 2.5),
        seconds(TEN, 5.0),
        window(BLANK, RENAMES),
        window(SMALL, RENAMES_SMALL),
        window(TEN, RENAMES_TEN),
        Bar::ratio("undoing A → A-ten", of(UNDO), &[of(UPDATE)], 1.0),
        Bar::at_most("peak memory of the agent", "VmHWM".into(), mebibytes(peak), 64.0, Unit::Mebibytes),
    ]
}

fn window_of(work: &str) -> String {
    format!("{work}: change window")
}

/// What was seen, in order of its first appearance.
#[derive(Default)]
struct Figures(Vec<Series>);

impl Figures {
    fn time(&mut self, name: &str, work: impl FnOnce()) {
        settle();
        let (began, cpu) = (Instant::now(), cpu_time());
        work();
        let (wall, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
        self.push(name, wall.as_secs_f64(), Some(cpu.as_secs_f64()));
    }

    fn note(&mut self, name: &str, wall: Duration) {
        self.push(name, wall.as_secs_f64(), None);
    }

    fn converged(&mut self, work: &str, seen: &Converged) {
        let cpu = seen.cpu.iter().map(|(_, time)| time.as_secs_f64());
        self.push(work, seen.wall.as_secs_f64(), Some(cpu.sum()));
        for (daemon, time) in &seen.cpu {
            self.push(&format!("{work}: processor time, {daemon}"), time.as_secs_f64(), None);
        }
        self.push(&window_of(work), seen.window, None);
        for (phase, seconds) in &seen.phases {
            self.push(&format!("{work}: {phase}"), *seconds, None);
        }
    }

    fn push(&mut self, name: &str, wall: f64, cpu: Option<f64>) {
        eprintln!("{name}: {wall:.4} s");
        let at = self.0.iter().position(|series| series.name == name).unwrap_or_else(|| {
            self.0.push(Series { name: name.into(), wall: Vec::new(), cpu: Vec::new() });
            self.0.len() - 1
        });
        let series = self.0.get_mut(at).expect("invariant: it was found or added");
        series.wall.push(wall);
        series.cpu.extend(cpu);
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

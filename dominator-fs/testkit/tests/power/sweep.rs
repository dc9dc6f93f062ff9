use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_fs_testkit::killing::{Point, Which, killed_at, output, points, promised};
use dominator_fs_testkit::{left_out, needs_root, with_mounts};

use crate::case::{Case, Machine};
use crate::ground::{Kind, Template, place};

/// How many run at once.
const WORKERS: usize = 2;

/// Who comes to the disk when the power is about to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    None,
    Waits,
}

/// What befalls the victim at each point.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Cut(Kind, Neighbour),
}

impl Blow {
    /// How many points there are at least.
    const fn fewest(self) -> usize {
        match self {
            Self::Kill => 500,
            Self::Cut(..) => 100,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("kills"),
            Self::Cut(kind, Neighbour::None) => write!(f, "power cuts on {kind:?}"),
            Self::Cut(kind, Neighbour::Waits) => write!(f, "power cuts on {kind:?} with a neighbour"),
        }
    }
}

/// What is done, and how much of it.
struct Sweep {
    machine: Machine,
    blow: Blow,
    fault: &'static str,
    /// The points that are still to be done.
    todo: Mutex<Vec<(Case, Option<Point>)>>,
    done: Mutex<BTreeMap<Case, usize>>,
    complaints: Mutex<Vec<String>>,
}

impl Sweep {
    /// After how many complaints it is clear that something is wrong.
    const ENOUGH: usize = 3;

    /// Strikes at each `every`th point of these cases. Says at how many of each, and what was wrong.
    fn run(
        name: &'static str,
        blow: Blow,
        cases: &[Case],
        every: usize,
        fault: &'static str,
    ) -> (BTreeMap<Case, usize>, Vec<String>) {
        let sweep = Self {
            machine: Machine::new(),
            blow,
            fault,
            todo: Mutex::default(),
            done: Mutex::default(),
            complaints: Mutex::default(),
        };
        let sweep = Arc::new(sweep);
        let first = Arc::clone(&sweep);
        let cases = cases.to_vec();
        with_mounts(name, move || first.enumerate(&cases, every));
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let sweep = Arc::clone(&sweep);
                std::thread::spawn(move || with_mounts(name, move || sweep.work()))
            })
            .collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let done = std::mem::take(&mut *locked(&sweep.done));
        let complaints = std::mem::take(&mut *locked(&sweep.complaints));
        (done, complaints)
    }

    fn enumerate(&self, cases: &[Case], every: usize) {
        for case in cases {
            let found = match self.blow {
                Blow::Kill => {
                    let place = place();
                    let root = place.path().join("root");
                    std::fs::create_dir(&root).unwrap();
                    self.machine.prepare(*case, &root);
                    // Before a look there is what there is before the change behind it: once is enough to see that.
                    let which = if Case::PLAIN.contains(case) { Which::All } else { Which::Changes };
                    points(&mut self.machine.victim(*case, &root, self.fault), &root, which)
                }
                Blow::Cut(kind, _) => {
                    let template = Template::new(kind, |root| self.machine.prepare(*case, root));
                    let disk = template.disk();
                    let victim = &mut self.machine.victim(*case, &disk.root(), self.fault);
                    points(victim, &disk.root(), Which::Changes)
                }
            };
            // One that lives to its end has kept nothing back.
            let all = found.into_iter().map(Some).step_by(every).chain([None]);
            locked(&self.todo).extend(all.map(|point| (*case, point)));
        }
        // One case after the other, from its beginning.
        locked(&self.todo).reverse();
    }

    fn next(&self) -> Option<(Case, Option<Point>)> {
        if locked(&self.complaints).len() >= Self::ENOUGH { None } else { locked(&self.todo).pop() }
    }

    fn work(&self) {
        let mut template: Option<(Case, Template)> = None;
        while let Some((case, point)) = self.next() {
            let outcome = match self.blow {
                Blow::Kill => self.kill(case, point.as_ref()),
                Blow::Cut(kind, neighbour) => {
                    if template.as_ref().is_none_or(|(of, _)| *of != case) {
                        template = Some((case, Template::new(kind, |root| self.machine.prepare(case, root))));
                    }
                    let (_, template) = template.as_ref().unwrap();
                    self.cut(case, point.as_ref(), template, neighbour)
                }
            };
            *locked(&self.done).entry(case).or_default() += 1;
            if let Err(complaint) = outcome {
                locked(&self.complaints).push(format!("{case:?} struck at {point:?}: {complaint}"));
            }
        }
    }

    fn kill(&self, case: Case, point: Option<&Point>) -> Result<(), String> {
        let place = place();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        self.machine.prepare(case, &root);
        let promised = struck(point, &mut self.machine.victim(case, &root, self.fault));
        self.machine.judge(case, &root, promised.as_deref())
    }

    fn cut(
        &self,
        case: Case,
        point: Option<&Point>,
        template: &Template,
        neighbour: Neighbour,
    ) -> Result<(), String> {
        let disk = template.disk();
        let promised = struck(point, &mut self.machine.victim(case, &disk.root(), self.fault));
        if neighbour == Neighbour::Waits {
            disk.neighbour();
        }
        disk.cut();
        self.machine.judge(case, &disk.root(), promised.as_deref())
    }
}

/// Runs the victim up to the point, or to its end.
fn struck(point: Option<&Point>, victim: &mut Command) -> Option<String> {
    if let Some(point) = point {
        return killed_at(point, victim);
    }
    let ran = output(victim);
    assert!(ran.status.success(), "{ran:?}");
    promised(&ran)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every point, or some for every day.
fn every(some: usize) -> usize {
    if std::env::var_os("DOMINATOR_CRASHES").is_some_and(|all| all == "all") { 1 } else { some }
}

/// Whether all tools are here; where nothing may be left out, their absence is a failure.
fn needs(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<_> =
        tools.iter().filter(|tool| Command::new(tool).arg("-V").output().is_err()).collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "{test} needs {missing:?}");
    if !missing.is_empty() {
        left_out(test, &format!("it needs {missing:?}"));
    }
    missing.is_empty() && needs_root(test)
}

/// Real points so far, of all tests, by what befell the victim.
static POINTS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
/// One test after another: each keeps all workers busy.
static TURN: Mutex<()> = Mutex::new(());

/// What a trial adds is written in place, and waited for, in the journal: no neighbour makes a difference to that.
fn all_cases() -> Vec<Case> {
    [Case::PLAIN, Case::TRIALS].concat()
}

fn survives(name: &'static str, blow: Blow, cases: &[Case], every: usize) {
    let _turn = locked(&TURN);
    let began = std::time::Instant::now();
    let (done, complaints) = Sweep::run(name, blow, cases, every, "");
    let points: usize = done.values().sum();
    assert!(complaints.is_empty(), "in {points} points: {complaints:#?}");
    let few = every == 1 && points < blow.fewest();
    assert!(!few, "{blow}: only {points} points; are the names of the calls still right?");
    let mut all = locked(&POINTS);
    *all.entry(blow.to_string()).or_default() += points;
    let total: usize = all.values().sum();
    let parts: Vec<_> = all.iter().map(|(blow, points)| format!("{points} {blow}")).collect();
    println!("{total} real points so far: {}; {blow} took {:?}: {done:?}", parts.join(", "), began.elapsed());
}

#[test]
fn a_process_that_is_killed_at_any_system_call_leaves_nothing_half_done() {
    const TEST: &str = "a_process_that_is_killed_at_any_system_call_leaves_nothing_half_done";
    if needs(TEST, &["strace"]) {
        survives(TEST, Blow::Kill, &all_cases(), every(40));
    }
}

#[test]
fn a_power_cut_at_any_change_leaves_nothing_half_done_on_ext4() {
    const TEST: &str = "a_power_cut_at_any_change_leaves_nothing_half_done_on_ext4";
    if needs(TEST, &["strace", "mkfs.ext4"]) {
        survives(TEST, Blow::Cut(Kind::Ext4, Neighbour::None), &all_cases(), every(50));
        survives(TEST, Blow::Cut(Kind::Ext4, Neighbour::Waits), &Case::PLAIN, every(50));
    }
}

#[test]
fn a_power_cut_at_any_change_leaves_nothing_half_done_on_xfs() {
    const TEST: &str = "a_power_cut_at_any_change_leaves_nothing_half_done_on_xfs";
    if needs(TEST, &["strace", "mkfs.xfs"]) {
        let cases = [[Case::CleanUp, Case::Recover].as_slice(), &Case::TRIALS].concat();
        survives(TEST, Blow::Cut(Kind::Xfs, Neighbour::None), &cases, every(50));
        survives(TEST, Blow::Cut(Kind::Xfs, Neighbour::Waits), &Case::PLAIN, every(50));
    }
}

#[test]
fn real_power_cuts_find_an_update_that_waits_for_nothing() {
    const TEST: &str = "real_power_cuts_find_an_update_that_waits_for_nothing";
    if !needs(TEST, &["strace", "mkfs.ext4"]) {
        return;
    }
    let _turn = locked(&TURN);
    for neighbour in [Neighbour::None, Neighbour::Waits] {
        let blow = Blow::Cut(Kind::Ext4, neighbour);
        let (points, complaints) = Sweep::run(TEST, blow, &[Case::Update], every(10), "NoSync");
        assert!(!complaints.is_empty(), "{blow:?}: not found at {points:?} points");
    }
}

#[test]
fn real_power_cuts_find_what_is_decided_on_a_trial_and_not_waited_for() {
    const TEST: &str = "real_power_cuts_find_what_is_decided_on_a_trial_and_not_waited_for";
    if !needs(TEST, &["strace", "mkfs.ext4"]) {
        return;
    }
    let _turn = locked(&TURN);
    let blow = Blow::Cut(Kind::Ext4, Neighbour::None);
    for case in [Case::Trial, Case::FirstStart, Case::Overdue] {
        let (points, complaints) = Sweep::run(TEST, blow, &[case], every(10), "NoSync");
        assert!(!complaints.is_empty(), "{case:?}: not found at {points:?} points");
    }
}

#[test]
fn real_kills_find_metadata_and_a_journal_that_come_late() {
    const TEST: &str = "real_kills_find_metadata_and_a_journal_that_come_late";
    if !needs(TEST, &["strace"]) {
        return;
    }
    let _turn = locked(&TURN);
    for fault in ["LateMetadata", "LateJournal"] {
        let (points, complaints) = Sweep::run(TEST, Blow::Kill, &[Case::Update], every(4), fault);
        assert!(!complaints.is_empty(), "{fault}: not found at {points:?} points");
    }
}

//! Agents are processes of their own here, and are killed at every step of an update: before each change of the root, before
//! each change of what they remember, and before and after each call of a service or a check. Whoever comes then finds the
//! disk, and services that go on as they were; nothing of the one that died. In the end the right services run, the machine
//! says what it is, and nobody does anything any more.
//!
//! At each fifth point; with `DOMINATOR_CRASHES=all` in the environment, at all of them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::print_stdout
)]
#![allow(dead_code, reason = "tests of agents that live use more of it")]

#[path = "../agent/support.rs"]
mod support;
mod victim;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use victim::{AGENT, BAD, CHECK, NEVER, REBOOT, SICK, World};

const NAME: &str = "whenever_an_agent_is_killed_the_right_services_run_and_the_record_is_true";

/// What is told while there is no record of the update yet.
const BEFORE: &str = "old/1: made, 0 bad";

/// What an update is, and how often it may restart the machine or the agent.
pub(crate) struct Cut {
    name: &'static str,
    pub(crate) conf: &'static str,
    pub(crate) more: &'static str,
    pub(crate) health: &'static str,
    restarts: usize,
}

const CUTS: [Cut; 5] = [
    Cut { name: "stays", conf: "new", more: "", health: CHECK, restarts: 0 },
    Cut { name: "does not start", conf: BAD, more: "", health: "{}", restarts: 0 },
    Cut { name: "stays after a reboot", conf: "new", more: REBOOT, health: CHECK, restarts: 1 },
    Cut { name: "is not well after a reboot", conf: SICK, more: REBOOT, health: CHECK, restarts: 2 },
    Cut { name: "is of the agent, which is not well", conf: SICK, more: AGENT, health: CHECK, restarts: 3 },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, task, dir, cut, point] = &arguments[..]
        && word == "victim"
    {
        return victim::carry_out(task, Path::new(dir), &CUTS[cut.parse::<usize>().unwrap()], point);
    }
    let is_wanted = |argument: &String| argument.starts_with('-') || NAME.contains(argument.as_str());
    if !arguments.iter().all(is_wanted) || arguments.contains(&"--list".to_owned()) {
        return;
    }
    whenever_an_agent_is_killed_the_right_services_run_and_the_record_is_true();
}

fn whenever_an_agent_is_killed_the_right_services_run_and_the_record_is_true() {
    let every = if std::env::var_os("DOMINATOR_CRASHES").is_some_and(|value| value == "all") { 1 } else { 5 };
    for (number, cut) in CUTS.iter().enumerate() {
        let template = tempfile::tempdir().unwrap();
        World::new(template.path());
        let machine = Machine { dir: template.path().to_owned(), cut, number };
        machine.run("prepare", NEVER);
        let (_dir, whole) = machine.copied();
        let [first, second] = whole.points();
        let kills: Vec<_> = first.clone().map(Kill::First).chain(second.clone().map(Kill::Second)).collect();
        let next = AtomicUsize::new(number % every);
        // Of each kind: at how many points it was tried, and at how many somebody was killed.
        let [tried, done] = [[0, 0], [0, 0]].map(|counts: [usize; 2]| counts.map(AtomicUsize::new));
        let complaints = Mutex::new(Vec::new());
        let work = || {
            while let Some(kill) = kills.get(next.fetch_add(every, Ordering::Relaxed)) {
                let (_dir, machine) = machine.copied();
                let kind = usize::from(matches!(kill, Kill::Second(_)));
                tried[kind].fetch_add(1, Ordering::Relaxed);
                match std::panic::catch_unwind(|| machine.survives(*kill)) {
                    Ok(was_killed) => drop(done[kind].fetch_add(usize::from(was_killed), Ordering::Relaxed)),
                    Err(_) => complaints.lock().unwrap().push(*kill),
                }
            }
        };
        std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
        let complaints = complaints.into_inner().unwrap();
        let [tried, done] = [tried, done].map(|counts| counts.map(AtomicUsize::into_inner));
        println!(
            "an update that {}: killed at {done:?} points of {tried:?}, of {} of the agent that makes it and {} of the next",
            cut.name,
            first.len(),
            second.len()
        );
        let most = |kind: usize| done[kind] + complaints.len() > tried[kind] * 3 / 4;
        assert!(most(0) && most(1), "too few were killed: {done:?} of {tried:?}");
        assert!(first.len() > 60, "{first:?}");
        assert_eq!(complaints, <[Kill; 0]>::default(), "{}", cut.name);
    }
}

/// Who is killed, and at which point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// The agent that makes the update; and of those that come each second one as well.
    First(usize),
    /// The one that comes after an agent that lived.
    Second(usize),
}

/// Where an agent might have been killed that tells of them.
fn points(said: &str) -> std::ops::Range<usize> {
    let told = said.lines().find_map(|line| line.strip_prefix("points: "));
    0..told.unwrap().parse().unwrap()
}

/// A machine in a directory: its root, what its agent remembers, and the world around it.
#[derive(Clone)]
struct Machine<'a> {
    dir: PathBuf,
    cut: &'a Cut,
    number: usize,
}

impl Machine<'_> {
    fn copied(&self) -> (tempfile::TempDir, Self) {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("machine");
        let copied = Command::new("cp").arg("-a").arg(&self.dir).arg(&dir).status().unwrap();
        assert!(copied.success());
        (place, Self { dir, ..self.clone() })
    }

    fn run(&self, task: &str, point: usize) -> Output {
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["victim", task]).arg(&self.dir).args([self.number.to_string(), point.to_string()]);
        let ran = victim.output().unwrap();
        let killed = ran.status.signal() == Some(9);
        assert!(ran.status.success() || (killed && point != NEVER), "{task}, {point}: {ran:?}");
        ran
    }

    /// What an agent says that was ordered to make the update; nothing, if it was killed.
    fn order(&self, point: usize) -> Option<String> {
        let ran = self.run("order", point);
        ran.status.success().then(|| String::from_utf8(ran.stdout).unwrap())
    }

    /// What may be killed of the agent that makes the update, and of the one that comes then.
    fn points(&self) -> [std::ops::Range<usize>; 2] {
        let first = points(&self.order(NEVER).unwrap());
        World::open(&self.dir).restart();
        let second = self.run("settle", NEVER);
        [first, points(&String::from_utf8(second.stdout).unwrap())]
    }

    /// Whether there was anybody to be killed.
    fn survives(&self, kill: Kill) -> bool {
        let context = format!("{kill:?}");
        match kill {
            Kill::First(point) => {
                // What an agent looks at beside the update is more in one life than in another: it may have ended before.
                let lived = self.order(point);
                let ended_before = lived.as_ref().is_none_or(|said| points(said).len() <= point);
                assert!(ended_before, "{context}: {lived:?}");
                let then: &[usize] = if point % 2 == 0 { &[] } else { &[point * 7 % 37] };
                self.settle(then, &context);
                lived.is_none()
            }
            Kill::Second(point) => {
                self.order(NEVER).unwrap();
                self.settle(&[point], &context) > 0
            }
        }
    }

    /// Agents come until nothing is left to be done; the first of them are killed at these points. Then all must be right. How
    /// many were killed.
    fn settle(&self, killed: &[usize], context: &str) -> usize {
        let world = World::open(&self.dir);
        let mut restarts = usize::from(world.restart());
        let mut killed = killed.iter();
        let (mut lives, mut deaths) = (0, 0);
        let said = loop {
            lives += 1;
            assert!(lives < 12, "{context}: agents come and go without end: {}", world.log());
            let ran = self.run("settle", killed.next().copied().unwrap_or(NEVER));
            deaths += usize::from(!ran.status.success());
            let restarted = world.restart();
            restarts += usize::from(restarted);
            if ran.status.success() && !restarted {
                break String::from_utf8(ran.stdout).unwrap();
            }
        };
        self.check(&world, &said, context);
        assert!(restarts <= self.cut.restarts, "{context}: {restarts} restarts: {}", world.log());
        let log = world.log();
        self.run("settle", NEVER);
        assert_eq!(world.log(), log, "{context}: once is enough");
        deaths
    }

    fn check(&self, world: &World, said: &str, context: &str) {
        let [conf, data] =
            ["conf", "data"].map(|name| fs::read_to_string(self.dir.join("root").join(name)).unwrap());
        let is_new = (conf.as_str(), data.as_str()) == (self.cut.conf, "news");
        let told = format!("{context}: {conf}, {data}; {said}; {}", world.log());
        assert!(is_new || (conf.as_str(), data.as_str()) == ("old", "old"), "{told}");
        assert!(!is_new || self.cut.conf == "new", "what fails does not stay: {told}");
        assert_eq!([world.answer("web"), world.answer("db")], [Some(conf.clone()), Some(data)], "{told}");
        if self.cut.more == REBOOT {
            assert_eq!(world.kernel(), conf, "what the machine runs is on its disk: {told}");
        }
        // What is told, and what stands in the record.
        let expected: &[&str] = match (is_new, self.cut.conf) {
            (true, _) => &["web/1: made, 0 bad"],
            // Nothing was wrong with it, and it came no further.
            (false, "new") => &["old/1: not-made, 0 bad", BEFORE],
            (false, _) => &["old/1: undone, 1 bad", "old/1: not-made, 0 bad", BEFORE],
        };
        let said = said.lines().find(|line| !line.starts_with("points: ")).unwrap_or_default();
        assert!(expected.contains(&said), "{told}");
    }
}

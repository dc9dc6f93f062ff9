//! Those that are measured against each other: one round after the other, everybody in each.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::ClockId;
use serde::Serialize;

/// Something that is measured.
pub struct Contender<'a> {
    name: String,
    prepare: Box<dyn FnMut() + 'a>,
    run: Box<dyn FnMut() + 'a>,
}

impl<'a> Contender<'a> {
    /// Something done by this process.
    pub fn call(name: &str, run: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), prepare: Box::new(|| ()), run: Box::new(run) }
    }

    /// What has to be done before each run, and is not measured.
    pub fn after(self, prepare: impl FnMut() + 'a) -> Self {
        Self { prepare: Box::new(prepare), ..self }
    }

    /// A process, from before it is made until it was waited for. What it prints is thrown away; it has to succeed.
    pub fn process(name: &str, mut command: Command) -> Self {
        Self::call(name, move || run(&mut command))
    }

    /// A line for the shell, in which `$ROOT` is `root`.
    pub fn shell(name: &str, line: &str, root: &std::path::Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("ROOT", root);
        Self::process(name, command)
    }
}

/// Runs a process that has to succeed.
pub fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// How long something took, again and again.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Of what.
    pub name: String,
    /// By the clock, in seconds, in order of the rounds.
    pub wall: Vec<f64>,
    /// Time of all cores together, in seconds; of processes, in hundredths.
    pub cpu: Vec<f64>,
}

impl Series {
    /// The median by the clock, in seconds.
    pub fn median(&self) -> f64 {
        median(&self.wall)
    }

    /// The median of all cores together, in seconds.
    pub fn cpu_median(&self) -> f64 {
        median(&self.cpu)
    }

    /// The shortest and the longest by the clock, in seconds.
    pub fn extremes(&self) -> (f64, f64) {
        (self.wall.iter().copied().fold(f64::MAX, f64::min), self.wall.iter().copied().fold(0.0, f64::max))
    }
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lets everybody run once without measuring, so that what is read is in memory, and then `rounds` times in turn: a
/// machine that others use too is slow for all of them.
pub fn compete(mut contenders: Vec<Contender<'_>>, rounds: usize) -> Vec<Series> {
    let begin = |contender: &Contender<'_>| Series {
        name: contender.name.clone(),
        wall: Vec::with_capacity(rounds),
        cpu: Vec::with_capacity(rounds),
    };
    let mut series: Vec<_> = contenders.iter().map(begin).collect();
    for round in 0..=rounds {
        for (contender, series) in contenders.iter_mut().zip(&mut series) {
            (contender.prepare)();
            let (began, cpu) = (Instant::now(), cpu_time());
            (contender.run)();
            let (wall, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
            if round > 0 {
                series.wall.push(wall.as_secs_f64());
                series.cpu.push(cpu.as_secs_f64());
            }
        }
    }
    series
}

/// What this process and all it waited for have used.
pub fn cpu_time() -> Duration {
    let own = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    let own = Duration::try_from(own).expect("invariant: the time used is not negative");
    own + children_time()
}

/// The 16th and 17th field of `/proc/self/stat`, in hundredths of a second; the second may hold anything in brackets.
fn children_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

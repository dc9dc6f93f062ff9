//! What a call costs who makes it while its server is attacked, beside what it costs in quiet: time of the processor, and
//! of the clock.
//!
//!     taskset -c 0,1 cargo bench -p dominator-benches --bench abuse [-- --seconds 3 --rounds 5 --only idle]
//!
//! Server, caller and attackers are processes of their own on the same two cores, so attackers who work hard are in the way
//! of the clock, whatever the server does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs, unreachable_pub)]

mod attacks;
mod network;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attacks::{Attack, Attacker};
use clap::{Parser, ValueEnum};
use dominator_core::object::ObjectId;
use dominator_core::port::ObjectStore as _;
use dominator_rpc::client::RemoteObjects;
use dominator_rpc::transport::Tls;
use network::Served;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;

#[derive(Parser)]
struct Options {
    /// For how long is called in quiet, and during an attack
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    seconds: u64,
    /// How often, in turn
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Only so
    #[arg(long, value_name = "ATTACK")]
    only: Vec<Attack>,
    /// Attack another server on the same cores: what a call costs more then is not the called server's doing
    #[arg(long)]
    elsewhere: bool,
    /// Be a server with the certificates in this directory
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
    /// Attack one with these
    #[arg(long, hide = true)]
    attack: Option<Attack>,
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
}

fn main() {
    let options = Options::parse();
    // Thousands of sockets are descriptors, here and there.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    // The server has as many threads as daemons have; the caller has one, so that what it costs is what calls cost.
    let mut runtime = match options.serve {
        Some(_) => Builder::new_multi_thread(),
        None => Builder::new_current_thread(),
    };
    runtime.enable_all().build().unwrap().block_on(run(options));
}

async fn run(mut options: Options) {
    if let Some(directory) = &options.serve {
        return network::serve(directory, options.address).await;
    }
    if let Some((attack, directory)) = options.attack.zip(options.directory.as_ref()) {
        return attack.run(directory, options.address).await;
    }
    if options.test || !options.bench {
        (options.seconds, options.rounds) = (1, 1);
    }
    let directory = tempfile::tempdir().unwrap();
    network::certificates(directory.path());
    println!(
        "| attack | CPU of a call, × of quiet | CPU in quiet | by the clock, half and 99 % within | in quiet | waits a call | in quiet | the server took at most |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for attack in Attack::value_variants() {
        if options.only.is_empty() || options.only.contains(attack) {
            measure(*attack, &options, directory.path()).await;
        }
    }
}

async fn measure(attack: Attack, options: &Options, directory: &Path) {
    let server = Served::start(directory, options.address);
    let other = options.elsewhere.then(|| Served::start(directory, options.address));
    let attacked_at = other.as_ref().map_or(server.address, |other| other.address);
    let (trust, credentials) = network::load(directory, "client");
    let tls = Tls::new(trust, credentials).unwrap();
    let objects = RemoteObjects::connect(&tls, &server.address.to_string()).await.unwrap();
    let time = Duration::from_secs(options.seconds);
    calls(&objects, time).await;
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        quiet.push(calls(&objects, time).await);
        let attacker = Attacker::start(attack, directory, attacked_at);
        // They have begun by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        attacked.push(calls(&objects, time).await);
        drop(attacker);
        // What it left is cleared away by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let ratios = attacked.iter().zip(&quiet).map(|(attacked, quiet)| attacked.cpu / quiet.cpu);
    let (ratio, least, most) = spread(ratios);
    let of = |costs: &[Cost], of: fn(&Cost) -> f64| spread(costs.iter().map(of)).0;
    println!(
        "| {attack:?} | {ratio:.2} ({least:.2}–{most:.2}) | {:.0} µs | {:.0} and {:.0} µs | {:.0} and {:.0} µs | {:.2} | {:.2} | {} MiB |",
        of(&quiet, |cost| cost.cpu),
        of(&attacked, |cost| cost.half),
        of(&attacked, |cost| cost.most),
        of(&quiet, |cost| cost.half),
        of(&quiet, |cost| cost.most),
        of(&attacked, |cost| cost.waits),
        of(&quiet, |cost| cost.waits),
        server.memory()
    );
}

/// The one in the middle, the least, the most.
fn spread(figures: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

/// A call, times in microseconds.
struct Cost {
    cpu: f64,
    half: f64,
    most: f64,
    /// How often the caller slept until there was something for it, or was made to let others work.
    waits: f64,
}

/// One call after the other; none may fail.
async fn calls(objects: &RemoteObjects, time: Duration) -> Cost {
    let (begun, before, waited) = (Instant::now(), cpu(), waits());
    let mut times = Vec::new();
    while begun.elapsed() < time {
        let call = Instant::now();
        assert_eq!(objects.sizes(&[ObjectId::of(b"x")]).await.unwrap(), [None]);
        times.push(call.elapsed());
    }
    let (spent, waited) = (cpu() - before, waits() - waited);
    times.sort();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let count = f64::from(u32::try_from(times.len()).unwrap());
    let at = |part: usize| micros(times[(times.len() - 1) * part / 100]);
    Cost { cpu: micros(spent) / count, half: at(50), most: at(99), waits: f64::from(waited) / count }
}

/// Of this process, which is the caller and nobody else.
fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap())
}

fn waits() -> u32 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let waits = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    waits.map(|(_, count)| count.trim().parse::<u32>().unwrap()).sum()
}

//! Adding and getting an image with the tool. In each round everybody once: what else the machine does concerns all.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dominator_benches::contender::{Series, cpu_time, run};
use dominator_benches::table::Bar;

use crate::disk::{Disks, settle};
use crate::server::{Server, Servers};

const SHA512: &str = "`sha512sum` of A, 2 processes";
const TAR: &str = "`tar c` of A to `tar x`";
const ADD: &str = "`imagetool add` of A, empty store";
const AGAIN: &str = "`imagetool add` of A, nothing new";
const SMALL: &str = "`imagetool add` of A-small, 20 files new";
const GET: &str = "`imagetool get` of A";

/// Everything with an empty store, `rounds` times.
pub(crate) fn tool(
    servers: &Servers,
    disks: &Disks,
    [a, small]: [&Path; 2],
    rounds: usize,
) -> (Vec<Bar>, Option<Vec<Series>>) {
    let mut seen = Figures::default();
    for round in 0..rounds {
        let (store, target) = (disks.mount("store"), disks.mount("target"));
        seen.time(None, SHA512, || hash(a));
        let server = servers.start(&store.path().join("state"));
        seen.time(Some(&server), ADD, || server.add("a/1", a));
        seen.time(Some(&server), AGAIN, || server.add("a/2", a));
        seen.time(Some(&server), SMALL, || server.add("a/3", small));
        seen.time(None, TAR, || archive(a, &target.path().join("tar")));
        let got = target.path().join("got");
        seen.time(Some(&server), GET, || server.get("a/1", &got));
        // The first time around, somebody else says whether it is what it should be.
        if round == 0 {
            let differences = dominator_testkit::trees::differences(a, &got, &[]);
            assert!(differences.is_empty(), "{differences:#?}");
        }
        server.end();
    }
    (bars(&seen.0), Some(seen.0))
}

fn bars(times: &[Series]) -> Vec<Bar> {
    let of = |name: &str| times.iter().find(|series| series.name == name).unwrap();
    let bar = |name: &str, against: &str, limit| Bar::ratio(name, of(name), &[of(against)], limit);
    vec![bar(ADD, SHA512, 2.0), bar(AGAIN, SHA512, 0.6), bar(SMALL, SHA512, 0.6), bar(GET, TAR, 2.0)]
}

fn hash(tree: &Path) {
    let line = r#"find "$ROOT" -type f -print0 | xargs -0 -n 500 -P 2 sha512sum"#;
    run(Command::new("sh").args(["-c", line]).env("ROOT", tree));
}

/// With the attributes an image has.
fn archive(tree: &Path, copy: &Path) {
    std::fs::create_dir(copy).unwrap();
    let attributes = "--xattrs --xattrs-include='*'";
    let line = format!(r#"tar {attributes} -C "$ROOT" -c . | tar {attributes} -C "$COPY" -xp"#);
    run(Command::new("sh").args(["-c", &line]).env("ROOT", tree).env("COPY", copy));
}

/// What was seen, in order of its first appearance.
#[derive(Default)]
pub(crate) struct Figures(pub(crate) Vec<Series>);

impl Figures {
    /// Times work; what the server used of the processors counts, too.
    pub(crate) fn time(&mut self, server: Option<&Server<'_>>, name: &str, work: impl FnOnce()) {
        settle();
        let of_server = || server.map(Server::cpu).unwrap_or_default();
        let (began, cpu, served) = (Instant::now(), cpu_time(), of_server());
        work();
        let wall = began.elapsed();
        let served = of_server().saturating_sub(served);
        let own = cpu_time().saturating_sub(cpu);
        eprintln!(
            "{name}: {:.3} s; processors: {:.2} s, of that the server {:.2} s",
            wall.as_secs_f64(),
            (own + served).as_secs_f64(),
            served.as_secs_f64()
        );
        let at = self.0.iter().position(|series| series.name == name).unwrap_or_else(|| {
            self.0.push(Series { name: name.into(), wall: Vec::new(), cpu: Vec::new() });
            self.0.len() - 1
        });
        let series = self.0.get_mut(at).expect("invariant: it was found or added");
        series.wall.push(wall.as_secs_f64());
        series.cpu.push((own + served).as_secs_f64());
    }
}

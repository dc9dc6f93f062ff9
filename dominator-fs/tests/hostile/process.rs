//! A process of its own that does one thing in a tight loop, as long as the test wants: this program again, in a role.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ROLE: &str = "DOMINATOR_TEST_ROLE";
const PLACE: &str = "DOMINATOR_TEST_PLACE";
const BEGUN: &str = "the storm has begun";
const ROUNDS: &str = "rounds of the storm: ";

/// What this process is to do, and where; nothing in the process that tests.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(PLACE)?.into()))
}

/// This program again, to run only `test`, in a role.
pub(crate) fn again(program: &[&str], test: &str, role: &str, place: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match program {
        [] => Command::new(this),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(this);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role).env(PLACE, place);
    command
}

/// A storm that rages until it is ended, or dropped.
pub(crate) struct Storm {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Storm {
    /// Begins it, and waits until it has gone round once.
    pub(crate) fn begin(test: &str, role: &str, place: &Path) -> Self {
        let mut command = again(&[], test, role, place);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        let mut storm = Self { child, says };
        storm.hear(BEGUN);
        storm
    }

    /// Ends it, and tells how often it went round.
    pub(crate) fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let rounds = self.hear(ROUNDS).parse().unwrap();
        assert!(self.child.wait().unwrap().success());
        rounds
    }

    /// What follows `word` where it is said.
    fn hear(&mut self, word: &str) -> String {
        for line in self.says.by_ref().lines() {
            if let Some((_, rest)) = line.unwrap().split_once(word) {
                return rest.to_owned();
            }
        }
        panic!("the storm ended by itself");
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Tells whoever reads the log what was seen: tests that find nothing wrong must show that they looked.
pub(crate) fn say(what: &str) {
    drop(writeln!(std::io::stdout().lock(), "{what}"));
}

/// Threads that go on until it is over are told when this is dropped, however that comes about.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Goes round and round until the test wants no more, or is gone.
pub(crate) fn rage(mut round: impl FnMut(&mut Dice)) {
    let over = Arc::new(AtomicBool::new(false));
    let listen = Arc::clone(&over);
    let listener = std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        listen.store(true, Ordering::Relaxed);
    });
    let say = |word: String| std::io::stdout().write_all(word.as_bytes()).unwrap();
    let (mut dice, mut rounds) = (Dice::new(std::process::id()), 0_u64);
    while !over.load(Ordering::Relaxed) {
        round(&mut dice);
        if rounds == 0 {
            say(format!("\n{BEGUN}\n"));
        }
        rounds += 1;
    }
    listener.join().unwrap();
    say(format!("\n{ROUNDS}{rounds}\n"));
}

/// Chance enough for a storm (xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u32) -> Self {
        Self(u64::from(seed) | 1 << 40)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

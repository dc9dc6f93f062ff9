//! The audit log as a file: nothing is lost but what is said to be.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use dominator_core::auth::{AuditCaller, AuditEvent, AuditFault, AuditLog, AuditRecord, CallId};
use dominator_fs::audit::{AuditError, AuditFile, QUEUE, Rotation};
use dominator_fs_testkit::{
    Call, CallKind, Fault, Faults, Lasting, Tap, Tapped, mount_tmpfs, unmount, with_mounts,
};
use rustix::io::Errno;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn record(server: u64, number: u64) -> AuditRecord {
    let caller = AuditCaller { user: "alice".into(), peer: "192.0.2.1:1".into(), ..AuditCaller::default() };
    AuditRecord {
        when: Duration::from_secs(1_800_000_000),
        call: CallId { server, number },
        event: AuditEvent::Begun,
        caller: Arc::new(caller),
        method: "Subd.Update".into(),
        ground: Some("listed".into()),
        target: None,
        suppressed: 0,
    }
}

/// Appends, and gives what becomes of it.
fn append(log: &AuditFile, record: &AuditRecord) -> Receiver<Result<(), AuditFault>> {
    let (sender, receiver) = channel();
    log.append(record, Box::new(move |outcome| sender.send(outcome).unwrap_or_default()));
    receiver
}

fn written(log: &AuditFile, record: &AuditRecord) -> Result<(), AuditFault> {
    append(log, record).recv_timeout(PATIENCE).expect("whoever waits is told")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{}: half a line at its end", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| Value::from(line))).collect()
}

/// What all files of a log hold, in order.
fn everything(path: &Path, rotation: Rotation) -> Vec<Value> {
    let mut files: Vec<_> = rotation.files(path).into_iter().filter(|file| file.exists()).collect();
    files[1..].reverse();
    files.rotate_left(1);
    files.iter().flat_map(|file| lines(file)).collect()
}

fn calls(lines: &[Value]) -> Vec<String> {
    let call = |line: &Value| line.get("call").and_then(Value::as_str).map(str::to_owned);
    lines.iter().filter_map(call).collect()
}

fn events(lines: &[Value]) -> Vec<(String, String)> {
    let word = |line: &Value, key| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    lines.iter().map(|line| (word(line, "event"), word(line, "why"))).collect()
}

/// Waits for something that nobody tells of.
fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    fn open(&self) -> AuditFile {
        AuditFile::open(&self.log(), Rotation::default()).unwrap()
    }
}

#[test]
fn rotation_under_load_loses_no_line_and_keeps_the_order_of_each_caller() {
    const CALLERS: u64 = 8;
    const EACH: u64 = 400;
    let place = Place::new();
    let rotation = Rotation { size: 10_000, kept: 500 };
    let log = AuditFile::open(&place.log(), rotation).unwrap();
    let start = Barrier::new(usize::try_from(CALLERS).unwrap());
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                // Now and then one waits, so that lines come in batches of all lengths.
                for number in 0..EACH {
                    let told = append(log, &record(caller, number));
                    if number % (caller + 1) == 0 {
                        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()));
                    }
                }
            });
        }
    });
    drop(log);
    let all = everything(&place.log(), rotation);
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for call in calls(&all) {
        let (caller, number) = call.split_once('-').unwrap();
        let expected = next.entry(caller.into()).or_default();
        assert_eq!(number.parse::<u64>().unwrap(), *expected, "of caller {caller}");
        *expected += 1;
    }
    assert_eq!(next.values().copied().collect::<Vec<_>>(), vec![EACH; usize::try_from(CALLERS).unwrap()]);
    let rotated = events(&all).iter().filter(|(event, why)| event == "opened" && why == "rotation").count();
    assert!(rotated > 10, "{rotated}");
}

#[test]
fn files_are_no_longer_and_no_more_than_is_said() {
    let place = Place::new();
    let rotation = Rotation { size: 4_000, kept: 3 };
    let log = AuditFile::open(&place.log(), rotation).unwrap();
    for number in 0..300 {
        written(&log, &record(1, number)).unwrap();
    }
    drop(log);
    let mut names: Vec<_> =
        fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]);
    for name in names {
        let metadata = fs::metadata(place.directory.path().join(&name)).unwrap();
        assert!(metadata.len() <= rotation.size, "{name:?}: {}", metadata.len());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name:?}");
    }
    let kept = calls(&everything(&place.log(), rotation));
    let expected: Vec<_> = (0..300).map(|number| format!("1-{number}")).collect();
    assert!(expected.ends_with(&kept) && kept.len() > 20, "the latest are kept: {}", kept.len());
}

#[test]
fn half_a_line_of_a_crash_is_ended_by_the_next_start() {
    let place = Place::new();
    fs::write(place.log(), "{\"event\":\"begun\"}\n{\"event\":\"beg").unwrap();
    let log = place.open();
    written(&log, &record(1, 7)).unwrap();
    drop(log);
    let text = fs::read_to_string(place.log()).unwrap();
    assert!(text.starts_with("{\"event\":\"begun\"}\n{\"event\":\"beg\n{"), "{text}");
    let all = lines(&place.log());
    assert_eq!(all[1], Value::from("{\"event\":\"beg"), "what was there stays");
    assert_eq!(events(&all[2..]), [("opened".into(), "start".into()), ("begun".into(), String::new())]);
}

#[test]
fn the_log_is_for_its_owner_only_and_never_elsewhere() {
    let place = Place::new();
    let path = place.log();
    let open = || AuditFile::open(&path, Rotation::default());
    drop(open().unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    fs::remove_file(&path).unwrap();
    let elsewhere = place.directory.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(open(), Err(AuditError::NoFile { .. })));
    fs::remove_file(&path).unwrap();
    symlink(place.directory.path().join("nowhere"), &path).unwrap();
    assert!(matches!(open(), Err(AuditError::NoFile { .. })), "nor is one made there");
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    assert!(matches!(open(), Err(AuditError::NoFile { .. })), "and a pipe keeps nobody waiting");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(open(), Err(AuditError::NoFile { .. })));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

#[test]
fn a_log_is_handed_over_by_a_process_that_ends() {
    let place = Place::new();
    let first = place.open();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| place.open());
        written(&first, &record(1, 0)).unwrap();
        drop(first);
        let second = second.join().unwrap();
        written(&second, &record(2, 0)).unwrap();
    });
    let all = lines(&place.log());
    assert_eq!(calls(&all), ["1-0", "2-0"]);
    let starts: Vec<_> = events(&all).into_iter().map(|(event, _)| event).collect();
    assert_eq!(starts, ["opened", "begun", "opened", "begun"], "one after the other");
}

#[test]
fn a_log_that_was_moved_away_is_begun_anew() {
    let place = Place::new();
    let log = place.open();
    written(&log, &record(1, 0)).unwrap();
    let moved = place.directory.path().join("moved");
    fs::rename(place.log(), &moved).unwrap();
    written(&log, &record(1, 1)).unwrap();
    fs::remove_file(place.log()).unwrap();
    written(&log, &record(1, 2)).unwrap();
    drop(log);
    assert_eq!(calls(&lines(&moved)), ["1-0"]);
    let all = lines(&place.log());
    assert_eq!(events(&all), [("opened".into(), "missing".into()), ("begun".into(), String::new())]);
    assert_eq!(calls(&all), ["1-2"]);
}

#[test]
fn a_disk_without_room_is_waited_for_and_what_was_lost_is_counted() {
    let (place, faults) = (Place::new(), Faults::none());
    let log = AuditFile::open_on(faults.disk(), &place.log(), Rotation::default()).unwrap();
    written(&log, &record(1, 0)).unwrap();
    let (kind, errno, lasting) = (Some(CallKind::Write), Errno::NOSPC, Lasting::ThisKind);
    faults.breaks(Fault { kind, nth: 1, errno, lasting });
    assert!(matches!(written(&log, &record(1, 1)), Err(AuditFault::Unwritable(_))));
    let (mut kept, mut lost) = (1, 0);
    while lost < 5 {
        match written(&log, &record(1, kept + lost + 1)) {
            Err(AuditFault::Unwritable(_)) => kept += 1,
            Err(AuditFault::Full) => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(faults.mend() > 0);
    // What waited is written as soon as the disk is looked at again; who comes then comes after the word about the lost.
    until(|| fs::metadata(place.log()).unwrap().len() > 4096);
    drop(append(&log, &record(2, 0)));
    drop(log);
    let all = lines(&place.log());
    let found = calls(&all);
    let early: Vec<_> = (0..=kept).map(|number| format!("1-{number}")).collect();
    assert_eq!(found[..early.len()], early, "what waited was written, in order");
    // Before those, the word that the log was opened.
    let end = &all[1 + early.len()..];
    assert_eq!(end.iter().filter_map(|line| line["count"].as_u64()).collect::<Vec<_>>(), [lost]);
    assert_eq!(calls(end), ["2-0"], "each is there or counted");
    assert!(end[0].get("count").is_some(), "where it is missing");
}

#[test]
fn who_has_no_power_takes_no_more_than_half_of_the_room_while_the_disk_is_gone() {
    let (place, faults) = (Place::new(), Faults::none());
    let log = AuditFile::open_on(faults.disk(), &place.log(), Rotation::default()).unwrap();
    written(&log, &record(1, 0)).unwrap();
    let (kind, errno, lasting) = (Some(CallKind::Write), Errno::NOSPC, Lasting::ThisKind);
    faults.breaks(Fault { kind, nth: 1, errno, lasting });
    let denied = |number| AuditRecord {
        event: AuditEvent::Denied { why: "x".into() },
        ground: None,
        ..record(2, number)
    };
    let public = |number| AuditRecord { ground: Some("public".into()), ..record(2, number) };
    let mut number = 0;
    while written(&log, &denied(number)) != Err(AuditFault::Full) {
        number += 1;
    }
    assert!(number > 1000, "{number}");
    assert_eq!(written(&log, &public(number)), Err(AuditFault::Full));
    assert!(matches!(written(&log, &record(1, 1)), Err(AuditFault::Unwritable(_))), "it waits");
    assert!(faults.mend() > 0);
    drop(log);
    let all = lines(&place.log());
    assert!(calls(&all).contains(&"1-1".into()), "and is there in the end");
    assert_eq!(all.iter().filter_map(|line| line["count"].as_u64()).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_file_system_that_is_really_full_tears_no_line() {
    with_mounts("a_file_system_that_is_really_full_tears_no_line", || {
        let place = Place::new();
        let mounted = place.directory.path().join("small");
        fs::create_dir(&mounted).unwrap();
        mount_tmpfs(&mounted, "size=64k");
        let path = mounted.join("audit.log");
        let log = AuditFile::open(&path, Rotation::default()).unwrap();
        fs::write(mounted.join("ballast"), vec![0; 40_000]).unwrap();
        // Many at once: of those that are written together, some find room and some don't.
        let number = 299;
        let told: Vec<_> = (0..=number).map(|number| append(&log, &record(1, number))).collect();
        let found_room = told.iter().filter(|told| told.recv_timeout(PATIENCE).unwrap().is_ok()).count();
        assert!((1..290).contains(&found_room), "{found_room}");
        fs::remove_file(mounted.join("ballast")).unwrap();
        let has = |number: u64| fs::read_to_string(&path).unwrap().contains(&format!("\"1-{number}\""));
        until(|| has(number));
        let last = number + 1;
        drop(append(&log, &record(1, last)));
        drop(log);
        let all = lines(&path);
        let found = calls(&all);
        let expected: Vec<_> = (0..=last).map(|number| format!("1-{number}")).collect();
        assert_eq!(found, expected, "each once");
        unmount(&mounted);
    });
}

#[test]
fn rotation_that_fails_costs_nothing() {
    let (place, faults) = (Place::new(), Faults::none());
    let rotation = Rotation { size: 2_000, kept: 2 };
    let log = AuditFile::open_on(faults.disk(), &place.log(), rotation).unwrap();
    for number in 0..30 {
        written(&log, &record(1, number)).unwrap();
    }
    let before = fs::read(place.directory.path().join("audit.log.1")).unwrap();
    let (kind, errno, lasting) = (Some(CallKind::Create), Errno::NOSPC, Lasting::ThisKind);
    faults.breaks(Fault { kind, nth: 1, errno, lasting });
    for number in 30..60 {
        written(&log, &record(1, number)).unwrap();
    }
    assert!(faults.mend() > 0, "it was tried");
    assert_eq!(fs::read(place.directory.path().join("audit.log.1")).unwrap(), before);
    drop(log);
    let found = calls(&lines(&place.log()));
    assert!(found.ends_with(&["1-59".into()]) && found.len() >= 30, "{found:?}");
}

#[test]
fn rotation_that_breaks_off_between_two_renames_removes_one_file_at_most() {
    for nth in 1..=4 {
        let (place, faults) = (Place::new(), Faults::none());
        let rotation = Rotation { size: 1_000, kept: 3 };
        let log = AuditFile::open_on(faults.disk(), &place.log(), rotation).unwrap();
        let mut number = 0;
        let mut next = || {
            number += 1;
            record(1, number)
        };
        while !rotation.files(&place.log()).last().unwrap().exists() {
            written(&log, &next()).unwrap();
        }
        let (kind, errno, lasting) = (Some(CallKind::Rename), Errno::IO, Lasting::Once);
        faults.breaks(Fault { kind, nth, errno, lasting });
        let oldest = |log: &Path| calls(&everything(log, rotation))[0].clone();
        let before = oldest(&place.log());
        // Until the fault was hit, and long enough after it.
        for _ in 0..60 {
            written(&log, &next()).unwrap();
        }
        assert_eq!(faults.mend(), 1, "rename {nth}");
        let after = calls(&everything(&place.log(), rotation));
        drop(log);
        assert!(after.len() > 8, "{nth}: {before} {after:?}");
        let numbers: Vec<u64> =
            after.iter().map(|call| call.split_once('-').unwrap().1.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{nth}: in order, without a gap: {numbers:?}");
    }
}

/// A disk that takes its time with some calls: as long as it is told to.
#[derive(Default)]
struct Slow {
    stuck: Mutex<Option<CallKind>>,
    freed: Condvar,
}

impl Slow {
    fn sticks(&self, kind: Option<CallKind>) {
        *self.stuck.lock().unwrap() = kind;
        self.freed.notify_all();
    }
}

impl Tap for Slow {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let stuck = self.stuck.lock().unwrap();
        drop(self.freed.wait_while(stuck, |stuck| *stuck == Some(call.kind())).unwrap());
        Ok(())
    }
}

#[test]
fn a_disk_that_takes_its_time_keeps_nobody_waiting() {
    let (place, slow) = (Place::new(), Arc::new(Slow::default()));
    let disk = Arc::new(Tapped(Arc::clone(&slow)));
    let log = AuditFile::open_on(disk, &place.log(), Rotation::default()).unwrap();
    written(&log, &record(1, 0)).unwrap();
    slow.sticks(Some(CallKind::Fsync));
    for number in 1..100 {
        written(&log, &record(1, number)).unwrap();
    }
    slow.sticks(Some(CallKind::Write));
    // Nothing is written, and every append returns: the queue is bounded.
    let length = record(1, 0).line().len();
    let mut waiting = Vec::new();
    let mut full = 0;
    while full < 3 {
        let told = append(&log, &record(2, 0));
        match told.try_recv() {
            Ok(outcome) => {
                assert_eq!(outcome, Err(AuditFault::Full));
                full += 1;
            }
            Err(_) => waiting.push(told),
        }
        assert!(waiting.len() * length <= QUEUE + 2 * 64 * 1024, "the queue has an end");
    }
    slow.sticks(None);
    for told in waiting {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
}

#[test]
fn what_was_written_is_settled_within_a_second_or_at_the_end() {
    let (place, faults) = (Place::new(), Faults::none());
    let log = AuditFile::open_on(faults.disk(), &place.log(), Rotation::default()).unwrap();
    written(&log, &record(1, 0)).unwrap();
    faults.count();
    written(&log, &record(1, 1)).unwrap();
    drop(log);
    assert!(faults.count().get(&CallKind::Fsync).is_some_and(|times| *times > 0));
}

#[test]
fn a_closed_log_takes_what_was_brought_and_says_what_it_did_not() {
    let (place, faults) = (Place::new(), Faults::none());
    let log = AuditFile::open_on(faults.disk(), &place.log(), Rotation::default()).unwrap();
    let told: Vec<_> = (0..1000).map(|number| append(&log, &record(1, number))).collect();
    drop(log);
    assert!(told.iter().all(|told| told.recv_timeout(PATIENCE).unwrap() == Ok(())));
    assert_eq!(calls(&lines(&place.log())).len(), 1000);
    let log = AuditFile::open_on(faults.disk(), &place.log(), Rotation::default()).unwrap();
    let (kind, errno, lasting) = (Some(CallKind::Write), Errno::IO, Lasting::ThisKind);
    faults.breaks(Fault { kind, nth: 1, errno, lasting });
    let told: Vec<_> = (0..1000).map(|number| append(&log, &record(2, number))).collect();
    drop(log);
    assert!(told.iter().all(|told| told.recv_timeout(PATIENCE).unwrap().is_err()), "nobody waits for ever");
}

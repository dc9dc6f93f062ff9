use std::io::Seek;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::inode::{Mode, Timestamp, Xattrs};
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;
use dominator_core::view::{Ownership, XattrPolicy};
use proptest::prelude::*;

use super::*;
use crate::seam::Kernel;
use crate::update::metadata::{Attributes, Rules};
use crate::update::step::{Change, Lift, Lifted, Made, Old, Slot, Step, Target, Written};
use crate::update::trial::Judged;
use crate::update::undo::{Conflict, UndoReport};

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/journal.bin");
const ROOT: Id = Id { ino: 2, generation: 1_000_000_000_000_000_007 };

/// All of an update that is written.
type Update = (Vec<u8>, Option<Trial>, Prepared);

/// One of each kind, with a trial.
fn whole() -> Update {
    let trial = Trial { deadline: Duration::from_secs(90), judged: Judged::AfterReboot };
    (b"an image and its triggers".to_vec(), Some(trial), sample())
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn id(ino: u64) -> Id {
    Id { ino, generation: ino << 32 | 5 }
}

fn attributes(mode: Option<u32>) -> Attributes {
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.note", b"n").unwrap();
    xattrs.insert(b"security.capability", b"").unwrap();
    let mtime = mode.and_then(|_| Timestamp::new(-1, 999_999_999));
    Attributes { mode: mode.map(Mode::from_st_mode), uid: 1, gid: u32::MAX, xattrs, mtime }
}

/// One of each kind.
fn sample() -> Prepared {
    let written = Written { size: 6, mtime: Timestamp::new(1_000_000_000, 1).unwrap() };
    let put = |text, slot, old, made| Step::Put {
        path: path(text),
        slot: Slot(slot),
        new: id(slot.into()),
        old,
        made,
    };
    let change = |of, paths: &[&str], mode| {
        let paths = paths.iter().map(|text| path(text)).collect();
        let (before, after) = (attributes(mode), attributes(mode.map(|mode| mode ^ 0o7007)));
        Step::Attributes(Box::new(Change { paths, inode: id(90), of, before, after }))
    };
    let object = Some(ObjectId::of(b"hello\n"));
    let steps = vec![
        put("/dir", 2, Old::Other(id(70)), Made::Directory),
        put("/dir/file", 3, Old::Nothing, Made::File { written, object }),
        put("/dir/copy", 4, Old::Directory(id(71)), Made::File { written, object: None }),
        put("/symlink", 5, Old::Nothing, Made::Other),
        put("/link", 3, Old::Other(id(72)), Made::Link),
        change(Target::Directory, &["/"], Some(0o755)),
        change(Target::File, &["/one", "/other"], Some(0o644)),
        change(Target::Other, &["/device"], None),
        Step::Delete { path: path("/gone"), slot: Slot(u32::MAX), old: id(73), directory: false },
        Step::Delete { path: path("/empty"), slot: Slot(7), old: id(74), directory: true },
    ];
    let (before, after) = (Mode::from_st_mode(0o555), Mode::from_st_mode(0o500));
    let lifts = vec![
        Lift { path: path("/dir"), what: Lifted::Mode { inode: id(75), before, after } },
        Lift { path: path("/etc/fixed"), what: Lifted::Flags(0x30) },
    ];
    let failures = vec![PathFailure { path: path("/keys"), reason: "refused: it is protected".to_owned() }];
    let rules = Rules { ownership: Ownership::Kept, xattrs: XattrPolicy::ALL };
    Prepared { rules, steps, lifts, done: 3, failures }
}

fn written((note, trial, prepared): &Update) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    format::write(&Kernel, &file, ROOT, (note, *trial), prepared).unwrap();
    contents(file)
}

fn contents(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

fn reading(bytes: &[u8]) -> Result<Update, JournalError> {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    file.rewind().unwrap();
    let loaded = format::read(&file, bytes.len() as u64)?;
    assert_eq!(loaded.root, ROOT);
    if loaded.len != bytes.len() as u64 {
        return Err(JournalError::Damaged("more at its end"));
    }
    Ok((loaded.note, loaded.trial, loaded.prepared))
}

#[test]
fn the_golden_journal_is_what_is_written_and_read() {
    assert_eq!(written(&whole()), GOLDEN);
    assert_eq!(reading(GOLDEN).unwrap(), whole());
}

/// Under a digest that is right.
fn under_a_digest(bytes: &[u8]) -> Vec<u8> {
    [bytes, ObjectId::of(bytes).as_bytes()].concat()
}

#[test]
fn what_is_read_is_what_was_written_or_is_refused() {
    let sound = &GOLDEN[..GOLDEN.len() - ObjectId::LEN];
    let mut refused = 0;
    for place in 28..sound.len() {
        for bit in 0..7 {
            let mut flipped = GOLDEN.to_vec();
            flipped[place] ^= 1 << bit;
            assert!(matches!(reading(&flipped), Err(JournalError::Damaged(_))), "bit {bit} of {place}");
            // Also when whoever did that knows how digests are made.
            let hostile = under_a_digest(&flipped[..sound.len()]);
            match reading(&hostile) {
                Ok(update) => assert_eq!(written(&update), hostile, "bit {bit} of {place}"),
                Err(JournalError::Damaged(_)) => refused += 1,
                Err(error) => panic!("bit {bit} of {place}: {error}"),
            }
        }
        assert!(matches!(reading(&GOLDEN[..place]), Err(JournalError::Damaged(_))), "cut at {place}");
        assert!(matches!(reading(&under_a_digest(&sound[..place])), Err(JournalError::Damaged(_))));
    }
    assert!(refused > 100, "{refused}");
    assert!(reading(&under_a_digest(&[sound, b"x"].concat())).is_err());
    let mut other_version = sound.to_vec();
    other_version[3] = b'1';
    assert!(matches!(reading(&under_a_digest(&other_version)), Err(JournalError::Damaged(_))));
}

/// A journal in a work directory of its own.
fn journal(dir: &std::path::Path) -> (Root, WorkDirectory, Journal) {
    let root = Root::open(dir).unwrap();
    let work = WorkDirectory::open(&root, &Kernel).unwrap();
    let journal = Journal::write(&Kernel, &work, &root, (b"note", whole().1), &sample()).unwrap();
    (root, work, journal)
}

#[test]
fn phases_are_written_in_place_and_the_last_one_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (root, work, mut journal) = journal(dir.path());
    let file = dir.path().join(".subd/journal");
    let size = || std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    let (len, blocks) = (file.metadata().unwrap().len(), size());
    let phase = || Journal::find(&work, &root).unwrap().unwrap().phase;
    assert_eq!(phase(), Phase::Prepared);
    journal.swapping(&Kernel).unwrap();
    assert_eq!(phase(), Phase::Swapping);
    let totals = Totals { applied: 12, kept: 1, failed: u64::MAX };
    let durable = publish::settle_all(&Kernel, root.as_fd()).unwrap();
    journal.committed(&Kernel, &durable, totals).unwrap();
    assert_eq!(phase(), Phase::Committed(totals));
    let boot = BootId::of(b"one");
    journal.booted(&Kernel, totals, boot).unwrap();
    assert_eq!(phase(), Phase::Booted(totals, boot));
    journal.accepted(&Kernel, totals).unwrap();
    assert_eq!(phase(), Phase::Accepted(totals));
    journal.undoing(&Kernel, Reason::Unhealthy).unwrap();
    assert_eq!(phase(), Phase::Undoing(Reason::Unhealthy));
    let account = account(3);
    journal.undone(&Kernel, &durable, account.clone()).unwrap();
    assert_eq!(phase(), Phase::Undone(Box::new(account)));
    assert_eq!((file.metadata().unwrap().len(), size()), (len, blocks), "no phase takes room");
    Journal::remove(&Kernel, &work).unwrap();
    assert!(Journal::find(&work, &root).unwrap().is_none());
}

/// What came of an undoing, with so many paths that are not as before.
fn account(count: usize) -> Account {
    let failure = |number: usize| PathFailure {
        path: path(&format!("/failed/{number}")),
        reason: "what was there before can't go back".to_owned(),
    };
    let conflict = |number: usize| Conflict {
        path: path(&format!("/changed/{number}")),
        reason: "somebody wrote to it".to_owned(),
        kept: number.is_multiple_of(2).then(|| path("/.subd/conflicts/7")),
    };
    let report = UndoReport {
        undone: 12,
        conflicts: (0..count).map(conflict).collect(),
        failures: (0..count).map(failure).collect(),
        window: Duration::from_millis(15),
    };
    Account { reason: Reason::NeverHealthy, stopped: Some(failure(0)), report }
}

#[test]
fn what_was_undone_is_told_as_far_as_there_is_room_and_counted_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let (root, work, mut journal) = journal(dir.path());
    let durable = publish::settle_all(&Kernel, root.as_fd()).unwrap();
    let size = || dir.path().join(".subd/journal").metadata().unwrap().len();
    let before = size();
    let long = account(5000);
    journal.undone(&Kernel, &durable, long.clone()).unwrap();
    assert_eq!(size(), before, "it takes no room");
    let Phase::Undone(told) = Journal::find(&work, &root).unwrap().unwrap().phase else { panic!() };
    let UndoReport { conflicts, failures, .. } = told.report;
    let (last, failures) = failures.split_last().unwrap();
    assert_eq!(long.report.failures[..failures.len()], *failures);
    assert_eq!(long.report.conflicts[..conflicts.len()], conflicts);
    let rest = 10_000 - failures.len() - conflicts.len();
    assert!(failures.len() > 300 && last.reason.starts_with(&format!("{rest} more")), "{last:?}");
}

#[test]
fn a_phase_that_is_torn_or_of_another_journal_was_never_reached() {
    let dir = tempfile::tempdir().unwrap();
    let (root, work, mut journal) = journal(dir.path());
    journal.swapping(&Kernel).unwrap();
    let file = dir.path().join(".subd/journal");
    let sound = std::fs::read(&file).unwrap();
    let at = sound.len() - usize::try_from(Blocks::LEN).unwrap();
    let end = at + 71;
    for place in at..end {
        let mut torn = sound.clone();
        torn[place] ^= 1;
        std::fs::write(&file, &torn).unwrap();
        assert_eq!(Journal::find(&work, &root).unwrap().unwrap().phase, Phase::Prepared, "{place}");
        torn[place..end].fill(0);
        std::fs::write(&file, &torn).unwrap();
        assert_eq!(Journal::find(&work, &root).unwrap().unwrap().phase, Phase::Prepared, "from {place} on");
    }
    let mut other = sample();
    other.done += 1;
    Journal::remove(&Kernel, &work).unwrap();
    drop(Journal::write(&Kernel, &work, &root, (b"note", whole().1), &other).unwrap());
    let mut mixed = std::fs::read(&file).unwrap();
    mixed[at..].copy_from_slice(&sound[at..]);
    std::fs::write(&file, &mixed).unwrap();
    assert_eq!(Journal::find(&work, &root).unwrap().unwrap().phase, Phase::Prepared);
}

#[test]
fn a_journal_that_is_longer_than_it_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (root, work, _) = journal(dir.path());
    let file = dir.path().join(".subd/journal");
    let sound = std::fs::read(&file).unwrap();
    std::fs::write(&file, [sound.as_slice(), &[0; 4096]].concat()).unwrap();
    assert!(matches!(Journal::find(&work, &root), Err(JournalError::Damaged(_))));
    std::fs::write(&file, &sound[..sound.len() - 4096]).unwrap();
    assert!(matches!(Journal::find(&work, &root), Err(JournalError::Damaged(_))));
    std::fs::write(&file, &sound).unwrap();
    assert!(Journal::find(&work, &root).unwrap().is_some());
}

fn any_id() -> impl Strategy<Value = Id> {
    (any::<u64>(), any::<u64>()).prop_map(|(ino, generation)| Id { ino, generation })
}

fn any_path() -> impl Strategy<Value = ImagePath> {
    "(/[a-z\u{80}-\u{ff}]{1,9}){1,4}".prop_map(|text| path(&text))
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let time = prop::option::of((any::<i64>(), 0..1_000_000_000_u32));
    let mode = prop::option::of(0..0o10000_u32);
    let note = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    (mode, any::<u32>(), any::<u32>(), note, time).prop_map(|(mode, uid, gid, note, time)| {
        let mut xattrs = Xattrs::default();
        note.map_or(Ok(()), |note| xattrs.insert(b"user.x", &note)).unwrap();
        let mtime = time.and_then(|(seconds, nanos)| Timestamp::new(seconds, nanos));
        Attributes { mode: mode.map(Mode::from_st_mode), uid, gid, xattrs, mtime }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let old =
        prop_oneof![Just(Old::Nothing), any_id().prop_map(Old::Directory), any_id().prop_map(Old::Other)];
    let file = (any::<u64>(), any::<i64>(), any::<Option<[u8; 32]>>()).prop_map(|(size, seconds, object)| {
        let written = Written { size, mtime: Timestamp::new(seconds, 3).unwrap() };
        Made::File { written, object: object.map(ObjectId::from_bytes) }
    });
    let made = prop_oneof![file, Just(Made::Directory), Just(Made::Other), Just(Made::Link)];
    let of = prop_oneof![Just(Target::Directory), Just(Target::File), Just(Target::Other)];
    let paths = prop::collection::vec(any_path(), 1..4);
    prop_oneof![
        (any_path(), any::<u32>(), any_id(), old, made).prop_map(|(path, slot, new, old, made)| Step::Put {
            path,
            slot: Slot(slot),
            new,
            old,
            made
        }),
        (paths, any_id(), of, any_attributes(), any_attributes()).prop_map(
            |(paths, inode, of, before, after)| {
                Step::Attributes(Box::new(Change { paths, inode, of, before, after }))
            }
        ),
        (any_path(), any::<u32>(), any_id(), any::<bool>())
            .prop_map(|(path, slot, old, directory)| Step::Delete { path, slot: Slot(slot), old, directory }),
    ]
}

proptest! {
    #[test]
    fn any_update_comes_back_as_it_was(
        steps in prop::collection::vec(any_step(), 0..20),
        note in prop::collection::vec(any::<u8>(), 0..100),
        seconds in any::<Option<u16>>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let prepared = Prepared { steps, ..sample() };
        let update = (note, seconds.map(|seconds| Trial { deadline: Duration::from_secs(seconds.into()), judged: Judged::AfterServices }), prepared);
        let bytes = written(&update);
        prop_assert_eq!(reading(&bytes).unwrap(), update);
        let cut = cut.index(bytes.len());
        prop_assert!(reading(&bytes[..cut]).is_err());
    }

    #[test]
    fn no_noise_is_a_journal(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(reading(&noise).is_err());
        let hostile = under_a_digest(&[b"DJN2".as_slice(), &[0; 8], &noise].concat());
        if let Ok((note, prepared)) = format::read(&file_of(&hostile), hostile.len() as u64).map(|l| (l.note, l.prepared)) {
            prop_assert!(note.len() + prepared.steps.len() <= noise.len());
        }
    }
}

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    file.rewind().unwrap();
    Arc::new(file)
}

//! Who follows the images knows what there is, whatever happens; who looks for some finds those; and nobody ends an image
//! sooner than it was to end.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dominator_core::catalog::{
    Catalog, Change, Entry, Epoch, ExpiryChange, ExpiryLimits, ExpiryRefusal, Followed, ImageUpdate, Latest,
    Position, Removal, Selection, TagMatches, Within,
};
use dominator_core::image::{Build, ImageName};
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use futures_core::Stream;
use proptest::prelude::*;

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// Images with their ends, and directories with their owners.
type Names = (BTreeMap<ImageName, Option<u64>>, BTreeMap<DirectoryName, Option<GroupName>>);

fn owned((name, owner_group): (&DirectoryName, &Option<GroupName>)) -> ImageDirectory {
    ImageDirectory { name: name.clone(), owner_group: owner_group.clone() }
}

/// What a follower knows.
#[derive(Default)]
struct Mirror {
    images: Names,
    /// Nothing while it is told of all there is.
    position: Option<Position>,
}

impl Mirror {
    /// Notes an update; says where it is, when it knows everything there is there.
    fn note(&mut self, update: ImageUpdate) -> Option<Position> {
        match update {
            ImageUpdate::Begin => *self = Self::default(),
            ImageUpdate::Directory(ImageDirectory { name, owner_group }) => {
                assert!(self.images.0.is_empty() && self.position.is_none(), "{name} comes late");
                assert!(name.parent().is_none_or(|parent| self.images.1.contains_key(&parent)), "{name}");
                self.images.1.insert(name, owner_group);
            }
            ImageUpdate::Image { name, entry } => {
                assert_eq!(self.position, None, "{name} is told of in a list");
                self.images.0.insert(name, entry.expires_at);
            }
            ImageUpdate::Current(position) => self.position = Some(position),
            ImageUpdate::Change { position, change } => {
                let before = self.position.expect("a change comes after a list");
                assert_eq!((position.epoch, position.sequence), (before.epoch, before.sequence + 1));
                self.position = Some(position);
                match change {
                    Change::Added { name, entry } => {
                        assert_eq!(self.images.0.insert(name, entry.expires_at), None)
                    }
                    Change::Altered { name, entry } => {
                        assert!(self.images.0.insert(name, entry.expires_at).is_some());
                    }
                    Change::Removed { name, .. } => assert!(self.images.0.remove(&name).is_some()),
                    Change::Directory(ImageDirectory { name, owner_group }) => {
                        self.images.1.insert(name, owner_group);
                    }
                    Change::DirectoryRemoved(name) => assert!(self.images.1.remove(&name).is_some()),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
        self.position
    }
}

fn poll(followed: &mut Followed) -> Option<ImageUpdate> {
    match Pin::new(followed).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(update) => Some(update.expect("it never ends")),
        Poll::Pending => None,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Option<u64>),
    Remove(u8, Removal),
    /// A directory is made or given to a group.
    Own(u8, Option<u8>),
    RemoveDirectory(u8),
    /// The follower hears so many updates.
    Hear(u8),
    /// The connection breaks; the follower goes on from where it was.
    Break,
    /// The server starts anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, prop::option::of(1..9_u64)).prop_map(|(n, end)| Step::Put(n, end)),
        2 => (0..6_u8, prop_oneof![Just(Removal::Deleted), Just(Removal::Expired)])
            .prop_map(|(n, why)| Step::Remove(n, why)),
        2 => (0..3_u8, prop::option::of(0..2_u8)).prop_map(|(n, group)| Step::Own(n, group)),
        1 => (0..3_u8).prop_map(Step::RemoveDirectory),
        4 => (0..6_u8).prop_map(Step::Hear),
        2 => Just(Step::Break),
        1 => Just(Step::Restart),
    ]
}

/// A server with a short log, whatever it ever had, and one who follows it.
struct Scene {
    catalog: Catalog,
    epoch: u64,
    now: (Position, Names),
    past: BTreeMap<(u64, u64), Names>,
    mirror: Mirror,
    followed: Followed,
}

const ROOM: usize = 4;

impl Scene {
    fn new() -> Self {
        let catalog = Catalog::new(Epoch(1), ROOM);
        let followed = catalog.follow(Selection::default(), None);
        let start = Position { epoch: Epoch(1), sequence: 0 };
        let nothing: Names = (BTreeMap::new(), [(DirectoryName::ROOT, None)].into());
        let past = BTreeMap::from([((1, 0), nothing.clone())]);
        Self { catalog, epoch: 1, now: (start, nothing), past, mirror: Mirror::default(), followed }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(number, end) => {
                let image = name(&format!("i/{number}"));
                self.catalog.put(&image, Entry { expires_at: *end, ..Entry::default() });
                self.now.1.0.insert(image, *end);
                self.happened();
            }
            Step::Remove(number, why) => {
                let image = name(&format!("i/{number}"));
                self.catalog.remove(&image, *why);
                if self.now.1.0.remove(&image).is_some() {
                    self.happened();
                }
            }
            Step::Own(number, group) => {
                let name: DirectoryName = format!("d{number}").parse().unwrap();
                let group: Option<GroupName> = group.map(|group| format!("g{group}").parse().unwrap());
                self.catalog.put_directory(owned((&name, &group)));
                if self.now.1.1.insert(name, group.clone()) != Some(group) {
                    self.happened();
                }
            }
            Step::RemoveDirectory(number) => {
                let name: DirectoryName = format!("d{number}").parse().unwrap();
                self.catalog.remove_directory(&name);
                if self.now.1.1.remove(&name).is_some() {
                    self.happened();
                }
            }
            Step::Hear(count) => {
                (0..*count).take_while(|_| self.hear()).count();
            }
            Step::Break => self.resume(),
            Step::Restart => {
                self.epoch += 1;
                let (images, directories) = &self.now.1;
                let all = images
                    .iter()
                    .map(|(name, end)| (name.clone(), Entry { expires_at: *end, ..Entry::default() }));
                self.catalog = Catalog::new(Epoch(self.epoch), ROOM);
                self.catalog.fill(directories.iter().map(owned), all);
                self.now.0 = Position { epoch: Epoch(self.epoch), sequence: 0 };
                self.past.insert((self.epoch, 0), self.now.1.clone());
                self.resume();
            }
        }
    }

    fn happened(&mut self) {
        self.now.0.sequence += 1;
        self.past.insert((self.epoch, self.now.0.sequence), self.now.1.clone());
    }

    fn resume(&mut self) {
        self.followed = self.catalog.follow(Selection::default(), self.mirror.position);
    }

    /// Whether there was anything to be heard.
    fn hear(&mut self) -> bool {
        let Some(update) = poll(&mut self.followed) else { return false };
        if let Some(position) = self.mirror.note(update) {
            let then = &self.past[&(position.epoch.0, position.sequence)];
            assert_eq!(&self.mirror.images, then, "at {position}");
        }
        true
    }
}

proptest! {
    #[test]
    fn a_follower_knows_at_every_position_what_there_was_whatever_breaks(steps in prop::collection::vec(step(), 0..60)) {
        let mut scene = Scene::new();
        steps.iter().for_each(|step| scene.step(step));
        while scene.hear() {}
        prop_assert_eq!(scene.mirror.position, Some(scene.now.0));
        let fresh = scene.catalog.images();
        let fresh: BTreeMap<_, _> = fresh.iter().map(|(name, entry)| (name.clone(), entry.expires_at)).collect();
        prop_assert_eq!(&scene.mirror.images.0, &fresh);
        let directories: Vec<_> = scene.mirror.images.1.iter().map(owned).collect();
        prop_assert_eq!(&directories, &scene.catalog.directories());
        let ends: BTreeSet<u64> = fresh.values().flatten().copied().collect();
        prop_assert_eq!(scene.catalog.next_end(), ends.first().copied());
    }
}

#[test]
fn who_was_away_for_no_longer_than_the_log_reaches_hears_only_what_is_new() {
    let catalog = Catalog::new(Epoch(7), ROOM);
    catalog.fill([], [(name("a/0"), Entry::default())]);
    let heard = |from: Position| {
        let mut followed = catalog.follow(Selection::default(), Some(from));
        std::iter::from_fn(|| poll(&mut followed)).collect::<Vec<_>>()
    };
    let start = Position { epoch: Epoch(7), sequence: 0 };
    for number in 1..=ROOM {
        catalog.put(&name(&format!("a/{number}")), Entry::default());
        let heard = heard(start);
        assert_eq!(heard[0], ImageUpdate::Current(start));
        assert_eq!(heard.len(), number + 1, "{heard:?}");
    }
    for from in [
        Position { sequence: 9, ..start },
        Position { epoch: Epoch(8), sequence: 2 },
        Position { epoch: Epoch(8), sequence: 4 },
    ] {
        assert_eq!(heard(from)[0], ImageUpdate::Begin, "{from}");
    }
    catalog.put(&name("a/9"), Entry::default());
    assert_eq!(heard(start)[0], ImageUpdate::Begin, "what it missed is not known any more");
}

struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn whoever_waits_is_woken_by_changes_and_forgotten_when_gone() {
    let catalog = Catalog::new(Epoch(1), ROOM);
    let counted = Arc::new(Counted(AtomicUsize::new(0)));
    let waker = Waker::from(counted.clone());
    let mut context = Context::from_waker(&waker);
    let wanted = name("a/2");
    let mut waiting = pin!(catalog.appears(&wanted));
    let mut followed = catalog.follow(Selection::default(), None);
    while Pin::new(&mut followed).poll_next(&mut context).is_ready() {}
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    catalog.put(&name("a/1"), Entry::default());
    assert_eq!(counted.0.load(Ordering::Relaxed), 2, "both look again");
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    drop(followed);
    catalog.put(&wanted, Entry::default());
    assert_eq!(counted.0.load(Ordering::Relaxed), 3);
    assert!(waiting.as_mut().poll(&mut context).is_ready());
}

/// A name, when it was added and when it ends, its tags.
type Row<'a> = (&'a str, u64, Option<u64>, &'a [(&'a str, &'a str)]);

fn images(rows: &[Row<'_>]) -> Catalog {
    let entry = |created_on: u64, expires_at, tags: &[(&str, &str)]| Entry {
        created_on,
        expires_at,
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        build: Build { commit_id: format!("c{created_on}"), branch: "main".into(), ..Build::default() },
        damaged: false,
    };
    let rows =
        rows.iter().map(|(image, created, expires, tags)| (name(image), entry(*created, *expires, tags)));
    let damaged = (name("web/0-broken"), Entry { created_on: 99, ..Entry::damaged() });
    let catalog = Catalog::new(Epoch(1), ROOM);
    catalog.fill([], rows.chain([damaged]));
    catalog
}

fn some_images() -> Catalog {
    images(&[
        ("top", 50, None, &[]),
        ("web/1", 10, None, &[("stage", "prod"), ("arch", "x86")]),
        ("web/2", 20, None, &[("stage", "test"), ("arch", "x86")]),
        ("web/3", 20, None, &[("stage", "prod"), ("arch", "arm")]),
        ("web/4", 30, Some(1), &[("stage", "prod")]),
        ("web/old/1", 40, None, &[("stage", "prod")]),
        ("website/1", 60, None, &[]),
    ])
}

fn tags(text: &str) -> TagMatches {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn selections_hold_what_they_say() {
    let everything = "top web/0-broken web/1 web/2 web/3 web/4 web/old/1 website/1";
    let below = "web/0-broken web/1 web/2 web/3 web/4 web/old/1";
    for (within, matches, ignore_expiring, expected) in [
        ("", "", false, everything),
        (".", "", false, everything),
        ("web", "", false, below),
        ("web/", "", false, "web/0-broken web/1 web/2 web/3 web/4"),
        ("web/old", "", false, "web/old/1"),
        ("we", "", false, ""),
        ("./", "", false, "top"),
        ("top", "", false, ""),
        ("web", "", true, "web/0-broken web/1 web/2 web/3 web/old/1"),
        ("web", "stage=prod", false, "web/1 web/3 web/4 web/old/1"),
        ("web", "stage=prod", true, "web/1 web/3 web/old/1"),
        ("web/", "stage=prod,stage=test", true, "web/1 web/2 web/3"),
        ("web", "stage=prod,arch=x86", false, "web/1"),
        ("web", "stage=prod,arch=x86,arch=arm", false, "web/1 web/3"),
        ("", "Stage=prod", false, ""),
    ] {
        let within: Within = within.parse().unwrap();
        let selection = Selection { within: within.clone(), tags: tags(matches), ignore_expiring };
        let found: Vec<_> = selection.of(&some_images().images()).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected, "{within:?} {matches:?} {ignore_expiring}");
        assert_eq!(within.to_string().parse(), Ok(within));
    }
}

#[test]
fn the_latest_image_is_the_newest_of_its_directory_itself() {
    for (directory, built, matches, ignore_expiring, expected) in [
        ("web", "", "", false, Some("web/4")),
        ("web/", "", "", false, Some("web/4")),
        ("web", "", "", true, Some("web/3")),
        ("web", "", "stage=test", false, Some("web/2")),
        ("web", "", "stage=prod,arch=x86", false, Some("web/1")),
        ("web", "", "stage=none", false, None),
        ("web", "c20", "", false, Some("web/3")),
        ("web", "c20", "stage=test", false, Some("web/2")),
        ("web", "main", "", true, Some("web/3")),
        ("web", "c2", "", false, None),
        ("web/old", "", "", false, Some("web/old/1")),
        ("", "", "", false, Some("top")),
        (".", "", "", false, Some("top")),
        ("we", "", "", false, None),
    ] {
        let commit_or_branch = Some(built.to_owned()).filter(|built| !built.is_empty());
        let latest =
            Latest { directory: directory.into(), commit_or_branch, tags: tags(matches), ignore_expiring };
        let found = latest.of(&some_images().images());
        assert_eq!(found.map(|name| name.to_string()).as_deref(), expected, "{latest:?}");
    }
}

#[test]
fn who_follows_a_selection_hears_of_nothing_else_and_can_go_on_all_the_same() {
    let catalog = some_images();
    let selection =
        Selection { within: "web/".parse().unwrap(), ignore_expiring: true, ..Selection::default() };
    let mut followed = catalog.follow(selection.clone(), None);
    let mut mirror = Mirror::default();
    let hear = |followed: &mut Followed, mirror: &mut Mirror| {
        while let Some(update) = poll(followed) {
            if let ImageUpdate::Change { change, .. } = &update {
                let (name, entry) = change.image().unwrap();
                assert!(selection.has(name, entry), "{change:?}");
            }
            mirror.position = match update {
                // What is no part of the selection is a position, and nothing else.
                ImageUpdate::Change { position, change: Change::Altered { name, entry } } => {
                    mirror.images.0.insert(name, entry.expires_at);
                    Some(position)
                }
                update => mirror.note(update),
            };
        }
    };
    hear(&mut followed, &mut mirror);
    catalog.put(&name("elsewhere/1"), Entry::default());
    catalog.put(&name("web/9"), Entry { expires_at: Some(9), ..Entry::default() });
    catalog.remove(&name("web/1"), Removal::Deleted);
    // It stays, from now on.
    catalog.put(&name("web/4"), Entry::default());
    hear(&mut followed, &mut mirror);
    let known: Vec<_> = mirror.images.0.keys().map(ToString::to_string).collect();
    assert_eq!(known, ["web/0-broken", "web/2", "web/3", "web/4"]);
    assert_eq!(mirror.position.map(|position| position.sequence), Some(4));
}

#[test]
fn an_end_is_only_put_off_and_only_as_far_as_somebody_may() {
    const HOUR: u64 = 3600;
    const NOW: u64 = 1_800_000_000;
    let in_hours = |hours: u64| Some(NOW + hours * HOUR);
    let hours = |hours: u64| Duration::from_secs(hours * HOUR);
    let limits = ExpiryLimits::default();
    let end = NOW + 10 * HOUR;
    for (what, from, to, ordinary, privileged) in [
        ("later", in_hours(10), in_hours(20), Ok(()), Ok(())),
        ("the same", in_hours(10), in_hours(10), Ok(()), Ok(())),
        ("a day", in_hours(10), in_hours(24), Ok(()), Ok(())),
        (
            "more than a day",
            in_hours(10),
            Some(NOW + 24 * HOUR + 1),
            Err(ExpiryRefusal::TooLate { limit: hours(24) }),
            Ok(()),
        ),
        ("a month", in_hours(10), in_hours(730), Err(ExpiryRefusal::TooLate { limit: hours(24) }), Ok(())),
        (
            "more than a month",
            in_hours(10),
            Some(NOW + 730 * HOUR + 1),
            Err(ExpiryRefusal::TooLate { limit: hours(24) }),
            Err(ExpiryRefusal::TooLate { limit: hours(730) }),
        ),
        (
            "the end of time",
            in_hours(10),
            Some(u64::MAX),
            Err(ExpiryRefusal::TooLate { limit: hours(24) }),
            Err(ExpiryRefusal::TooLate { limit: hours(730) }),
        ),
        (
            "sooner",
            in_hours(10),
            in_hours(9),
            Err(ExpiryRefusal::Sooner { end }),
            Err(ExpiryRefusal::Sooner { end }),
        ),
        (
            "at once",
            in_hours(10),
            Some(0),
            Err(ExpiryRefusal::Sooner { end }),
            Err(ExpiryRefusal::Sooner { end }),
        ),
        ("never", in_hours(10), None, Err(ExpiryRefusal::Removal), Ok(())),
        ("what stays", None, in_hours(1), Err(ExpiryRefusal::Permanent), Err(ExpiryRefusal::Permanent)),
        ("what stays, never", None, None, Err(ExpiryRefusal::Permanent), Err(ExpiryRefusal::Permanent)),
        ("too late", Some(NOW), in_hours(1), Err(ExpiryRefusal::Over), Err(ExpiryRefusal::Over)),
        ("too late, never", Some(NOW - 1), None, Err(ExpiryRefusal::Over), Err(ExpiryRefusal::Over)),
    ] {
        for (privileged, expected) in [(false, ordinary), (true, privileged)] {
            let change = ExpiryChange { to, now: NOW, privileged, limits };
            assert_eq!(change.judge(from), expected, "{what}, {privileged}");
        }
    }
}

#[test]
fn images_end_in_the_order_of_their_times_also_when_these_were_put_off() {
    let catalog = Catalog::new(Epoch(1), ROOM);
    let ending = |end| Entry { expires_at: Some(end), ..Entry::default() };
    for (image, end) in [("a/1", 30), ("a/2", 10), ("a/3", 20)] {
        catalog.put(&name(image), ending(end));
    }
    let ended = |now| catalog.ended(now).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((ended(9), ended(20), ended(99)), (String::new(), "a/2 a/3".into(), "a/2 a/3 a/1".into()));
    catalog.put(&name("a/2"), ending(40));
    catalog.put(&name("a/3"), Entry::default());
    assert_eq!((ended(99).as_str(), catalog.next_end()), ("a/1 a/2", Some(30)));
    catalog.remove(&name("a/1"), Removal::Expired);
    assert_eq!(catalog.next_end(), Some(40));
}

//! Servers that copy each other, in any acyclic order, with links that break and servers that forget.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::cloned_ref_to_slice_refs,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dominator_core::backoff::Spread;
use dominator_core::filter::Filter;
use dominator_core::herd::Moment;
use dominator_core::image::{ImageId, ImageName, ImageState, LastingId};
use dominator_core::object::ObjectId;
use dominator_core::replica::{ArchivedExpiry, Held, Mode, Policy, Replica, Settled, Task, Verdict, decide};
use proptest::prelude::*;

const SERVERS: usize = 4;
/// Few, so that they collide after a server has forgotten some.
const NAMES: u8 = 8;
/// How many objects an image has; neighbours share some.
const OBJECTS: u32 = 4;

fn name(number: u8) -> ImageName {
    format!("web/{number}").parse().unwrap()
}

fn lasting(serial: u32) -> LastingId {
    LastingId(ObjectId::of(&serial.to_be_bytes()))
}

fn present(serial: u32) -> ImageState {
    ImageState::Present { id: ImageId(lasting(serial).0), lasting: lasting(serial), expires_at: None }
}

/// What a server has on its disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    images: BTreeMap<ImageName, ImageState>,
    serials: BTreeMap<LastingId, u32>,
    objects: BTreeSet<u32>,
}

impl Disk {
    fn state(&self, name: &ImageName) -> ImageState {
        self.images.get(name).copied().unwrap_or(ImageState::Absent)
    }

    fn list(&self) -> Vec<ImageName> {
        let is_present = |state: &ImageState| matches!(state, ImageState::Present { .. });
        self.images.iter().filter(|(_, state)| is_present(state)).map(|(name, _)| name.clone()).collect()
    }

    fn take(&mut self, name: ImageName, serial: u32) {
        self.images.insert(name, present(serial));
        self.serials.insert(lasting(serial), serial);
        self.objects.extend(serial..serial + OBJECTS);
    }
}

/// One server, and its link to its master.
#[derive(Debug)]
struct Server {
    disk: Disk,
    backup: Disk,
    master: usize,
    is_linked: bool,
    replica: Replica,
    /// Which epoch of the master it knows, and how much of its log.
    position: Option<(u32, usize)>,
    epoch: u32,
    log: Vec<ImageName>,
    /// How often each object came over the link since the disk was lost last.
    came: BTreeMap<u32, u32>,
}

#[derive(Clone, Debug)]
enum Order {
    Add {
        server: usize,
        name: u8,
        cut_after: usize,
    },
    Delete {
        name: u8,
    },
    Cut {
        server: usize,
    },
    Heal {
        server: usize,
    },
    /// The server does something about one name; the link is cut after so many objects.
    Step {
        server: usize,
        cut_after: Option<u32>,
    },
    Empty {
        server: usize,
    },
    Backup {
        server: usize,
    },
    Restore {
        server: usize,
    },
}

#[derive(Debug)]
struct World {
    servers: Vec<Server>,
    serial: u32,
    epoch: u32,
    /// Images that somebody ordered to be deleted.
    ordered: BTreeSet<LastingId>,
    acknowledged: BTreeSet<(ImageName, LastingId)>,
    now: Moment,
}

impl World {
    fn new(masters: [usize; SERVERS]) -> Self {
        let server = |master| Server {
            disk: Disk::default(),
            backup: Disk::default(),
            master,
            is_linked: true,
            replica: Replica::new(Policy::default(), Spread::default()),
            position: None,
            epoch: 0,
            log: Vec::new(),
            came: BTreeMap::new(),
        };
        let servers = masters.into_iter().map(server).collect();
        let (ordered, acknowledged) = (BTreeSet::new(), BTreeSet::new());
        Self { servers, serial: 0, epoch: 0, ordered, acknowledged, now: Moment::default() }
    }

    fn obey(&mut self, order: &Order) {
        match *order {
            Order::Add { server, name: number, cut_after } => self.add(server, name(number), cut_after),
            Order::Delete { name: number } => {
                let name = name(number);
                if let ImageState::Present { lasting, .. } = self.servers[0].disk.state(&name) {
                    self.ordered.insert(lasting);
                    self.delete(0, name, lasting);
                }
            }
            Order::Cut { server } => {
                self.servers[server].is_linked = false;
                self.servers[server].replica.lost();
            }
            Order::Heal { server } => self.servers[server].is_linked = true,
            Order::Step { server, cut_after } => self.step(server, cut_after),
            Order::Empty { server } => self.lose(server, Disk::default()),
            Order::Backup { server } => self.servers[server].backup = self.servers[server].disk.clone(),
            Order::Restore { server } => self.lose(server, self.servers[server].backup.clone()),
        }
    }

    /// From the server that was asked up to the first one; kept from there down, each before it is acknowledged.
    fn add(&mut self, server: usize, name: ImageName, cut_after: usize) {
        let mut chain = vec![server];
        while let Some(&last) = chain.last().filter(|last| **last != 0) {
            chain.push(self.servers[last].master);
        }
        let may = |at: &usize| {
            self.servers[*at].disk.state(&name) == ImageState::Absent
                && (*at == 0 || self.servers[*at].is_linked)
        };
        if !chain.iter().all(may) {
            return;
        }
        self.serial += OBJECTS - 1;
        for (done, at) in chain.into_iter().rev().enumerate() {
            if done > cut_after {
                return;
            }
            self.servers[at].disk.take(name.clone(), self.serial);
            self.servers[at].log.push(name.clone());
        }
        self.acknowledged.insert((name, lasting(self.serial)));
    }

    fn delete(&mut self, server: usize, name: ImageName, was: LastingId) {
        assert!(self.ordered.contains(&was), "nobody ordered {name} to be deleted, and server {server} does");
        let server = &mut self.servers[server];
        server.disk.images.insert(name.clone(), ImageState::Deleted { was: Some(was) });
        server.log.push(name);
    }

    /// A server begins anew with another disk: so do those who follow it, and what it knew of its master is gone.
    fn lose(&mut self, server: usize, disk: Disk) {
        self.epoch += 1;
        let server = &mut self.servers[server];
        server.replica = Replica::new(Policy::default(), Spread::default());
        (server.disk, server.position, server.epoch) = (disk, None, self.epoch);
        server.log.clear();
        server.came.clear();
    }

    fn step(&mut self, at: usize, cut_after: Option<u32>) {
        if at == 0 || !self.servers[at].is_linked {
            return;
        }
        self.hear(at);
        let server = &mut self.servers[at];
        let Some(name) = server.replica.to_look_at(self.now, 1).pop() else { return };
        let (here, master) = (server.disk.state(&name), server.master);
        let there = self.servers[master].disk.state(&name);
        match self.servers[at].replica.looked(&name, here, there, 0) {
            Settled::Agreed | Settled::StillHeld(_) | Settled::NewlyHeld(_) => {}
            Settled::Do(Task::Delete) => {
                let ImageState::Present { lasting, .. } = here else { panic!("nothing to delete") };
                self.delete(at, name.clone(), lasting);
                self.servers[at].replica.done(&name);
            }
            Settled::Do(Task::Fetch) => self.fetch(at, name, there, cut_after),
            Settled::Do(task) => panic!("{task:?}, though nothing expires"),
        }
    }

    /// Takes in what the master has said since.
    fn hear(&mut self, at: usize) {
        let master = &self.servers[self.servers[at].master];
        let (now, list) = ((master.epoch, master.log.len()), master.disk.list());
        let news = master.log.clone();
        let server = &mut self.servers[at];
        match server.position {
            Some((epoch, heard)) if epoch == now.0 => {
                news.into_iter().skip(heard).for_each(|name| server.replica.changed(name));
            }
            Some(_) | None => {
                server.replica.list_begins();
                server.replica.listed(list);
                server.replica.list_ends(server.disk.list());
            }
        }
        server.position = Some(now);
    }

    fn fetch(&mut self, at: usize, name: ImageName, there: ImageState, cut_after: Option<u32>) {
        let ImageState::Present { lasting, .. } = there else { panic!("nothing to fetch") };
        let master = self.servers[at].master;
        let serial = self.servers[master].disk.serials[&lasting];
        let server = &mut self.servers[at];
        for (sent, object) in (serial..serial + OBJECTS).enumerate() {
            if server.disk.objects.contains(&object) {
                continue;
            }
            if cut_after.is_some_and(|after| sent as u32 >= after) {
                server.is_linked = false;
                server.replica.lost();
                return server.replica.interrupted(&name);
            }
            *server.came.entry(object).or_default() += 1;
            server.disk.objects.insert(object);
        }
        server.disk.take(name.clone(), serial);
        server.log.push(name.clone());
        server.replica.done(&name);
    }

    /// All links are there again, and everybody does all there is to do.
    fn rest(&mut self) {
        (0..SERVERS).for_each(|server| self.servers[server].is_linked = true);
        for _ in 0..500 {
            self.now = self.now.after(Duration::from_secs(60));
            (0..SERVERS).for_each(|server| self.step(server, None));
        }
    }
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let server = 0..SERVERS;
    let order = prop_oneof![
        4 => (server.clone(), 0..NAMES, 0..SERVERS)
            .prop_map(|(server, name, cut_after)| Order::Add { server, name, cut_after }),
        1 => (0..NAMES).prop_map(|name| Order::Delete { name }),
        1 => server.clone().prop_map(|server| Order::Cut { server }),
        2 => server.clone().prop_map(|server| Order::Heal { server }),
        9 => (server, proptest::option::weighted(0.3, 0..OBJECTS))
            .prop_map(|(server, cut_after)| Order::Step { server, cut_after }),
    ];
    proptest::collection::vec(order, 0..80)
}

/// The same, and servers that forget.
fn disasters() -> impl Strategy<Value = Vec<Order>> {
    let server = 0..SERVERS;
    let disaster = prop_oneof![
        server.clone().prop_map(|server| Order::Empty { server }),
        server.clone().prop_map(|server| Order::Backup { server }),
        server.prop_map(|server| Order::Restore { server }),
    ];
    let some = proptest::collection::vec((any::<prop::sample::Index>(), disaster), 1..6);
    (orders(), some).prop_map(|(mut orders, disasters)| {
        for (at, disaster) in disasters {
            orders.insert(at.index(orders.len() + 1), disaster);
        }
        orders
    })
}

/// Every way in which each server but the first follows one before it.
fn masters() -> impl Strategy<Value = [usize; SERVERS]> {
    (0..2_usize, 0..3_usize).prop_map(|(third, fourth)| [0, 0, third, fourth])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_links_break_replicas_end_up_with_what_their_master_has(masters in masters(), orders in orders()) {
        let mut world = World::new(masters);
        orders.iter().for_each(|order| world.obey(order));
        world.rest();
        let first = &world.servers[0].disk;
        for (number, server) in world.servers.iter().enumerate().skip(1) {
            prop_assert_eq!(server.disk.list(), first.list(), "server {}", number);
            prop_assert_eq!(server.replica.held().len(), 0);
            prop_assert!(server.replica.is_in_sync());
            prop_assert!(server.came.values().all(|times| *times == 1), "objects flow once: {:?}", server.came);
        }
        for (name, image) in &world.acknowledged {
            prop_assert!(world.ordered.contains(image) || first.list().contains(name), "{} is lost", name);
        }
    }

    #[test]
    fn a_server_that_forgets_takes_nothing_from_those_who_copy_it(masters in masters(), orders in disasters()) {
        let mut world = World::new(masters);
        for order in &orders {
            // Only its own disaster, or an order, takes an image from a server: `delete` asserts the latter.
            let before: Vec<_> = world.servers.iter().map(|server| server.disk.clone()).collect();
            world.obey(order);
            let own = match order {
                Order::Empty { server } | Order::Restore { server } => Some(*server),
                _ => None,
            };
            for (number, (server, before)) in world.servers.iter().zip(before).enumerate() {
                for name in before.list().iter().filter(|_| own != Some(number)) {
                    let (was, is) = (before.state(name), server.disk.state(name));
                    prop_assert!(was == is || matches!(is, ImageState::Deleted { .. }), "{} on {}", name, number);
                }
            }
        }
        world.rest();
        for server in world.servers.iter().skip(1) {
            let master = &world.servers[server.master].disk;
            let held: BTreeMap<_, _> = server.replica.held().collect();
            prop_assert!(server.replica.is_in_sync());
            for name in master.list().iter().chain(&server.disk.list()) {
                let agreed = server.disk.state(name) == master.state(name);
                prop_assert!(agreed != held.contains_key(name), "{} is either the same or told of", name);
            }
        }
    }
}

#[test]
fn what_is_done_about_a_name_follows_from_what_both_have() {
    use ImageState::{Absent, Deleted};
    use Verdict::{Agreed, Do, Hold};
    let of = |serial, expires_at| ImageState::Present {
        id: ImageId(ObjectId::of(format!("{serial} {expires_at:?}").as_bytes())),
        lasting: lasting(serial),
        expires_at,
    };
    let (one, two) = (of(1, None), of(2, None));
    let (over, soon) = (of(1, Some(99)), of(1, Some(200)));
    let gone = |serial| Deleted { was: Some(lasting(serial)) };
    let unknown = Deleted { was: None };
    let table = [
        (Absent, Absent, Agreed),
        (Absent, unknown, Agreed),
        (Absent, one, Do(Task::Fetch)),
        (Absent, soon, Do(Task::Fetch)),
        (Absent, over, Agreed),
        (one, one, Agreed),
        (soon, one, Do(Task::Refresh)),
        (one, soon, Do(Task::Refresh)),
        (one, two, Hold(Held::Another)),
        (soon, two, Hold(Held::Another)),
        (over, two, Do(Task::Replace)),
        (one, Absent, Hold(Held::Missing)),
        (soon, Absent, Hold(Held::Missing)),
        (over, Absent, Agreed),
        (one, gone(1), Do(Task::Delete)),
        (over, gone(1), Do(Task::Delete)),
        (one, gone(2), Hold(Held::AnotherDeleted)),
        (one, unknown, Hold(Held::AnotherDeleted)),
        (over, gone(2), Agreed),
        (gone(1), one, Hold(Held::DeletedHere)),
        (gone(1), two, Hold(Held::Another)),
        (unknown, one, Hold(Held::Another)),
        (gone(1), Absent, Agreed),
        (gone(1), gone(2), Agreed),
    ];
    for (here, there, expected) in table {
        let verdict = decide(&Policy::default(), &name(1), here, there, 100);
        assert_eq!(verdict, expected, "{here:?} here, {there:?} there");
    }
    let archive = |expiry| Policy { mode: Mode::Archive(expiry), ..Policy::default() };
    let (plain, keen) = (archive(ArchivedExpiry::LeftOut), archive(ArchivedExpiry::TakenIn));
    for (policy, here, there, expected) in [
        (&plain, one, Absent, Agreed),
        (&plain, one, gone(1), Agreed),
        (&plain, Absent, one, Do(Task::Fetch)),
        (&plain, Absent, soon, Agreed),
        (&keen, Absent, soon, Do(Task::Fetch)),
        (&keen, one, gone(1), Agreed),
        (&plain, one, two, Hold(Held::Another)),
    ] {
        assert_eq!(decide(policy, &name(1), here, there, 100), expected, "{policy:?}: {here:?}, {there:?}");
    }
}

#[test]
fn names_that_are_not_selected_are_neither_fetched_nor_deleted_nor_held() {
    let filter = |text: &str| Some(Filter::parse(text).unwrap());
    let policy = Policy { include: filter("web/\ndb/"), exclude: filter("web/test"), ..Policy::default() };
    for (text, selected) in
        [("web/1", true), ("db/1", true), ("web/test1", false), ("mail/1", false), ("a/web/1", false)]
    {
        let name: ImageName = text.parse().unwrap();
        assert_eq!(policy.selects(&name), selected, "{text}");
        for (here, there) in [(ImageState::Absent, present(1)), (present(1), ImageState::Absent)] {
            let verdict = decide(&policy, &name, here, there, 0);
            assert_eq!(verdict == Verdict::Agreed, !selected, "{text}: {here:?} {there:?}");
        }
    }
}

#[test]
fn what_is_held_is_deleted_when_an_operator_agrees_and_the_master_still_lacks_it() {
    let mut replica = Replica::new(Policy::default(), Spread::default());
    let (kept, lost) = (name(1), name(2));
    let see = |replica: &mut Replica, name: &ImageName, here, there| {
        assert!(replica.to_look_at(Moment::default(), 9).contains(name));
        replica.looked(name, here, there, 0)
    };
    replica.list_begins();
    replica.list_ends([kept.clone(), lost.clone()]);
    for name in [&kept, &lost] {
        let settled = see(&mut replica, name, present(1), ImageState::Absent);
        assert_eq!(settled, Settled::NewlyHeld(Held::Missing));
    }
    assert!(replica.is_in_sync());
    assert_eq!(replica.accept(&[name(3)]), [name(3)], "nobody agrees to what is not asked");
    assert_eq!(replica.accept(&[kept.clone(), lost.clone()]), []);
    // The master has one of them again: the agreement was not to that.
    assert_eq!(see(&mut replica, &kept, present(1), present(1)), Settled::Agreed);
    assert_eq!(see(&mut replica, &lost, present(1), ImageState::Absent), Settled::Do(Task::Delete));
    replica.done(&lost);
    // It was to this time, not for ever.
    replica.changed(kept.clone());
    let again = see(&mut replica, &kept, present(1), ImageState::Absent);
    assert_eq!(again, Settled::NewlyHeld(Held::Missing));
    assert_eq!(replica.held().collect::<Vec<_>>(), [(&kept, Held::Missing)]);
}

#[test]
fn a_list_that_breaks_off_says_nothing_of_what_was_not_in_it() {
    let mut replica = Replica::new(Policy::default(), Spread::default());
    replica.list_begins();
    replica.listed([name(1)]);
    replica.lost();
    assert_eq!(replica.to_look_at(Moment::default(), 9), []);
    assert!(!replica.is_in_sync());
    replica.list_begins();
    replica.listed([name(2)]);
    replica.list_ends([]);
    assert_eq!(replica.to_look_at(Moment::default(), 9), [name(2)]);
    assert_eq!(replica.looked(&name(2), present(1), present(1), 0), Settled::Agreed);
    // One that was whole before is still known when the next breaks off.
    replica.list_begins();
    assert!(!replica.is_in_sync());
    replica.lost();
    assert!(replica.is_in_sync());
}

#[test]
fn what_fails_is_tried_again_ever_later_and_what_was_interrupted_at_once() {
    let mut replica = Replica::new(Policy::default(), Spread::default());
    let web = name(1);
    replica.changed(web.clone());
    let (mut now, mut pauses) = (Moment::default(), Vec::new());
    for _ in 0..3 {
        assert_eq!(replica.to_look_at(now, 9), [web.clone()]);
        assert_eq!(replica.looked(&web, ImageState::Absent, present(1), 0), Settled::Do(Task::Fetch));
        replica.failed(&web, now);
        assert_eq!(replica.to_look_at(now, 9), [], "not at once");
        let next = replica.wake_at().unwrap();
        pauses.push((next.0 - now.0).as_secs());
        now = next;
    }
    assert_eq!(pauses, [1, 2, 4]);
    assert_eq!(replica.behind(), 1);
    replica.looked(&web, ImageState::Absent, present(1), 0);
    replica.interrupted(&web);
    assert_eq!(replica.to_look_at(Moment::default(), 9), [web.clone()]);
    replica.looked(&web, present(1), present(1), 0);
    assert!(replica.to_look_at(now, 9).is_empty());
}

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bounds::Bounds;
use super::conduct::{Conduct, End};
use super::crowd::neighbourhood;

/// Whether somebody's certificate lists anything of what is offered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Power {
    Some,
    None,
}

/// The connections there may be, for those who have proven who they are.
///
/// Whoever has nothing to say here keeps out none of those who have. Among equals, when there is no place left, the
/// largest party (one user from one address) gives up one of its places for somebody who has fewer: so nobody can take
/// all of them, and a fleet behind one address can still have many.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    taken: Arc<Mutex<Taken>>,
    bounds: Arc<Bounds>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Oldest first.
    parties: HashMap<Party, BTreeMap<u64, Arc<Conduct>>>,
    addresses: HashMap<(Power, IpAddr), usize>,
    powerless: usize,
    all: usize,
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Party {
    power: Power,
    address: IpAddr,
    user: String,
}

/// A place; given back when dropped, if it was not taken away before.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    party: Party,
    number: u64,
}

impl Seats {
    pub(super) fn new(bounds: Arc<Bounds>) -> Self {
        Self { taken: Arc::default(), bounds }
    }

    /// A place for a connection of `user`, if one is left or can be made. Whose place it was is told by their conduct.
    pub(super) fn take(
        &self,
        power: Power,
        user: &str,
        address: IpAddr,
        conduct: Arc<Conduct>,
    ) -> Option<Seat> {
        let party = Party { power, address: neighbourhood(address.to_canonical()), user: user.to_owned() };
        let mut taken = self.taken();
        if !taken.make_room(&party, &self.bounds) {
            return None;
        }
        let number = taken.add(party.clone(), conduct);
        Some(Seat { seats: self.clone(), party, number })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn make_room(&mut self, newcomer: &Party, bounds: &Bounds) -> bool {
        let own = self.parties.get(newcomer).map_or(0, BTreeMap::len);
        let (power, address) = (newcomer.power, newcomer.address);
        let here = self.addresses.get(&(power, address)).copied().unwrap_or_default();
        let share = match power {
            Power::Some => bounds.connections_of_address,
            Power::None => bounds.powerless_of_address,
        };
        if here >= share {
            // One place fewer for the address is one fewer for all: nothing else can be full then.
            return self.displace(own + 1, |other| other.power == power && other.address == address);
        }
        let is_powerless = |other: &Party| other.power == Power::None;
        match power {
            Power::None if self.powerless >= bounds.powerless || self.all >= bounds.connections => {
                self.displace(own + 1, is_powerless)
            }
            Power::Some if self.all >= bounds.connections => {
                self.displace(0, is_powerless) || self.displace(own + 1, |_| true)
            }
            Power::None | Power::Some => true,
        }
    }

    /// Takes the oldest place of the largest party among those, if it has more than so many.
    fn displace(&mut self, more_than: usize, among: impl Fn(&Party) -> bool) -> bool {
        let parties = self.parties.iter().filter(|(party, _)| among(party));
        let largest = parties.max_by_key(|(_, places)| places.len());
        let Some((party, places)) = largest.filter(|(_, places)| places.len() > more_than) else {
            return false;
        };
        let Some((&number, conduct)) = places.first_key_value() else { return false };
        conduct.end(End::Displaced);
        let party = party.clone();
        self.remove(&party, number);
        true
    }

    fn add(&mut self, party: Party, conduct: Arc<Conduct>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.all += 1;
        self.powerless += usize::from(party.power == Power::None);
        *self.addresses.entry((party.power, party.address)).or_default() += 1;
        self.parties.entry(party).or_default().insert(number, conduct);
        number
    }

    /// Whoever was displaced has nothing left to give back.
    fn remove(&mut self, party: &Party, number: u64) {
        let Some(places) = self.parties.get_mut(party) else { return };
        if places.remove(&number).is_none() {
            return;
        }
        if places.is_empty() {
            self.parties.remove(party);
        }
        self.all = self.all.saturating_sub(1);
        self.powerless = self.powerless.saturating_sub(usize::from(party.power == Power::None));
        let address = (party.power, party.address);
        if let Some(count) = self.addresses.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.party, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct House {
        seats: Seats,
        taken: Vec<(String, Arc<Conduct>, Seat)>,
    }

    impl House {
        fn new(connections: usize, of_address: usize, powerless: usize) -> Self {
            let bounds = Bounds {
                connections,
                connections_of_address: of_address,
                powerless,
                powerless_of_address: powerless,
                ..Bounds::default()
            };
            Self { seats: Seats::new(Arc::new(bounds)), taken: Vec::new() }
        }

        fn enter(&mut self, power: Power, who: &str) -> bool {
            let (user, address) = who.split_once('@').unwrap();
            let conduct = Arc::new(Conduct::new(1));
            let seat = self.seats.take(power, user, address.parse().unwrap(), conduct.clone());
            let is_in = seat.is_some();
            self.taken.extend(seat.map(|seat| (who.to_owned(), conduct, seat)));
            is_in
        }

        /// Who has not been shown the door.
        fn inside(&self) -> Vec<&str> {
            let staying = self.taken.iter().filter(|(_, conduct, _)| conduct.why().is_none());
            staying.map(|(who, _, _)| who.as_str()).collect()
        }
    }

    #[test]
    fn who_has_nothing_to_say_here_keeps_none_out_who_has() {
        let mut house = House::new(4, 4, 3);
        for (address, is_in) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(house.enter(Power::None, &format!("eve@192.0.2.{address}")), is_in);
        }
        for address in 11..15 {
            assert!(house.enter(Power::Some, &format!("dominator@192.0.2.{address}")));
        }
        assert_eq!(house.inside().len(), 4);
        assert!(house.inside().iter().all(|who| who.starts_with("dominator")), "{:?}", house.inside());
        assert!(!house.enter(Power::None, "eve@192.0.2.9"), "and they do not come back");
    }

    #[test]
    fn who_has_most_makes_room_for_who_has_less_and_for_nobody_else() {
        let mut house = House::new(4, 4, 4);
        for _ in 0..4 {
            assert!(house.enter(Power::Some, "web@192.0.2.1"));
        }
        assert!(house.enter(Power::Some, "dominator@192.0.2.2"));
        assert!(house.enter(Power::Some, "dominator@192.0.2.2"));
        let (web, dominator) = ("web@192.0.2.1", "dominator@192.0.2.2");
        assert_eq!(house.inside(), [web, web, dominator, dominator]);
        assert!(!house.enter(Power::Some, dominator), "it has as much as any");
        assert!(!house.enter(Power::Some, web), "it has as much as any");
    }

    #[test]
    fn an_address_has_its_share_which_its_users_share_alike() {
        let mut house = House::new(9, 3, 9);
        for _ in 0..3 {
            assert!(house.enter(Power::Some, "mallory@192.0.2.1"));
        }
        assert!(!house.enter(Power::Some, "mallory@192.0.2.1"));
        assert!(house.enter(Power::Some, "dominator@::ffff:192.0.2.1"), "however it is written");
        assert_eq!(house.inside().len(), 3);
        assert!(house.enter(Power::Some, "mallory@192.0.2.2"));
    }

    #[test]
    fn places_are_given_back_once() {
        let mut house = House::new(2, 2, 2);
        for _ in 0..2 {
            assert!(house.enter(Power::Some, "web@192.0.2.1"));
        }
        assert!(house.enter(Power::Some, "dominator@192.0.2.2"));
        house.taken.clear();
        let taken = house.seats.taken();
        assert_eq!((taken.all, taken.powerless), (0, 0));
        assert!(taken.parties.is_empty() && taken.addresses.is_empty(), "nobody is remembered");
    }
}

//! How fast the network towards somebody is, as the kernel tells, and keeping to a part of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::BytesPerSecond;
use super::budget::{Budget, WHOLE};

/// The way towards an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// It does not leave this machine, or no way leads there.
    Inside,
    /// Through this interface, which is as fast as this, where the kernel knows.
    Outside {
        /// Its name.
        interface: String,
        speed: Option<BytesPerSecond>,
    },
}

/// What the kernel tells of routes and interfaces.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    proc: PathBuf,
    class: PathBuf,
}

impl Routes {
    pub(crate) fn of_the_kernel() -> Self {
        Self { proc: PathBuf::from("/proc/net"), class: PathBuf::from("/sys/class/net") }
    }

    /// The way towards `address`, or where most ways lead when that is not known.
    pub(crate) fn link(&self, address: Option<IpAddr>) -> Link {
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.to_canonical());
        if address.is_loopback() {
            return Link::Inside;
        }
        let interface = match address {
            IpAddr::V4(address) => self.best("route", |line| route_4(line, address)),
            IpAddr::V6(address) => self.best("ipv6_route", |line| route_6(line, address)),
        };
        match interface.filter(|interface| interface != "lo") {
            Some(interface) => {
                let speed = self.speed(&interface);
                Link::Outside { interface, speed }
            }
            None => Link::Inside,
        }
    }

    /// The interface of the route that fits best: the longest prefix, then the least metric.
    fn best(&self, table: &str, route: impl Fn(&str) -> Option<Route>) -> Option<String> {
        let table = fs::read_to_string(self.proc.join(table)).ok()?;
        let fitting = table.lines().filter_map(route);
        let best = fitting.max_by_key(|route| (route.prefix, std::cmp::Reverse(route.metric)))?;
        // It becomes a part of a path.
        let plain = !best.interface.contains('/') && best.interface != "..";
        plain.then_some(best.interface)
    }

    /// Interfaces without a fixed speed (virtual, wireless) tell none, or one that can't be.
    fn speed(&self, interface: &str) -> Option<BytesPerSecond> {
        const MEGABIT: u64 = 1_000_000 / 8;
        let text = fs::read_to_string(self.class.join(interface).join("speed")).ok()?;
        let megabits: u64 = text.trim().parse().ok()?;
        // What is unknown is the largest 32-bit number in some kernels.
        let known = (1..u64::from(u32::MAX)).contains(&megabits);
        known.then_some(megabits).and_then(|megabits| BytesPerSecond::new(megabits.saturating_mul(MEGABIT)))
    }
}

struct Route {
    prefix: u32,
    metric: u32,
    interface: String,
}

/// The route is in use.
const UP: u32 = 1;
/// It leads nowhere.
const REJECT: u32 = 0x200;

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

fn leads(flags: u32) -> bool {
    flags & UP != 0 && flags & REJECT == 0
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, two counters, metric, mask. Addresses are as they
/// lie in memory.
fn route_4(line: &str, address: Ipv4Addr) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let interface = fields.next()?.to_owned();
    let (to, _, flags) = (hex(fields.next()?)?, fields.next()?, hex(fields.next()?)?);
    let metric = fields.nth(2)?.parse().ok()?;
    let mask = hex(fields.next()?)?;
    let address = u32::from_ne_bytes(address.octets());
    let fits = leads(flags) && address & mask == to;
    fits.then_some(Route { prefix: mask.count_ones(), metric, interface })
}

/// A line of `/proc/net/ipv6_route`: destination, its length, source, its length, next, metric, two counters, flags,
/// interface.
fn route_6(line: &str, address: Ipv6Addr) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let to = u128::from_str_radix(fields.next()?, 16).ok()?;
    let prefix = hex(fields.next()?).filter(|prefix| *prefix <= 128)?;
    let metric = hex(fields.nth(3)?)?;
    let flags = hex(fields.nth(2)?)?;
    let interface = fields.next()?.to_owned();
    let mask = if prefix == 0 { 0 } else { u128::MAX << (128 - prefix) };
    let fits = leads(flags) && u128::from(address) & mask == to & mask;
    fits.then_some(Route { prefix, metric, interface })
}

/// Bytes that come at no more than so many a second.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    budget: Option<(BytesPerSecond, Budget)>,
}

impl Flow {
    /// Less is not kept to, in bytes a second: who sends would take the pauses for the end.
    pub(crate) const LEAST: u64 = 64 * 1024;

    /// Says, when `bytes` have come since the last time, until when nothing more may be asked for. Times are since some
    /// beginning; another limit than before counts from now on.
    pub(crate) fn came(&mut self, now: Duration, bytes: usize, limit: Option<BytesPerSecond>) -> Duration {
        let limit = limit.map(|limit| limit.max(BytesPerSecond::new(Self::LEAST).unwrap_or(limit)));
        let Some(limit) = limit else {
            self.budget = None;
            return now;
        };
        if self.budget.as_ref().is_none_or(|(before, _)| *before != limit) {
            self.budget = Some((limit, Budget::new(limit.0, now)));
        }
        // The budget earned while it was waited for what came, but saves nothing up for a burst.
        self.budget
            .as_mut()
            .map_or(now, |(_, budget)| budget.charge(now, Duration::ZERO, bytes as u64, WHOLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of a machine with two interfaces.
    fn check(address: Option<&str>, expected: Option<(&str, Option<u64>)>) {
        let dir = tempfile::tempdir().unwrap();
        let routes = Routes { proc: dir.path().to_owned(), class: dir.path().join("class") };
        let number = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |interface: &str, to, mask, flags: u32, metric: u32| {
            let (to, mask, gateway) = (number(to), number(mask), number([10, 0, 0, 1]));
            format!("{interface}\t{to}\t{gateway}\t{flags:04X}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line("eth0", [0, 0, 0, 0], [0, 0, 0, 0], 3, 100),
            line("wlan0", [0, 0, 0, 0], [0, 0, 0, 0], 3, 600),
            line("wlan0", [10, 1, 0, 0], [255, 255, 0, 0], 1, 0),
            line("down0", [10, 2, 0, 0], [255, 255, 0, 0], 0, 0),
            line("eth0", [10, 3, 0, 0], [255, 255, 0, 0], 0x201, 0),
        ];
        fs::write(dir.path().join("route"), table.concat()).unwrap();
        let nowhere = "0".repeat(32);
        let six = |to: &str, prefix: u32, flags: u32, interface: &str| {
            format!(
                "{to} {prefix:02x} {nowhere} 00 {nowhere} 00000400 00000001 00000000 {flags:08x} {interface:>8}\n"
            )
        };
        let ours = "20010db8000000000000000000000001";
        let table = [
            six(&nowhere, 0, 3, "eth0"),
            six("20010db8000000000000000000000000", 64, 1, "wlan0"),
            six(ours, 128, 0x8000_0001, "lo"),
            "damaged\n".to_owned(),
        ];
        fs::write(dir.path().join("ipv6_route"), table.concat()).unwrap();
        for (interface, speed) in [("eth0", "1000\n"), ("wlan0", "-1\n"), ("down0", "4294967295\n")] {
            fs::create_dir_all(routes.class.join(interface)).unwrap();
            fs::write(routes.class.join(interface).join("speed"), speed).unwrap();
        }
        let expected = expected.map_or(Link::Inside, |(interface, speed)| Link::Outside {
            interface: interface.to_owned(),
            speed: speed.and_then(BytesPerSecond::new),
        });
        assert_eq!(routes.link(address.map(|address| address.parse().unwrap())), expected, "{address:?}");
    }

    #[test]
    fn the_way_that_fits_best_is_found_and_how_fast_it_is() {
        const GIGABIT: Option<u64> = Some(125_000_000);
        check(Some("192.0.2.1"), Some(("eth0", GIGABIT)));
        check(Some("::ffff:192.0.2.1"), Some(("eth0", GIGABIT)));
        check(None, Some(("eth0", GIGABIT)));
        check(Some("10.1.2.3"), Some(("wlan0", None)));
        check(Some("10.2.2.3"), Some(("eth0", GIGABIT)));
        check(Some("10.3.2.3"), Some(("eth0", GIGABIT)));
        check(Some("2001:db8:1::1"), Some(("eth0", GIGABIT)));
        check(Some("2001:db8::2"), Some(("wlan0", None)));
        check(Some("2001:db8::1"), None);
        for inside in ["127.0.0.1", "127.9.9.9", "::1"] {
            check(Some(inside), None);
        }
    }

    #[test]
    fn bytes_come_at_the_rate_that_is_set_and_idling_saves_nothing_up() {
        let limit = BytesPerSecond::new(1_000_000);
        let (mut flow, mut now) = (Flow::default(), Duration::ZERO);
        for _ in 0..100 {
            // Half of the time is spent waiting for what comes.
            now = flow.came(now + Duration::from_millis(50), 100_000, limit).max(now);
        }
        assert!((9.9..=10.1).contains(&now.as_secs_f64()), "{now:?} for ten megabytes");
        let later = now + Duration::from_secs(3600);
        let due = flow.came(later, 1_000_000, limit);
        assert!(due >= later + Duration::from_millis(900), "a burst of {:?}", due - later);
        assert_eq!(flow.came(due, 1 << 30, None), due, "no limit");
        let slow = flow.came(due, 64 * 1024, BytesPerSecond::new(1));
        assert_eq!(slow - due, Duration::from_secs(1), "no slower than a source can bear");
    }
}

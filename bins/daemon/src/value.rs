//! Values as people type and read them.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

pub use dominator_pki::rfc3339;
pub use indicatif::{HumanBytes, HumanCount};

/// As [`rfc3339`], of seconds since 1970.
pub fn rfc3339_at(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    time.map_or_else(|| "after the year 9999".into(), rfc3339)
}

/// How long before `now` a time was, for people; a time to come is now.
pub fn ago(time: SystemTime, now: SystemTime) -> String {
    let passed = now.duration_since(time).unwrap_or_default();
    if passed.as_secs() == 0 {
        "just now".into()
    } else {
        format!("{} ago", indicatif::HumanDuration(passed))
    }
}

/// A length of time, written as a number and a unit: `500ms`, `1s`, `2m`, `1h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// The length of time itself.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl FromStr for Duration {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::Duration(text.chars().take(40).collect());
        let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => None,
        };
        millis.map(|millis| Self(std::time::Duration::from_millis(millis))).ok_or_else(bad)
    }
}

/// A server to dial: a name or address and a port; IPv6 addresses stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The longest name, in bytes.
    const MAX_HOST: usize = 253;

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::HostPort(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let sound = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= Self::MAX_HOST && host.chars().all(plain),
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        if sound { Ok(Self { host: bare.unwrap_or(host).into(), port }) } else { Err(bad()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Text that is no such value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadValue {
    /// No length of time.
    #[error("{0:?} is no length of time; write a number and ms, s, m, h or d, as in 500ms or 2m")]
    Duration(String),
    /// No server.
    #[error("{0:?} is no server; write HOST:PORT, as in images.example.com:6971 or [::1]:6971")]
    HostPort(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        let millis = |text: &str| text.parse::<Duration>().map(|duration| duration.get().as_millis());
        assert_eq!(
            [millis("500ms"), millis("1s"), millis("2m"), millis("1h"), millis("30d")],
            [Ok(500), Ok(1000), Ok(120_000), Ok(3_600_000), Ok(2_592_000_000)]
        );
        for bad in ["", "5", "s", "-1s", "1.5s", "1 s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_read_by_people_and_programs() {
        assert_eq!(rfc3339_at(1_795_366_373), "2026-11-22T16:52:53Z");
        let at = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert_eq!(
            [ago(at(5), at(8)), ago(at(8), at(8)), ago(at(9), at(8))],
            ["3 seconds ago", "just now", "just now"]
        );
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for good in ["localhost:6971", "127.0.0.2:1", "[::1]:6969", "a-b.example.com:65535"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in
            ["", "localhost", ":6971", "host:0", "host:65536", "::1:6969", "[host]:1", "a b:1", "a/b:1"]
        {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?}");
        }
    }
}

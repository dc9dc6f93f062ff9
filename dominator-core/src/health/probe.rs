use std::fmt;
use std::str::FromStr;

use crate::path::ImagePath;
use crate::trigger::is_service_name;

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// A program, by its absolute path, with its arguments: well when it ends with exit status 0. No shell sees it.
    Command(Vec<String>),
    /// A unit of the service manager: well when it is active.
    Unit(String),
    /// Somebody accepts a connection there.
    Tcp(Address),
    /// A web server answers with this status.
    Http {
        /// What is asked for.
        url: Url,
        /// The status it must have.
        status: u16,
    },
    /// Somebody accepts a connection at this socket.
    Unix(ImagePath),
}

impl Probe {
    /// How many words a command may have, the program included.
    pub const MAX_WORDS: usize = 100;
    /// The longest of them, in bytes.
    pub const MAX_WORD: usize = 4096;
    /// The longest path of a socket, in bytes: what the kernel takes.
    pub const MAX_SOCKET: usize = 107;

    /// What a web server answers when all is well.
    pub const OK: u16 = 200;

    pub(super) fn test(&self) -> Result<(), &'static str> {
        let is_word = |word: &String| word.len() <= Self::MAX_WORD && !word.contains('\0');
        let absolute = |word: &String| word.starts_with('/');
        match self {
            Self::Command(words) if !words.first().is_some_and(absolute) => {
                Err("its command does not begin with the absolute path of a program")
            }
            Self::Command(words) if words.len() > Self::MAX_WORDS || !words.iter().all(is_word) => {
                Err("its command has too many words, too long ones, or a zero byte")
            }
            Self::Unit(unit) if !is_service_name(unit) => Err("its unit can't be the name of one"),
            Self::Http { status, .. } if !(100..1000).contains(status) => {
                Err("its status is none of 100 to 999")
            }
            Self::Unix(path) if path.as_bytes().len() > Self::MAX_SOCKET => {
                Err("its socket's path is longer than the kernel takes")
            }
            Self::Unix(path) if path.is_root() || std::str::from_utf8(path.as_bytes()).is_err() => {
                Err("its socket can't be one")
            }
            Self::Command(_) | Self::Unit(_) | Self::Tcp(_) | Self::Http { .. } | Self::Unix(_) => Ok(()),
        }
    }
}

/// What is tried, in a few words for people.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => write!(f, "{} succeeds", words.join(" ")),
            Self::Unit(unit) => write!(f, "{unit} is active"),
            Self::Tcp(address) => write!(f, "{address} accepts connections"),
            Self::Http { url, status } => write!(f, "{url} answers with status {status}"),
            Self::Unix(path) => write!(f, "{path} accepts connections"),
        }
    }
}

/// Where a server listens, as in `127.0.0.1:80`, `[::1]:80` or `db:5432`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The name or address, that of IP version 6 without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn of(host: &str, port: u16) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed);
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inside {
            Some(inside) => inside.parse::<core::net::Ipv6Addr>().ok()?.to_string(),
            None if is_name => host.to_owned(),
            None => return None,
        };
        (port != 0).then_some(Self { host, port })
    }

    fn bracketed(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Self::of(host, port_of(port)?));
        parts.ok_or("its address is not as in 127.0.0.1:80")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed(), self.port)
    }
}

/// What a web server is asked for, as in `http://127.0.0.1/healthz`. Not `https`: what is checked is the machine, and
/// by the machine itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    address: Address,
    target: String,
}

impl Url {
    const MAX_TARGET: usize = 2048;
    const PORT: u16 = 80;

    /// Who is asked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// For what: path and query, beginning with `/`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// How the server is named in a request: without the usual port.
    pub fn host(&self) -> String {
        match self.address.port {
            Self::PORT => self.address.bracketed(),
            _ => self.address.to_string(),
        }
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let rest = text.strip_prefix("http://")?;
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let is_visible = |b: u8| b.is_ascii_graphic() && b != b'#';
            if target.len() > Self::MAX_TARGET || !target.bytes().all(is_visible) || target.starts_with('?') {
                return None;
            }
            let address = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => Address::of(host, port_of(port)?)?,
                Some(_) | None => Address::of(authority, Self::PORT)?,
            };
            let target = if target.is_empty() { "/" } else { target };
            Some(Self { address, target: target.to_owned() })
        };
        parse().ok_or("its URL is not as in http://127.0.0.1/healthz")
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host(), self.target)
    }
}

/// Digits and nothing else: `+80` is no port.
fn port_of(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_names_or_numbers_with_a_port() {
        for (text, host, port) in [
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("[::1]:8080", "::1", 8080),
            ("db-1.example:1", "db-1.example", 1),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port(), address.to_string().as_str()), (host, port, text));
        }
        for bad in
            ["", "db", ":80", "db:", "db:0", "db:+80", "db:65536", "::1:80", "[db]:80", "a b:80", "a/b:80"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_url_says_who_is_asked_for_what() {
        for (text, host, port, target) in [
            ("http://127.0.0.1/healthz", "127.0.0.1", 80, "/healthz"),
            ("http://[::1]:8080/a?b=c", "::1", 8080, "/a?b=c"),
            ("http://[::1]/", "::1", 80, "/"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.address().host(), url.address().port(), url.target()), (host, port, target));
            assert_eq!(url.to_string(), text);
        }
        assert_eq!("http://db:80".parse::<Url>().unwrap().to_string(), "http://db/");
        for bad in [
            "https://db/",
            "db/",
            "http://",
            "http:///x",
            "http://u@db/",
            "http://db/a b",
            "http://db/a\r\nX: y",
            "http://db/#x",
            "http://db?x",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
    }
}

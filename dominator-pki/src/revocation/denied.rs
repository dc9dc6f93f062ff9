//! What the operator of a machine denies, whatever authorities say.

use std::collections::BTreeSet;
use std::str::FromStr;

use dominator_core::auth::{Identity, NodeId};
use thiserror::Error;

use crate::certificate::{Serial, check_user};
use crate::error::{Origin, PkiError, Revoker};
use crate::verified::AuthorityKey;

/// The longest line, in bytes.
const MAX_LINE: usize = 1024;

/// Certificates, users, and nodes that are not believed; see `docs/formats/revocation.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyList {
    serials: BTreeSet<(Vec<u8>, Option<AuthorityKey>)>,
    users: BTreeSet<String>,
    nodes: BTreeSet<NodeId>,
    origin: Option<Origin>,
}

impl DenyList {
    /// Reads the list. A line that is not understood refuses all of it: what was meant by it would go on being let in.
    ///
    /// # Errors
    /// [`PkiError::BadDenyList`] with the number of the line.
    pub fn parse(bytes: &[u8], origin: &Origin) -> Result<Self, PkiError> {
        let mut list = Self { origin: Some(origin.clone()), ..Self::default() };
        for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
            let bad = |source| PkiError::BadDenyList { origin: origin.clone(), line: number, source };
            if line.len() > MAX_LINE {
                return Err(bad(BadDenial::LongLine));
            }
            let line = std::str::from_utf8(line).map_err(|_| bad(BadDenial::NotUtf8))?;
            list.add(line.trim()).map_err(bad)?;
        }
        Ok(list)
    }

    /// How much it denies.
    pub fn len(&self) -> usize {
        self.serials.len() + self.users.len() + self.nodes.len()
    }

    /// Whether it denies nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// With what `other` denies, too.
    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.serials.extend(other.serials.iter().cloned());
        self.users.extend(other.users.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
        self
    }

    pub(crate) fn serial(&self, serial: &Serial, issuer: AuthorityKey) -> Option<Revoker> {
        let by = |issuer| self.serials.contains(&(serial.as_bytes().to_vec(), issuer));
        (!self.serials.is_empty() && (by(None) || by(Some(issuer)))).then(|| self.revoker("serial number"))
    }

    pub(crate) fn identity(&self, claims: &Identity) -> Option<Revoker> {
        if self.users.contains(&claims.user) {
            return Some(self.revoker("user"));
        }
        claims.node.as_ref().filter(|node| self.nodes.contains(node)).map(|_| self.revoker("node"))
    }

    fn revoker(&self, what: &'static str) -> Revoker {
        Revoker::Denied { what, origin: self.origin.clone().unwrap_or(Origin::Memory) }
    }

    fn add(&mut self, line: &str) -> Result<(), BadDenial> {
        if let Some(name) = quoted_user(line) {
            let name = name.filter(|name| check_user(name).is_ok()).ok_or(BadDenial::User)?;
            self.users.insert(name);
            return Ok(());
        }
        let line = without_remark(line).trim_end();
        let (kind, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match kind {
            "" => {}
            "serial" => drop(self.serials.insert(serial(rest)?)),
            "user" => {
                check_user(rest).map_err(|_| BadDenial::User)?;
                self.users.insert(rest.into());
            }
            "node" => drop(self.nodes.insert(rest.parse().map_err(|_| BadDenial::Node)?)),
            _ => return Err(BadDenial::Kind),
        }
        Ok(())
    }
}

/// How a line of a deny list can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadDenial {
    /// It denies nothing that exists.
    #[error("a line begins with serial, user, or node")]
    Kind,
    /// Not a serial number.
    #[error(
        "a serial number is 0x and hexadecimal digits, or decimal without zeros before it; at most 20 bytes"
    )]
    Serial,
    /// Something behind the serial number.
    #[error(
        "behind a serial number may stand issuer= and the SHA-256 of the authority's public key, 64 hexadecimal digits"
    )]
    Issuer,
    /// No user name.
    #[error(
        "a user name is 1 to 64 characters, none of them control characters; in quotation marks it has no blanks at its ends, and each mark within it stands twice"
    )]
    User,
    /// No node's id.
    #[error("a node's id is 1 to 64 letters, digits, dots, dashes and underscores")]
    Node,
    /// Not text.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Longer than anything that could be meant.
    #[error("it is longer than 1024 bytes")]
    LongLine,
}

/// A `#` at the beginning of a line or after a space begins a remark; within a name it is a character like others.
fn without_remark(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| {
        line.get(..*at).is_some_and(|before| before.is_empty() || before.ends_with([' ', '\t']))
    };
    let remark = line.match_indices('#').find(begins);
    remark.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
}

/// The name in a line that gives one in quotation marks, `None` within when there is something wrong with them.
fn quoted_user(line: &str) -> Option<Option<String>> {
    let rest = line.strip_prefix("user")?.strip_prefix([' ', '\t'])?.trim_start().strip_prefix('"')?;
    let (mut name, mut rest) = (String::new(), rest);
    Some(loop {
        let Some((before, behind)) = rest.split_once('"') else { break None };
        name.push_str(before);
        match behind.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => {
                let ends = behind.is_empty() || behind.starts_with([' ', '\t']);
                break (ends && without_remark(behind).trim().is_empty()).then_some(name);
            }
        }
    })
}

fn serial(text: &str) -> Result<(Vec<u8>, Option<AuthorityKey>), BadDenial> {
    let (number, issuer) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let issuer = match issuer.trim() {
        "" => None,
        text => {
            let key = text.strip_prefix("issuer=").and_then(|key| AuthorityKey::from_str(key).ok());
            Some(key.ok_or(BadDenial::Issuer)?)
        }
    };
    let serial = match number.strip_prefix("0x") {
        // No authority should give this one out, but some do.
        Some("0" | "00") => Some(Serial::from(0)),
        None if number == "0" => Some(Serial::from(0)),
        Some(digits) => Serial::from_hexadecimal(digits).ok(),
        // Hexadecimal digits of which none is a letter would be taken for another number.
        None if number.starts_with('0') || !number.bytes().all(|byte| byte.is_ascii_digit()) => None,
        None => number.parse().ok(),
    };
    Ok((serial.ok_or(BadDenial::Serial)?.as_bytes().to_vec(), issuer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<DenyList, (usize, BadDenial)> {
        DenyList::parse(text, &Origin::Memory).map_err(|error| {
            let PkiError::BadDenyList { line, source, .. } = error else { panic!("{error}") };
            (line, source)
        })
    }

    #[test]
    fn a_deny_list_says_by_line_what_it_denies() {
        let key = AuthorityKey::of(b"a key");
        let text = format!(
            "# lost with the laptop of June\n\nserial 0x01:fF  # as openssl writes it\nserial 4096\nserial 7 issuer={key}\n\
             \tuser Alice #1 of #2 # and only her\nnode web-7.example\r\n"
        );
        let list = parse(text.as_bytes()).unwrap();
        assert_eq!((list.len(), list.is_empty()), (5, false));
        let (any, other) = (AuthorityKey::of(b"any"), AuthorityKey::of(b"other"));
        assert!(list.serial(&511.into(), any).is_some() && list.serial(&4096.into(), other).is_some());
        assert!(list.serial(&7.into(), key).is_some() && list.serial(&7.into(), other).is_none());
        let node = |id: &str| {
            let node = Some(id.parse().unwrap());
            Identity {
                user: "subd".into(),
                groups: BTreeSet::new(),
                methods: vec![],
                role: None,
                node,
                scope: dominator_core::auth::Scope::default(),
            }
        };
        assert!(list.identity(&node("web-7.example")).is_some() && list.identity(&node("web-7")).is_none());
        let alice = |user: &str| Identity { user: user.into(), ..node("web-8") };
        assert!(list.identity(&alice("Alice #1 of")).is_none());
        assert!(parse(b"user Alice#1").unwrap().identity(&alice("Alice#1")).is_some());
    }

    #[test]
    fn every_name_and_every_number_that_a_certificate_can_have_can_be_denied() {
        let text = "user \"x #1\"\nuser\t\"say \"\"hi\"\"\" # who says hi\nserial 0\n";
        let list = parse(text.as_bytes()).unwrap();
        let names: Vec<_> = list.users.iter().map(String::as_str).collect();
        assert_eq!(names, ["say \"hi\"", "x #1"]);
        let any = AuthorityKey::of(b"any");
        assert!(list.serial(&Serial::from(0), any).is_some() && list.serial(&1.into(), any).is_none());
        for zero in ["serial 0x0", "serial 0x00"] {
            assert_eq!(parse(zero.as_bytes()).unwrap().serials, list.serials, "{zero}");
        }
        for user in ["alice ", " alice", "alice\u{a0}", "\u{2003}alice", " "] {
            assert!(check_user(user).is_err(), "{user:?} can't be told from another");
        }
        assert!(check_user("Alice of Sales").is_ok());
    }

    #[test]
    fn a_line_that_is_not_understood_refuses_the_whole_list() {
        let long = [b"user ".as_slice(), &[b'a'; MAX_LINE]].concat();
        let bad: [(&[u8], usize, BadDenial); 20] = [
            (b"user alice\nusers bob\n", 2, BadDenial::Kind),
            (b"alice", 1, BadDenial::Kind),
            (b"serial", 1, BadDenial::Serial),
            (b"serial 0x", 1, BadDenial::Serial),
            (b"user \"alice", 1, BadDenial::User),
            (b"user \"alice\" b", 1, BadDenial::User),
            (b"user \"alice\"#b", 1, BadDenial::User),
            (b"user \" alice\"", 1, BadDenial::User),
            (b"user \"\"", 1, BadDenial::User),
            (b"serial 007", 1, BadDenial::Serial),
            (b"serial 1f", 1, BadDenial::Serial),
            (b"serial -1", 1, BadDenial::Serial),
            (b"serial +1", 1, BadDenial::Serial),
            (b"serial 0x0102030405060708090a0b0c0d0e0f101112131415", 1, BadDenial::Serial),
            (b"serial 1 2", 1, BadDenial::Issuer),
            (b"serial 1 issuer=00", 1, BadDenial::Issuer),
            (b"user", 1, BadDenial::User),
            (b"user a\x07", 1, BadDenial::User),
            (b"node a/b", 1, BadDenial::Node),
            (b"\n\nuser \xff", 3, BadDenial::NotUtf8),
        ];
        for (text, line, error) in bad {
            assert_eq!(parse(text), Err((line, error)), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(parse(&long), Err((1, BadDenial::LongLine)));
    }
}

//! Who may call what: method names, the patterns a certificate lists, and the one decision every server takes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The package prefix of every service on the wire; it is not part of a method's name in a certificate.
const PACKAGE: &str = "dominator.v1.";

/// One remote method, written `Service.Method` in certificates, logs and tables (`Subd.Poll`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method {
    service: String,
    name: String,
}

impl Method {
    /// The method behind a gRPC request path: `/dominator.v1.Subd/Poll` is `Subd.Poll`.
    ///
    /// # Errors
    /// [`BadMethod`] when the path is not `/package.Service/Method` of this protocol.
    pub fn from_grpc_path(path: &str) -> Result<Self, BadMethod> {
        let bad = || BadMethod(path.into());
        let (service, name) = path
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(PACKAGE))
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(bad)?;
        Self::from_parts(service, name).ok_or_else(bad)
    }

    /// The service, as in `Subd`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The method's own name, as in `Poll`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn from_parts(service: &str, name: &str) -> Option<Self> {
        let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (word(service) && word(name)).then(|| Self { service: service.into(), name: name.into() })
    }
}

impl FromStr for Method {
    type Err = BadMethod;

    fn from_str(text: &str) -> Result<Self, BadMethod> {
        text.split_once('.').and_then(|(s, n)| Self::from_parts(s, n)).ok_or_else(|| BadMethod(text.into()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.name)
    }
}

/// Text that names no method.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a method; write Service.Method, as in Subd.Poll")]
pub struct BadMethod(String);

/// A shell pattern over method names, as a certificate lists it: `Subd.Poll`, `Subd.*`, `*.*`.
///
/// `*`, `?` and `[...]` work as in a shell and never cross the dot, of which there is exactly one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodPattern {
    service: String,
    name: String,
}

impl MethodPattern {
    /// The longest pattern accepted, in bytes.
    pub const MAX_LEN: usize = 256;

    /// Whether `method` is one of those this pattern grants.
    pub fn matches(&self, method: &Method) -> bool {
        glob(self.service.as_bytes(), method.service.as_bytes())
            && glob(self.name.as_bytes(), method.name.as_bytes())
    }

    /// Parses a list as `make-cert` takes it: separated by commas or newlines, blank items and `#` comments dropped.
    ///
    /// # Errors
    /// [`BadPattern`] for the first item that is no pattern.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, BadPattern> {
        text.lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl FromStr for MethodPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(text.chars().take(Self::MAX_LEN).collect());
        let half = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_*?[]-^!".contains(&b))
                && balanced(s)
        };
        let (service, name) = text.split_once('.').ok_or_else(bad)?;
        let fits = text.len() <= Self::MAX_LEN && half(service) && half(name);
        fits.then(|| Self { service: service.into(), name: name.into() }).ok_or_else(bad)
    }
}

impl fmt::Display for MethodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.name)
    }
}

/// Text that is no method pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a method pattern; write Service.Method with exactly one dot, as in Subd.Poll or ImageServer.*"
)]
pub struct BadPattern(String);

/// Who a verified certificate says is calling, and what it grants. Only the leaf certificate counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name: the certificate's common name, never empty.
    pub user: String,
    /// Groups the user belongs to.
    pub groups: BTreeSet<String>,
    /// What the certificate grants; empty when it was signed by an authority trusted for identity only.
    pub methods: Vec<MethodPattern>,
    /// The part in the system this certificate may play as a server, if any.
    pub role: Option<Role>,
}

/// The parts a certificate can play. A server proves its role to its clients, so that no machine can pose as an
/// image server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The agent on a machine.
    Subd,
    /// The controller.
    Dominator,
    /// The image and object server.
    ImageServer,
    /// The image builder.
    Imaginator,
    /// The generator of computed files.
    FilegenServer,
    /// The machine data base.
    Mdbd,
    /// The gate for disruptive updates.
    DisruptionManager,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Subd,
        Self::Dominator,
        Self::ImageServer,
        Self::Imaginator,
        Self::FilegenServer,
        Self::Mdbd,
        Self::DisruptionManager,
    ];

    /// The name as it stands in certificates; it is the user name of such a daemon, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subd => "subd",
            Self::Dominator => "dominator",
            Self::ImageServer => "imageserver",
            Self::Imaginator => "imaginator",
            Self::FilegenServer => "filegen-server",
            Self::Mdbd => "mdbd",
            Self::DisruptionManager => "disruption-manager",
        }
    }

    /// The role of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a server demands of callers of one method. A method that is in no table is denied to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The certificate must list the method.
    Listed,
    /// Any verified identity may call; the handler sees whether the method was listed as well.
    Public,
}

/// The answer to "may this caller call that method?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes: the certificate lists the method.
    Listed,
    /// Yes, as an ordinary user of a public method; ownership is still the handler's to check.
    Public,
    /// No.
    Denied(Denied),
}

/// A refusal, in words fit for both ends' logs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("access to method denied: {user:?} may not call {method}; its certificate does not list it")]
pub struct Denied {
    /// Who asked.
    pub user: String,
    /// For what.
    pub method: Method,
}

/// Decides whether `identity` may call `method`, of which the server says `access`. Deny is the default.
pub fn decide(identity: &Identity, method: &Method, access: Access) -> Decision {
    if identity.methods.iter().any(|pattern| pattern.matches(method)) {
        return Decision::Listed;
    }
    match access {
        Access::Public => Decision::Public,
        Access::Listed => Decision::Denied(Denied { user: identity.user.clone(), method: method.clone() }),
    }
}

fn balanced(pattern: &str) -> bool {
    let mut open = false;
    for byte in pattern.bytes() {
        match (byte, open) {
            (b'[', false) => open = true,
            (b']', true) => open = false,
            (b'[', true) | (b']', false) => return false,
            _ => {}
        }
    }
    !open
}

/// Shell matching over ASCII, iterative with one point of return, so that its time is bounded by the product of lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (rest.split_first(), left.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, left));
                rest = after;
            }
            (None, None) => return true,
            (Some(_), Some((byte, tail))) => match one(rest, *byte) {
                Some(after) => (rest, left) = (after, tail),
                None => match step_back(&mut retry) {
                    Some(next) => (rest, left) = next,
                    None => return false,
                },
            },
            (None, Some(_)) => match step_back(&mut retry) {
                Some(next) => (rest, left) = next,
                None => return false,
            },
            (Some(_), None) => return false,
        }
    }
}

/// Lets the last `*` take one byte more.
fn step_back<'a>(retry: &mut Option<(&'a [u8], &'a [u8])>) -> Option<(&'a [u8], &'a [u8])> {
    let (pattern, text) = retry.take()?;
    let (_, tail) = text.split_first()?;
    *retry = Some((pattern, tail));
    *retry
}

/// Matches one byte against the pattern's first element and returns what follows that element.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, after) = pattern.split_first()?;
    match first {
        b'?' => Some(after),
        b'[' => {
            let end = after.iter().position(|b| *b == b']')?;
            let (class, tail) = (after.get(..end)?, after.get(end + 1..)?);
            class_holds(class, byte).then_some(tail)
        }
        literal => (*literal == byte).then_some(after),
    }
}

fn class_holds(class: &[u8], byte: u8) -> bool {
    let (negated, mut rest) = match class.split_first() {
        Some((b'^' | b'!', tail)) => (true, tail),
        _ => (false, class),
    };
    let mut held = false;
    while let Some((low, after)) = rest.split_first() {
        rest = match after {
            [b'-', high, tail @ ..] => {
                held |= (*low..=*high).contains(&byte);
                tail
            }
            _ => {
                held |= *low == byte;
                after
            }
        };
    }
    held != negated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grants(pattern: &str, method: &str) -> bool {
        pattern.parse::<MethodPattern>().unwrap().matches(&method.parse().unwrap())
    }

    #[test]
    fn patterns_match_as_in_a_shell_and_never_cross_the_dot() {
        let yes = [
            ("Subd.Poll", "Subd.Poll"),
            ("Subd.*", "Subd.Poll"),
            ("*.*", "Subd.Poll"),
            ("S?bd.P*l", "Subd.Poll"),
        ];
        let no = [
            ("Subd.Poll", "Subd.Pol"),
            ("Subd.*", "Subdue.Poll"),
            ("*.Get", "Subd.Poll"),
            ("S[^u]bd.*", "Subd.Poll"),
        ];
        for (pattern, method) in yes {
            assert!(grants(pattern, method), "{pattern} must grant {method}");
        }
        for (pattern, method) in no {
            assert!(!grants(pattern, method), "{pattern} must not grant {method}");
        }
        assert!(grants("Image[R-T]erver.*", "ImageServer.GetImage"));
    }

    #[test]
    fn only_one_dot_makes_a_pattern() {
        for bad in
            ["", ".", "Subd", "Subd.", ".Poll", "a.b.c", "*", "Subd/Poll.x", "S[ubd.*", "S]ubd.*", "Sübd.x"]
        {
            assert!(bad.parse::<MethodPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_come_from_files_and_from_commas() {
        let listed = MethodPattern::parse_list(
            "ImageServer.*, Subd.Poll\n# a comment\n\nObjectServer.GetObjects # why",
        )
        .unwrap();
        let text: Vec<String> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["ImageServer.*", "Subd.Poll", "ObjectServer.GetObjects"]);
        assert!(MethodPattern::parse_list("Subd.Poll, everything").is_err());
    }

    #[test]
    fn a_path_of_another_protocol_names_no_method() {
        assert_eq!(Method::from_grpc_path("/dominator.v1.Subd/Poll").unwrap().to_string(), "Subd.Poll");
        for bad in [
            "/grpc.health.v1.Health/Check",
            "dominator.v1.Subd/Poll",
            "/dominator.v1.Subd/Poll/x",
            "/dominator.v1.Subd",
        ] {
            assert!(Method::from_grpc_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unlisted_methods_are_denied_and_public_ones_are_told_apart() {
        let identity = Identity {
            user: "alice".into(),
            groups: BTreeSet::new(),
            methods: MethodPattern::parse_list("ImageServer.*").unwrap(),
            role: None,
        };
        let poll: Method = "Subd.Poll".parse().unwrap();
        assert_eq!(
            decide(&identity, &"ImageServer.GetImage".parse().unwrap(), Access::Listed),
            Decision::Listed
        );
        assert_eq!(decide(&identity, &poll, Access::Public), Decision::Public);
        assert!(matches!(decide(&identity, &poll, Access::Listed), Decision::Denied(_)));
    }

    /// The obvious exponential matcher, to check the fast one against.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((b'?', rest)) => !text.is_empty() && slow(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_obvious_one(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}

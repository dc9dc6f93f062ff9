//! The one decision every server takes.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::{Access, Identity, Method, People};
use crate::image::ImageName;
use crate::namespace::DirectoryName;

/// "May this caller call that method?", with all that the answer depends on but what the call touches.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What is to be called.
    pub method: &'a Method,
    /// What the server demands of its callers.
    pub access: Access,
    /// Who calls; nobody, if no certificate was shown.
    pub caller: Option<&'a Identity>,
    /// Whether the caller wants to use the powers it has.
    pub powers: Powers,
    /// Whom the server trusts with every method.
    pub trusted: &'a People,
    /// Whom the server trusts with this method, as they own what it is about.
    pub owners: &'a People,
}

/// Whether a caller wants to use the powers it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Powers {
    /// It does.
    #[default]
    Used,
    /// It acts as an ordinary user, whatever it may do.
    Waived,
}

/// What a call touches. Powers end where the scope of a certificate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Nothing that a scope knows, or nothing yet.
    Nothing,
    /// A machine with these tags.
    Machine(&'a BTreeMap<String, String>),
    /// An image.
    Image(&'a ImageName),
    /// A directory of images.
    ImageDirectory(&'a DirectoryName),
    /// All machines.
    Fleet,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Machine(_) => f.write_str("this machine"),
            Self::Image(name) => write!(f, "image {name}"),
            Self::ImageDirectory(name) => write!(f, "directory {name}"),
            Self::Fleet => f.write_str("all machines"),
        }
    }
}

/// The answer: on what ground, or why not.
pub type Decision = Result<Ground, Denied>;

/// On what ground a call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ground {
    /// The certificate lists the method.
    Listed,
    /// The server trusts the caller with every method.
    Trusted,
    /// The server trusts the caller with what it owns.
    Owner,
    /// Everybody with a certificate may: as an ordinary user, whose ownership is the handler's to check.
    Public,
    /// Everybody may.
    Unauthenticated,
}

impl Ground {
    /// Whether the caller has powers, and need not own what it touches.
    pub const fn has_power(self) -> bool {
        match self {
            Self::Listed | Self::Trusted | Self::Owner => true,
            Self::Public | Self::Unauthenticated => false,
        }
    }

    /// A word for it, as it stands in metrics and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Trusted => "trusted",
            Self::Owner => "owner",
            Self::Public => "public",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// A refusal, in words fit for both ends' logs. Programs know it by how it begins.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Denied {
    /// There is no such method, or no rule for it.
    #[error("access to method denied: there is no {name} here")]
    NoSuchMethod {
        /// What was called.
        name: String,
    },
    /// Nobody knows who calls.
    #[error("access to method denied: {method} demands a certificate; show one")]
    Nobody {
        /// For what.
        method: Method,
    },
    /// The caller is no longer believed to be who it was when it connected.
    #[error("access to method denied: {why}")]
    Lost {
        /// Who asked.
        user: String,
        /// What has become of its certificate.
        why: String,
    },
    /// The caller may have been revoked, and nobody here would know.
    #[error("access to method denied: {why}")]
    Stale {
        /// Who asked.
        user: String,
        /// What is not known, and since when.
        why: String,
    },
    /// The caller has no power to call it.
    #[error("access to method denied: {user:?} may not call {method}; its certificate does not list it")]
    NotListed {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
    },
    /// It has, but not there.
    #[error(
        "access to method denied: {user:?} may not call {method} for {target}; the scope of its certificate ends before \
         that"
    )]
    OutsideScope {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
        /// Where.
        target: String,
    },
    /// It has, but wants to act without.
    #[error("access to method denied: {user:?} may call {method}, but asked not to use its powers")]
    PowersWaived {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
    },
    /// It asked to use its powers in a way that there is not. Whoever asks for less than it may must not get more than that.
    #[error(
        "access to method denied: {user:?} called {method} with powers that are not known; dominator-powers can only be none"
    )]
    UnknownPowers {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
    },
    /// Everybody may call it for what they own, and the caller does not own this.
    #[error(
        "access to method denied: {user:?} does not own {target}, and has no power to call {method} for it"
    )]
    NotOwner {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
        /// What belongs to others.
        target: String,
    },
    /// An ordinary user has as many calls under way as it may.
    #[error(
        "access to method denied: {user:?} has {limit} calls of {method} under way already; wait until one is done"
    )]
    TooMany {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
        /// How many at once.
        limit: u32,
    },
    /// An ordinary user tried again and again to change what it may not.
    #[error(
        "access to method denied: {user:?} called {method} and its like too often; try again in a second"
    )]
    TooOften {
        /// Who asked.
        user: String,
        /// For what.
        method: Method,
    },
}

impl Denied {
    /// A word for the reason, as it stands in metrics and logs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoSuchMethod { .. } => "no-such-method",
            Self::Nobody { .. } => "nobody",
            Self::Lost { .. } => "lost",
            Self::Stale { .. } => "stale",
            Self::NotListed { .. } => "not-listed",
            Self::OutsideScope { .. } => "outside-scope",
            Self::PowersWaived { .. } => "powers-waived",
            Self::UnknownPowers { .. } => "unknown-powers",
            Self::NotOwner { .. } => "not-owner",
            Self::TooMany { .. } => "too-many",
            Self::TooOften { .. } => "too-often",
        }
    }
}

/// Decides whether a call that touches `target` is allowed. Deny is the default.
///
/// In this order: the certificate lists the method, or the server trusts the caller; the caller owns what the method is
/// about; the method is public and the caller is somebody; the method is open to anybody. The first two are powers: they
/// end with the certificate's scope, and can be waived.
///
/// # Errors
/// [`Denied`], with what was missing.
pub fn decide(question: &Question<'_>, target: Target<'_>) -> Decision {
    // INVARIANT: no reader of certificates lets an empty name pass; this is the second lock.
    let caller = question.caller.filter(|caller| !caller.user.is_empty());
    let power = caller.and_then(|caller| power(question, caller).map(|ground| (caller, ground)));
    if let Some((caller, ground)) = power
        && question.powers == Powers::Used
        && caller.scope.has(target)
    {
        return Ok(ground);
    }
    match (question.access, caller) {
        (Access::Public, Some(_)) => Ok(Ground::Public),
        (Access::Unauthenticated, _) => Ok(Ground::Unauthenticated),
        (Access::Public | Access::Listed, None) => Err(Denied::Nobody { method: question.method.clone() }),
        (Access::Listed, Some(caller)) => Err(denied(question, caller, power.is_some(), target)),
    }
}

fn power(question: &Question<'_>, caller: &Identity) -> Option<Ground> {
    if caller.methods.iter().any(|pattern| pattern.matches(question.method)) {
        return Some(Ground::Listed);
    }
    if question.trusted.has(caller) {
        return Some(Ground::Trusted);
    }
    question.owners.has(caller).then_some(Ground::Owner)
}

fn denied(question: &Question<'_>, caller: &Identity, has_power: bool, target: Target<'_>) -> Denied {
    let (user, method) = (caller.user.clone(), question.method.clone());
    match (has_power, question.powers) {
        (false, _) => Denied::NotListed { user, method },
        (true, Powers::Waived) => Denied::PowersWaived { user, method },
        (true, Powers::Used) => Denied::OutsideScope { user, method, target: target.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{MethodPattern, Scope};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    static NOBODY: People = People { users: BTreeSet::new(), groups: BTreeSet::new() };

    fn somebody(user: &str, listed: &str) -> Identity {
        Identity {
            user: user.into(),
            groups: ["staff".to_owned()].into(),
            methods: MethodPattern::parse_list(listed).unwrap(),
            role: None,
            node: None,
            scope: Scope::default(),
        }
    }

    fn update() -> Method {
        "Subd.Update".parse().unwrap()
    }

    fn question<'a>(method: &'a Method, access: Access, caller: &'a Identity) -> Question<'a> {
        let powers = Powers::Used;
        Question { method, access, caller: Some(caller), powers, trusted: &NOBODY, owners: &NOBODY }
    }

    #[test]
    fn the_first_ground_in_the_order_counts() {
        let (method, trusted, owners) =
            (update(), People::new(["alice"], [""; 0]), People::new([""; 0], ["staff"]));
        let (lists, not) = (somebody("alice", "Subd.*"), somebody("alice", "ImageServer.*"));
        let public = question(&method, Access::Public, &lists);
        let all = Question { trusted: &trusted, owners: &owners, ..public };
        let is = |question: Question<'_>, ground| assert_eq!(decide(&question, Target::Nothing), Ok(ground));
        is(all, Ground::Listed);
        is(Question { caller: Some(&not), ..all }, Ground::Trusted);
        is(Question { caller: Some(&not), trusted: &NOBODY, ..all }, Ground::Owner);
        is(Question { caller: Some(&not), ..public }, Ground::Public);
        is(Question { powers: Powers::Waived, ..all }, Ground::Public);
        is(Question { caller: None, access: Access::Unauthenticated, ..all }, Ground::Unauthenticated);
        is(Question { access: Access::Unauthenticated, ..all }, Ground::Listed);
    }

    #[test]
    fn a_refusal_says_what_was_missing() {
        let (method, lists, not) = (update(), somebody("alice", "Subd.*"), somebody("alice", ""));
        let mut scoped = lists.clone();
        scoped.scope.tags.insert("tier".into(), ["front".to_owned()].into());
        let listed = question(&method, Access::Listed, &lists);
        let is = |question: Question<'_>, target, word| {
            let denied = decide(&question, target).unwrap_err();
            assert_eq!(denied.word(), word);
            assert!(denied.to_string().starts_with("access to method denied: "), "{denied}");
        };
        is(Question { caller: Some(&not), ..listed }, Target::Nothing, "not-listed");
        is(Question { caller: None, ..listed }, Target::Nothing, "nobody");
        is(Question { caller: None, access: Access::Public, ..listed }, Target::Nothing, "nobody");
        is(Question { powers: Powers::Waived, ..listed }, Target::Nothing, "powers-waived");
        is(Question { caller: Some(&scoped), ..listed }, Target::Fleet, "outside-scope");
    }

    #[test]
    fn who_has_no_name_is_nobody_whatever_its_certificate_lists() {
        let (method, nameless) = (update(), somebody("", "*.*"));
        let trusted = People::new([""], ["staff"]);
        let question =
            Question { trusted: &trusted, owners: &trusted, ..question(&method, Access::Public, &nameless) };
        assert_eq!(decide(&question, Target::Nothing), Err(Denied::Nobody { method: update() }));
    }

    #[test]
    fn powers_end_with_the_scope_whoever_gives_them_and_what_is_public_stays_so() {
        let (method, people) = (update(), People::new(["alice"], [""; 0]));
        let front: BTreeMap<String, String> = [("tier".to_owned(), "front".to_owned())].into();
        let back: BTreeMap<String, String> = [("tier".to_owned(), "back".to_owned())].into();
        for (listed, trusted, owners) in
            [("Subd.*", &NOBODY, &NOBODY), ("", &people, &NOBODY), ("", &NOBODY, &people)]
        {
            let mut alice = somebody("alice", listed);
            alice.scope.tags.insert("tier".into(), ["front".to_owned()].into());
            let question = Question { trusted, owners, ..question(&method, Access::Listed, &alice) };
            assert!(decide(&question, Target::Machine(&front)).is_ok_and(Ground::has_power));
            for beyond in [Target::Machine(&back), Target::Machine(&BTreeMap::new()), Target::Fleet] {
                assert!(matches!(decide(&question, beyond), Err(Denied::OutsideScope { .. })), "{beyond:?}");
                let public = Question { access: Access::Public, ..question };
                assert_eq!(decide(&public, beyond), Ok(Ground::Public));
            }
        }
    }

    /// Everything a decision depends on, to be weakened.
    #[derive(Clone, Debug)]
    struct Case {
        caller: Option<Identity>,
        access: Access,
        powers: Powers,
        trusted: People,
        owners: People,
        tags: BTreeMap<String, String>,
        image: ImageName,
        target: u8,
    }

    impl Case {
        fn decide(&self) -> Decision {
            let Self { access, powers, trusted, owners, .. } = self;
            let (access, powers, method, caller) = (*access, *powers, &update(), self.caller.as_ref());
            let directory = DirectoryName::of(&self.image);
            let target = match self.target {
                0 => Target::Nothing,
                1 => Target::Machine(&self.tags),
                2 => Target::Image(&self.image),
                3 => Target::ImageDirectory(&directory),
                _ => Target::Fleet,
            };
            decide(&Question { method, access, caller, powers, trusted, owners }, target)
        }

        /// The same with one power less, in every way there is.
        fn weaker(&self) -> Vec<Self> {
            let with = |change: &dyn Fn(&mut Self)| {
                let mut case = self.clone();
                change(&mut case);
                case
            };
            let identity =
                |change: fn(&mut Identity)| with(&move |case| case.caller.iter_mut().for_each(change));
            vec![
                with(&|case| case.caller = None),
                with(&|case| case.powers = Powers::Waived),
                with(&|case| case.trusted = People::default()),
                with(&|case| case.owners = People::default()),
                with(&|case| case.tags.clear()),
                with(&|case| case.access = Access::Listed),
                identity(|caller| drop(caller.methods.pop())),
                identity(|caller| caller.groups.clear()),
                identity(|caller| caller.user.clear()),
                identity(|caller| drop(caller.scope.tags.insert("more".into(), BTreeSet::new()))),
                identity(|caller| caller.scope.directories = ["elsewhere".to_owned()].into()),
            ]
        }
    }

    fn people() -> impl Strategy<Value = People> {
        (prop::collection::btree_set("[ab]", 0..2), prop::collection::btree_set("[st]", 0..2))
            .prop_map(|(users, groups)| People { users, groups })
    }

    fn scope() -> impl Strategy<Value = Scope> {
        let values = prop::collection::btree_set("[xy]", 0..2);
        (prop::collection::btree_map("[kl]", values, 0..2), prop::collection::btree_set("[de]", 0..2))
            .prop_map(|(tags, directories)| Scope { tags, directories })
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let pattern = prop::sample::select(vec!["*.*", "Subd.*", "S?bd.Up*", "Subd.Poll", "*.Get*"]);
        let methods = prop::collection::vec(pattern.prop_map(|text| text.parse().unwrap()), 0..3);
        let groups = prop::collection::btree_set("[st]", 0..2);
        ("[ab]?", groups, methods, scope()).prop_map(|(user, groups, methods, scope)| Identity {
            user,
            groups,
            methods,
            role: None,
            node: None,
            scope,
        })
    }

    fn case() -> impl Strategy<Value = Case> {
        let access = prop::sample::select(vec![Access::Listed, Access::Public, Access::Unauthenticated]);
        let powers = prop::sample::select(vec![Powers::Used, Powers::Waived]);
        let tags = prop::collection::btree_map("[kl]", "[xy]", 0..3);
        let image = "[de]/[0-9]".prop_map(|name| name.parse().unwrap());
        (prop::option::of(identity()), access, powers, people(), people(), tags, image, 0_u8..5).prop_map(
            |(caller, access, powers, trusted, owners, tags, image, target)| Case {
                caller,
                access,
                powers,
                trusted,
                owners,
                tags,
                image,
                target,
            },
        )
    }

    /// The order as the reference has it, for certificates that know of no scope.
    fn reference(case: &Case) -> Option<bool> {
        let caller = case.caller.as_ref().filter(|caller| !caller.user.is_empty());
        let method = update();
        let has_access = caller.is_some_and(|caller| {
            let listed = caller.methods.iter().filter(|pattern| pattern.matches(&method)).count() > 0;
            let among = |people: &People| {
                people.users.contains(&caller.user)
                    || caller.groups.iter().any(|it| people.groups.contains(it))
            };
            case.powers == Powers::Used && (listed || among(&case.trusted) || among(&case.owners))
        });
        match case.access {
            _ if has_access => Some(true),
            Access::Public => caller.map(|_| false),
            Access::Unauthenticated => Some(false),
            Access::Listed => None,
        }
    }

    proptest! {
        #[test]
        fn taking_powers_away_never_allows_more(case in case()) {
            let before = case.decide();
            for weaker in case.weaker() {
                let after = weaker.decide();
                prop_assert!(after.is_err() || before.is_ok(), "{:?}: {:?}", weaker, after);
                let power = |decision: &Decision| decision.as_ref().is_ok_and(|ground| ground.has_power());
                prop_assert!(!power(&after) || power(&before), "{:?}: {:?}", weaker, after);
            }
        }

        #[test]
        fn without_a_scope_a_certificate_means_what_it_means_to_the_reference(mut case in case()) {
            if let Some(caller) = &mut case.caller {
                caller.scope = Scope::default();
            }
            prop_assert_eq!(case.decide().ok().map(Ground::has_power), reference(&case));
        }
    }
}

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use dominator_core::auth::{Access, BadMethod, Identity, Method, People, Rule};
use thiserror::Error;

use super::shares::Shares;
use crate::limits;

/// Nobody at all.
static NOBODY: People =
    People { users: std::collections::BTreeSet::new(), groups: std::collections::BTreeSet::new() };

/// What a server offers to whom: a rule for each method, and whom it trusts beyond what their certificates list. A method
/// without a rule is denied to everybody.
///
/// ```
/// use dominator_core::auth::{Access, Rule};
/// use dominator_rpc::auth::Policy;
///
/// let policy = Policy::new()
///     .method("/helloworld.Greeter/SayHello", Rule::READS.open_to(Access::Public))?
///     .method("/helloworld.Greeter/Rename", Rule::CHANGES)?; // certificates list it as Greeter.Rename
/// # drop(policy);
/// # Ok::<(), dominator_rpc::auth::BadPolicy>(())
/// ```
#[derive(Clone, Debug)]
pub struct Policy {
    methods: HashMap<String, Arc<Offered>>,
    names: HashSet<Method>,
    trusted: People,
    owners: BTreeMap<String, People>,
    tags: BTreeMap<String, String>,
    calls: u32,
}

/// A method that is offered.
#[derive(Debug)]
pub(super) struct Offered {
    /// The gRPC path.
    pub(super) path: String,
    pub(super) method: Method,
    pub(super) rule: Rule,
    /// The calls of those without powers that are under way.
    pub(super) shares: Shares,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            methods: HashMap::new(),
            names: HashSet::new(),
            trusted: People::default(),
            owners: BTreeMap::new(),
            tags: BTreeMap::new(),
            calls: limits::CALLS_OF_USER,
        }
    }
}

impl Policy {
    /// Offers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers the method with the gRPC path `path` (`/package.Service/Method`) by `rule`. Certificates list it as
    /// `Service.Method`, without the package.
    ///
    /// # Errors
    /// [`BadPolicy`] when it is no path, was there before, or another method has the same name in certificates.
    pub fn method(mut self, path: &str, rule: Rule) -> Result<Self, BadPolicy> {
        let method = Method::from_grpc_path(path).map_err(BadPolicy::Path)?;
        let Entry::Vacant(place) = self.methods.entry(path.into()) else {
            return Err(BadPolicy::Twice { method });
        };
        if !self.names.insert(method.clone()) {
            return Err(BadPolicy::Twice { method });
        }
        place.insert(Arc::new(Offered { path: path.into(), method, rule, shares: Shares::default() }));
        Ok(self)
    }

    /// Offers what `other` offers, too. Trust stays as it is here.
    ///
    /// # Errors
    /// [`BadPolicy::Twice`].
    pub fn and(self, other: &Self) -> Result<Self, BadPolicy> {
        other.methods.iter().try_fold(self, |policy, (path, offered)| policy.method(path, offered.rule))
    }

    /// Trusts these with every method, whatever their certificates list.
    #[must_use]
    pub fn trusting(self, trusted: People) -> Self {
        Self { trusted, ..self }
    }

    /// Trusts these with every method of `service`, as what it is about is theirs.
    #[must_use]
    pub fn owned(mut self, service: &str, owners: People) -> Self {
        self.owners.insert(service.into(), owners);
        self
    }

    /// Says which machine this is, for certificates whose scope ends at some machines.
    #[must_use]
    pub fn tagged(self, tags: BTreeMap<String, String>) -> Self {
        Self { tags, ..self }
    }

    /// Lets each user without powers have so many calls of a method under way; [`limits::CALLS_OF_USER`] otherwise.
    #[must_use]
    pub const fn calls_of_user(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// Whether some method is open to those who show no certificate.
    pub fn has_unauthenticated(&self) -> bool {
        self.methods.values().any(|offered| offered.rule.access == Access::Unauthenticated)
    }

    /// Every method that is offered with its rule, in order of their names.
    pub fn methods(&self) -> BTreeMap<Method, Rule> {
        self.methods.values().map(|offered| (offered.method.clone(), offered.rule)).collect()
    }

    /// Whether anything is open to whoever this is that is not open to everybody.
    pub(super) fn empowers(&self, identity: &Identity) -> bool {
        let listed = |method: &Method| identity.methods.iter().any(|pattern| pattern.matches(method));
        self.trusted.has(identity)
            || self.owners.values().any(|owners| owners.has(identity))
            || self.names.iter().any(listed)
    }

    pub(super) fn offered(&self, path: &str) -> Option<&Arc<Offered>> {
        self.methods.get(path)
    }

    pub(super) const fn trusted(&self) -> &People {
        &self.trusted
    }

    pub(super) fn owners(&self, service: &str) -> &People {
        self.owners.get(service).unwrap_or(&NOBODY)
    }

    pub(super) const fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    pub(super) const fn calls(&self) -> u32 {
        self.calls
    }
}

/// A policy that can't be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadPolicy {
    /// A path that names no method.
    #[error("a gRPC path is /package.Service/Method")]
    Path(#[source] BadMethod),
    /// Two methods of the same name: a certificate that lists one would grant the other.
    #[error(
        "there are two methods {method}, and certificates can't tell them apart; serve them from two servers"
    )]
    Twice {
        /// Their name.
        method: Method,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_methods_that_certificates_can_not_tell_apart_make_no_policy() {
        let policy = || Policy::new().method("/a.Greeter/Hello", Rule::READS).unwrap();
        for path in ["/a.Greeter/Hello", "/b.Greeter/Hello"] {
            assert!(matches!(policy().method(path, Rule::READS), Err(BadPolicy::Twice { .. })), "{path}");
        }
        assert!(policy().and(&policy()).is_err());
        assert!(matches!(policy().method("Greeter/Hello", Rule::READS), Err(BadPolicy::Path(_))));
        let more = policy().method("/b.Greeter/Bye", Rule::READS.open_to(Access::Unauthenticated)).unwrap();
        assert!(more.has_unauthenticated() && !policy().has_unauthenticated());
        let names: Vec<_> = more.methods().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["Greeter.Bye", "Greeter.Hello"]);
    }
}

//! Users and groups a server knows by name.

use std::collections::BTreeSet;

use super::Identity;

/// Users and groups, as a server's configuration or a machine data base names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Users, by name.
    pub users: BTreeSet<String>,
    /// Groups, all of whose members are meant.
    pub groups: BTreeSet<String>,
}

impl People {
    /// Those with these names.
    pub fn new(
        users: impl IntoIterator<Item = impl Into<String>>,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            users: users.into_iter().map(Into::into).collect(),
            groups: groups.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether `identity` is one of them.
    pub fn has(&self, identity: &Identity) -> bool {
        self.users.contains(&identity.user) || !self.groups.is_disjoint(&identity.groups)
    }

    /// Whether it is nobody.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

//! Certificates made to measure, and what it is like to be refused.

use std::collections::BTreeMap;
use std::time::SystemTime;

use dominator_core::auth::{MethodPattern, Scope};
use dominator_pki::ca::{Authority, Leaf};
use dominator_pki::{Credentials, Trust};
use dominator_rpc::transport::Tls;

/// An authority, and those it has signed.
pub struct Fleet(Authority);

/// What a certificate says beside its methods.
#[derive(Clone, Debug, Default)]
pub struct Says {
    pub groups: Vec<&'static str>,
    pub scope: Scope,
}

impl Fleet {
    pub fn new() -> Self {
        Self(Authority::create("Test fleet", SystemTime::now()).unwrap())
    }

    pub fn trust(&self) -> Trust {
        Trust::new(vec![self.0.certificate_der().clone()], Vec::new()).unwrap()
    }

    pub fn credentials(&self, user: &str, methods: &str, says: &Says) -> Credentials {
        let leaf = Leaf::new(user).unwrap().methods(MethodPattern::parse_list(methods).unwrap());
        let leaf = leaf.groups(says.groups.iter().copied()).scope(says.scope.clone());
        self.0.issue_credentials(&leaf, SystemTime::now()).unwrap()
    }

    pub fn tls(&self, user: &str, methods: &str) -> Tls {
        self.tls_of(user, methods, &Says::default())
    }

    pub fn tls_of(&self, user: &str, methods: &str, says: &Says) -> Tls {
        Tls::new(self.trust(), self.credentials(user, methods, says)).unwrap()
    }
}

pub fn in_groups(groups: &[&'static str]) -> Says {
    Says { groups: groups.to_vec(), ..Says::default() }
}

/// Ends at machines of that tier.
pub fn at_tier(tier: &str) -> Says {
    let tags = [("tier".to_owned(), [tier.to_owned()].into())].into();
    Says { scope: Scope { tags, ..Scope::default() }, ..Says::default() }
}

/// Ends at images in that directory.
pub fn at_images(directory: &str) -> Says {
    let directories = [directory.to_owned()].into();
    Says { scope: Scope { directories, ..Scope::default() }, ..Says::default() }
}

pub fn tier(tier: &str) -> BTreeMap<String, String> {
    [("tier".to_owned(), tier.to_owned())].into()
}

/// What is said to whom is refused; everything else is a failure of the test.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, impl std::error::Error>) -> String {
    let text = crate::support::chain(&result.unwrap_err());
    assert!(text.contains("access to method denied: "), "{text}");
    text
}

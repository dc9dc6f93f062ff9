//! What the URIs say that we put among a certificate's alternative names.

use dominator_core::auth::{NodeId, Role, Scope};
use dominator_core::image::ImageName;

use crate::certificate::{
    AlternativeName, IDENTITY_ONLY_URI, MAX_LIST, NODE_URI, ROLE_URI, SCOPE_IMAGES_URI, SCOPE_TAG_URI,
    SCOPE_URI,
};
use crate::error::BadCertificate;
use crate::verified::Granted;

/// What is told of a scope that can't be read, in characters.
const SHOWN: usize = 120;

/// A role's URI decides alone, and one we do not know grants nothing: a newer authority may know more roles than we.
pub(crate) fn role(user: &str, names: &[AlternativeName]) -> Result<Option<Role>, BadCertificate> {
    let mut roles = uris(names).filter_map(|uri| uri.strip_prefix(ROLE_URI));
    match (roles.next(), roles.next()) {
        (None, _) => Ok(Role::named(user)),
        (Some(name), None) => Ok(Role::named(name)),
        (Some(_), Some(_)) => Err(BadCertificate::SeveralRoles),
    }
}

pub(crate) fn node(names: &[AlternativeName]) -> Result<Option<NodeId>, BadCertificate> {
    let mut nodes = uris(names).filter_map(|uri| uri.strip_prefix(NODE_URI));
    match (nodes.next(), nodes.next()) {
        (None, _) => Ok(None),
        (Some(id), None) => id.parse().map(Some).map_err(|_| BadCertificate::BadNode),
        (Some(_), Some(_)) => Err(BadCertificate::SeveralNodes),
    }
}

/// The mark takes powers away, so it counts in capitals, too, and with more behind it than a later version may mean.
pub(crate) fn authority_for(names: &[AlternativeName]) -> Granted {
    match uris(names).any(|uri| begins_with(uri, IDENTITY_ONLY_URI)) {
        true => Granted::IdentityOnly,
        false => Granted::Everything,
    }
}

/// A limit that is not understood refuses the certificate: passed over, it would grant what its issuer withheld.
pub(crate) fn scope(names: &[AlternativeName]) -> Result<Scope, BadCertificate> {
    let mut scope = Scope::default();
    for uri in uris(names).filter(|uri| is_limit(uri)) {
        let bad = || BadCertificate::BadScope(uri.chars().take(SHOWN).collect());
        if let Some(tag) = uri.strip_prefix(SCOPE_TAG_URI) {
            let (key, value) = tag.split_once('=').ok_or_else(bad)?;
            let key = decoded(key).filter(|key| !key.is_empty()).ok_or_else(bad)?;
            let value = decoded(value).filter(|_| !value.contains('=')).ok_or_else(bad)?;
            scope.tags.entry(key).or_default().insert(value);
        } else if let Some(directory) = uri.strip_prefix(SCOPE_IMAGES_URI) {
            let name = decoded(directory).and_then(|name| name.parse::<ImageName>().ok()).ok_or_else(bad)?;
            scope.directories.insert(name.as_str().into());
        } else {
            return Err(bad());
        }
    }
    let count = scope.tags.values().map(std::collections::BTreeSet::len).sum::<usize>();
    match count.max(scope.directories.len()) {
        0..=MAX_LIST => Ok(scope),
        _ => Err(BadCertificate::LargeScope { limit: MAX_LIST }),
    }
}

fn uris(names: &[AlternativeName]) -> impl Iterator<Item = &str> {
    names.iter().filter_map(|name| match name {
        AlternativeName::Uri(uri) => Some(uri.as_str()),
        AlternativeName::Dns(_) | AlternativeName::Ip(_) | AlternativeName::Other(_) => None,
    })
}

/// Whether this is meant as a limit. Others than we may write the beginning of a URN in capitals, or forget its end.
fn is_limit(uri: &str) -> bool {
    begins_with(uri, SCOPE_URI.trim_end_matches(':'))
}

fn begins_with(uri: &str, meant: &str) -> bool {
    uri.get(..meant.len()).is_some_and(|start| start.eq_ignore_ascii_case(meant))
}

/// Undoes percent-encoding; `None` for what has control characters or is no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(if byte == b'%' { digit()? << 4 | digit()? } else { byte });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> Vec<AlternativeName> {
        list.iter().map(|uri| AlternativeName::Uri((*uri).into())).collect()
    }

    #[test]
    fn limits_add_up_to_a_scope() {
        let read = scope(&names(&[
            "urn:dominator:scope:tag:tier=edge",
            "urn:dominator:scope:tag:tier=front%20row",
            "urn:dominator:scope:tag:a%3Db=%C3%A4",
            "urn:dominator:scope:tag:empty=",
            "urn:dominator:scope:images:base/debian",
            "urn:dominator:scope:images:tools",
            "urn:dominator:of-tomorrow:scope",
            "https://example.org/urn:dominator:scope:x",
        ]));
        let set = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let scope = Scope {
            tags: [
                ("tier".into(), set(&["edge", "front row"])),
                ("a=b".into(), set(&["ä"])),
                ("empty".into(), set(&[""])),
            ]
            .into(),
            directories: set(&["base/debian", "tools"]),
        };
        assert_eq!(read, Ok(scope));
    }

    #[test]
    fn a_limit_that_is_not_understood_refuses_the_certificate() {
        let bad = [
            "urn:dominator:scope:",
            "urn:dominator:scope",
            "urn:dominator:scopes:tag:a=b",
            "urn:dominator:scope:machines:a",
            "URN:dominator:scope:tag:a=b",
            "urn:Dominator:Scope:tag:a=b",
            "urn:dominator:scope:Tag:a=b",
            "urn:dominator:scope:tag:",
            "urn:dominator:scope:tag:a",
            "urn:dominator:scope:tag:=b",
            "urn:dominator:scope:tag:a=b=c",
            "urn:dominator:scope:tag:a=%",
            "urn:dominator:scope:tag:a=%0",
            "urn:dominator:scope:tag:a=%4",
            "urn:dominator:scope:tag:a=%zz",
            "urn:dominator:scope:tag:a=%ff",
            "urn:dominator:scope:tag:a=%0a",
            "urn:dominator:scope:images:",
            "urn:dominator:scope:images:base/",
            "urn:dominator:scope:images:/base",
            "urn:dominator:scope:images:../base",
            "urn:dominator:scope:images:base/*",
        ];
        for uri in bad {
            assert_eq!(scope(&names(&[uri])), Err(BadCertificate::BadScope(uri.into())));
        }
        let many: Vec<String> = (0..=MAX_LIST).map(|n| format!("urn:dominator:scope:images:a{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(scope(&names(&many)), Err(BadCertificate::LargeScope { limit: MAX_LIST }));
        assert!(scope(&names(&many[1..])).is_ok());
    }

    #[test]
    fn a_certificate_is_that_of_one_node() {
        assert_eq!(node(&names(&["urn:dominator:node:web-7", "x:y"])), Ok(Some("web-7".parse().unwrap())));
        assert_eq!(node(&names(&["urn:dominator:node:web/7"])), Err(BadCertificate::BadNode));
        assert_eq!(node(&names(&["urn:dominator:node:"])), Err(BadCertificate::BadNode));
        let two = names(&["urn:dominator:node:a", "urn:dominator:node:a"]);
        assert_eq!(node(&two), Err(BadCertificate::SeveralNodes));
    }

    #[test]
    fn the_mark_of_an_identity_authority_is_seen_however_it_is_written() {
        for uri in
            ["urn:dominator:identity-only", "URN:Dominator:Identity-Only", "urn:dominator:identity-only:v2"]
        {
            assert_eq!(authority_for(&names(&["x:y", uri])), Granted::IdentityOnly, "{uri}");
        }
        for uri in ["urn:dominator:identity", "urn:dominator:role:subd", "x:urn:dominator:identity-only"] {
            assert_eq!(authority_for(&names(&[uri])), Granted::Everything, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn no_limit_is_passed_over(rest in "\\PC{0,40}") {
            match scope(&names(&[&format!("{SCOPE_URI}{rest}")])) {
                Ok(read) => prop_assert_ne!(read, Scope::default()),
                Err(error) => prop_assert!(matches!(error, BadCertificate::BadScope(_))),
            }
        }
    }
}

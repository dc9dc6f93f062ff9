//! Authorities of every kind of key, and below others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::collections::BTreeMap;
use std::time::SystemTime;

use dominator_core::auth::{Role, Scope};
use dominator_pki::ca::{Authority, KeyKind, LeafKey, NewAuthority, PublicKey};
use dominator_pki::{Certificate, Credentials, Granted, METHODS_OID, PkiError, Trust, rfc3339};
use proptest::prelude::*;
use support::*;

fn root_of(kind: KeyKind) -> Authority {
    let wanted = NewAuthority::new("Dominator").unwrap();
    Authority::create_with(&wanted, LeafKey::generate_kind(kind).unwrap(), SystemTime::now()).unwrap()
}

fn wanted(name: &str) -> NewAuthority {
    NewAuthority::new(name).unwrap()
}

fn below(above: &Authority, wanted: &NewAuthority, kind: KeyKind) -> Result<Authority, PkiError> {
    let key = LeafKey::generate_kind(kind).unwrap();
    let issued = above.issue_authority(wanted, &key.public_key().unwrap(), SystemTime::now())?;
    Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes())
}

fn trust(root: &Authority) -> Trust {
    Trust::new(vec![root.certificate_der().clone()], vec![]).unwrap()
}

#[test]
fn what_an_intermediate_issues_is_believed_by_whoever_has_the_root_alone() {
    for (above, under) in KeyKind::ALL.into_iter().flat_map(|a| KeyKind::ALL.map(|b| (a, b))) {
        let root = root_of(above);
        let site = below(&root, &wanted("Site"), under).unwrap();
        let subd = issue(&site, &leaf("subd").methods(methods("ObjectServer.GetObjects")));
        assert_eq!(subd.chain().len(), 2, "the leaf, then the intermediate, and no root");
        let verified = trust(&root).identify(subd.chain(), SystemTime::now()).unwrap();
        let identity = verified.identity();
        assert_eq!((identity.role, identity.methods.len()), (Some(Role::Subd), 1), "{above} {under}");
        let dominator = issue(&site, &leaf("dominator"));
        let server = trust(&root).server_config(&subd).unwrap();
        handshake(server, trust(&root).client_config(&dominator, Role::Subd).unwrap(), "any").accepted();
        let alone = &subd.chain()[..1];
        assert!(trust(&root).identify(alone, SystemTime::now()).is_err(), "without its link it is nobody's");
    }
}

#[test]
fn an_intermediate_has_no_authority_below_it_unless_that_was_asked_for() {
    let root = root_of(KeyKind::Ed25519);
    let site = below(&root, &wanted("Site"), KeyKind::EcdsaP256).unwrap();
    let error = below(&site, &wanted("Rack"), KeyKind::EcdsaP256).unwrap_err();
    assert!(error.to_string().contains("no such authority below it"), "{error}");
    let site = below(&root, &wanted("Site").below(1), KeyKind::EcdsaP256).unwrap();
    assert!(below(&site, &wanted("Rack").below(1), KeyKind::EcdsaP256).is_err());
    let rack = below(&site, &wanted("Rack"), KeyKind::EcdsaP256).unwrap();
    let subd = issue(&rack, &leaf("subd"));
    assert_eq!(subd.chain().len(), 3);
    trust(&root).identify(subd.chain(), SystemTime::now()).unwrap();
}

#[test]
fn an_authority_that_an_intermediate_may_not_have_is_not_believed() {
    let root = root_of(KeyKind::EcdsaP256);
    let site = below(&root, &wanted("Site"), KeyKind::EcdsaP256).unwrap();
    let rack = forge(&ca_params("Rack"), &issuer(&site));
    let rack = rcgen::Issuer::from_ca_cert_der(&rack.chain[0].clone(), rack.key)
        .map(|by| (by, rack.chain[0].clone()));
    let (by, rack) = rack.unwrap();
    let mut forged = forge(&params("subd"), &by);
    forged.chain.extend([rack, site.certificate_der().clone()]);
    let error = trust(&root).identify(&forged.chain, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::Untrusted { .. }), "{error}");
}

#[test]
fn an_authority_whose_key_never_leaves_its_machine_is_certified_by_request() {
    let root = root_of(KeyKind::EcdsaP256);
    let key = LeafKey::generate_kind(KeyKind::Ed25519).unwrap();
    let request = key.signing_request("wishes to be called so").unwrap();
    let public = PublicKey::from_signing_request(&request).unwrap();
    let issued = root.issue_authority(&wanted("Site"), &public, SystemTime::now()).unwrap();
    assert_eq!(issued.certificate.unverified_claims().user, "Site");
    let site = Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    trust(&root).identify(issue(&site, &leaf("subd")).chain(), SystemTime::now()).unwrap();
    let own = LeafKey::from_pem(root.private_key_pem().as_bytes(), &dominator_pki::Origin::Memory).unwrap();
    let error = root.issue_authority(&wanted("Site"), &own.public_key().unwrap(), SystemTime::now());
    assert!(error.unwrap_err().to_string().contains("own key"));
}

#[test]
fn a_leaf_ends_with_the_intermediate_that_issued_it() {
    let root = root_of(KeyKind::EcdsaP256);
    let site = below(&root, &wanted("Site").days(10), KeyKind::EcdsaP256).unwrap();
    let key = LeafKey::generate().unwrap().public_key().unwrap();
    let issued = site.issue(&leaf("subd").days(1000), &key, SystemTime::now()).unwrap();
    let left = issued.certificate.validity().remaining(SystemTime::now()).unwrap();
    assert!(left <= 10 * DAY && left > 9 * DAY, "{left:?}");
    let issued = site.issue(&leaf("subd").days(2), &key, SystemTime::now()).unwrap();
    assert!(issued.certificate.validity().remaining(SystemTime::now()).unwrap() <= 2 * DAY);
}

#[test]
fn certificates_in_an_authoritys_file_that_are_not_above_it_are_refused() {
    let (root, other) = (root_of(KeyKind::EcdsaP256), authority("Other"));
    let site = below(&root, &wanted("Site"), KeyKind::EcdsaP256).unwrap();
    let key = site.private_key_pem();
    let with = |more: &Authority| {
        let file = [site.certificate_pem(), more.certificate_pem()].concat();
        Authority::from_pem(file.as_bytes(), key.as_bytes())
    };
    assert_eq!(with(&root).unwrap().links().len(), 1, "the root is left out");
    assert!(matches!(with(&other), Err(PkiError::BrokenChain { .. })));
}

#[test]
fn a_scope_that_would_be_written_as_none_is_not_issued() {
    let root = root_of(KeyKind::EcdsaP256);
    let key = LeafKey::generate().unwrap().public_key().unwrap();
    let issue = |scope| root.issue(&leaf("a").scope(scope), &key, SystemTime::now());
    let tags = |key: &str, values: &[&str]| Scope {
        tags: BTreeMap::from([(key.to_owned(), values.iter().map(ToString::to_string).collect())]),
        ..Scope::default()
    };
    assert!(issue(tags("tier", &[])).is_err());
    assert!(issue(tags("", &["front"])).is_err());
    assert!(issue(tags("tier", &["a\nb"])).is_err());
    for bad in ["", "/", "base/", "/base", "a//b", "../a", "a b"] {
        let scope = Scope { directories: [bad.to_owned()].into(), ..Scope::default() };
        assert!(issue(scope).is_err(), "{bad:?}");
    }
    let names = |scope| {
        let issued = issue(scope).unwrap();
        issued.certificate.alternative_names().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(Scope::default()), [""; 0]);
    assert_eq!(
        names(tags("a=b ü", &["front", "x=y:z"])),
        ["urn:dominator:scope:tag:a%3Db%20%C3%BC=front", "urn:dominator:scope:tag:a%3Db%20%C3%BC=x%3Dy%3Az"]
    );
    let scope = Scope { directories: ["base/debian".to_owned()].into(), ..Scope::default() };
    assert_eq!(names(scope), ["urn:dominator:scope:images:base/debian"]);
}

#[test]
fn an_identity_authority_that_is_marked_gives_no_powers_also_where_nobody_was_told_of_it() {
    let root = root_of(KeyKind::EcdsaP256);
    let people = below(&root, &wanted("People").below(1).identity_only(), KeyKind::EcdsaP256).unwrap();
    let team = below(&people, &wanted("Team"), KeyKind::EcdsaP256).unwrap();
    let told =
        Trust::new(vec![root.certificate_der().clone()], vec![people.certificate_der().clone()]).unwrap();
    let (now, host) = (SystemTime::now(), "h.example".try_into().unwrap());
    // What the marked do not mark, and sign although they would not, gains nothing either.
    let unmarked = forge(&ca_params("Team"), &issuer(&people));
    let rack = [unmarked.chain.clone(), people.links().to_vec()].concat();
    let rack_signs = rcgen::Issuer::from_ca_cert_der(&unmarked.chain[0], unmarked.key).unwrap();
    let signers = [
        (issuer(&people), people.links().to_vec()),
        (issuer(&team), team.links().to_vec()),
        (rack_signs, rack),
    ];
    for (signer, links) in signers {
        let mut claims = params("dominator");
        claims.custom_extensions = vec![extension(METHODS_OID, b"\x30\x05\x0c\x03*.*")];
        let chain = [forge(&claims, &signer).chain, links].concat();
        let error = trust(&root).identify(&chain, now).unwrap_err();
        assert!(matches!(error, PkiError::Untrusted { .. }), "{error}");
        let error = trust(&root).recognise(&chain, Role::Dominator, &host, now).unwrap_err();
        assert!(matches!(error, PkiError::Untrusted { .. }), "{error}");
        let found = told.identify(&chain, now).unwrap();
        assert_eq!((found.granted(), found.identity().methods.len()), (Granted::IdentityOnly, 0));
        told.recognise(&chain, Role::Dominator, &host, now).unwrap_err();
    }
    let mark =
        |authority: &Authority| Certificate::parse(authority.certificate_der()).unwrap().authority_for();
    let marked = Granted::IdentityOnly;
    assert_eq!([&root, &people, &team].map(mark), [Granted::Everything, marked, marked]);
}

#[test]
fn an_identity_authority_that_is_marked_is_refused_among_those_that_are_believed_in_everything() {
    let root = root_of(KeyKind::EcdsaP256);
    let key = LeafKey::generate().unwrap();
    let people = Authority::create_with(&wanted("People").identity_only(), key, SystemTime::now()).unwrap();
    let both = vec![root.certificate_der().clone(), people.certificate_der().clone()];
    let error = Trust::new(both.clone(), vec![]).unwrap_err();
    assert!(
        matches!(&error, PkiError::IdentityAuthority { subject, .. } if subject == "CN=People"),
        "{error}"
    );
    Trust::new(both, vec![people.certificate_der().clone()]).unwrap_err();
    // Its certificate from before it was marked.
    let key = rcgen::KeyPair::from_pem(&people.private_key_pem()).unwrap();
    let before = ca_params("People").self_signed(&key).unwrap();
    let both = vec![root.certificate_der().clone(), before.der().clone()];
    Trust::new(both.clone(), vec![]).unwrap();
    let error = Trust::new(both, vec![people.certificate_der().clone()]).unwrap_err();
    assert!(matches!(&error, PkiError::IdentityAuthority { .. }), "{error}");
    let pems = [root.certificate_pem(), people.certificate_pem()].map(str::as_bytes);
    let trust = Trust::from_pem(pems[0], Some(pems[1])).unwrap();
    let alice = issue(&people, &leaf("alice").groups(["ops"]));
    let found = trust.identify(alice.chain(), SystemTime::now()).unwrap();
    assert_eq!((found.granted(), &found.identity().groups), (Granted::IdentityOnly, &groups(&["ops"])));
}

#[test]
fn an_identity_authority_that_is_marked_signs_no_powers() {
    let key = LeafKey::generate().unwrap();
    let people = Authority::create_with(&wanted("People").identity_only(), key, SystemTime::now()).unwrap();
    for asked in [leaf("alice").methods(methods("Subd.Poll")), leaf("subd"), leaf("alice").role(Role::Mdbd)] {
        let error = people.issue_credentials(&asked, SystemTime::now()).unwrap_err();
        assert!(error.to_string().contains("count nowhere"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_scope_comes_back_as_it_was_given(
        tags in prop::collection::btree_map("\\PC{1,12}", prop::collection::btree_set("\\PC{0,12}", 1..4), 0..5),
        directories in prop::collection::btree_set("[a-z0-9_+@=,:-]{1,9}(/[a-z0-9_]{1,9}){0,3}", 0..5),
        node in prop::option::of("[A-Za-z0-9._-]{1,64}"),
    ) {
        let root = root_of(KeyKind::EcdsaP256);
        let scope = Scope { tags, directories };
        let mut wanted = leaf("alice").scope(scope.clone());
        if let Some(node) = &node {
            wanted = wanted.node(node.parse().unwrap());
        }
        let made = issue(&root, &wanted);
        let claims = made.certificate().unverified_claims();
        prop_assert_eq!(&claims.scope, &scope);
        prop_assert_eq!(claims.node.as_ref().map(ToString::to_string), node);
    }
}

#[test]
fn a_chain_is_what_credentials_hold() {
    let root = root_of(KeyKind::EcdsaP256);
    let site = below(&root, &wanted("Site"), KeyKind::EcdsaP256).unwrap();
    let key = LeafKey::generate_kind(KeyKind::Ed25519).unwrap();
    let issued = site.issue(&leaf("a"), &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let read = Credentials::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    assert_eq!(read.chain()[1], *site.certificate_der());
}

#[test]
fn a_chain_is_valid_as_long_as_all_of_it_is_and_told_by_this_machines_clock() {
    let root = root_of(KeyKind::EcdsaP256);
    let now = SystemTime::now();
    let mut short = ca_params("Site");
    (short.not_before, short.not_after) = ((now - DAY).into(), (now + DAY).into());
    let site = forge(&short, &issuer(&root));
    let link = site.chain[0].clone();
    let by = rcgen::Issuer::from_ca_cert_der(&link, site.key).unwrap();
    let mut long = params("alice");
    (long.not_before, long.not_after) = ((now - 2 * DAY).into(), (now + 9 * DAY).into());
    let mut alice = forge(&long, &by).chain;
    alice.push(link);
    let valid = trust(&root).identify(&alice, now).unwrap().valid();
    let whole = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(whole(valid.not_before), whole(now - DAY));
    assert_eq!(whole(valid.not_after), whole(now + DAY));

    for (when, beside) in [(now + 2 * DAY, "until"), (now - DAY - DAY / 2, "from")] {
        let error = trust(&root).identify(&alice, when).unwrap_err();
        assert!(matches!(&error, PkiError::Untimely { valid: told, .. } if *told == valid), "{error}");
        let text = error.to_string();
        let edge = if beside == "until" { valid.not_after } else { valid.not_before };
        let words = format!("{beside} {}", rfc3339(edge));
        assert!(text.starts_with("by this machine's clock it is ") && text.contains(&words), "{text}");
        assert!(text.contains("\"alice\""), "{text}");
    }
}

//! Who is not believed any more: lists of revoked certificates, and deny lists.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::time::SystemTime;

use dominator_core::auth::Role;
use dominator_pki::ca::{Authority, LeafKey, NewAuthority, Reason, Revoked};
use dominator_pki::{
    AuthorityKey, Credentials, DenyList, Granted, Origin, PkiError, Revocation, RevocationStanding, Revoker,
    Serial, StalePolicy, Trust, Verified,
};
use rustls::{AlertDescription, CertificateError, Error};
use support::*;

fn below(above: &Authority, name: &str) -> Authority {
    let (wanted, key) = (NewAuthority::new(name).unwrap(), LeafKey::generate().unwrap());
    let issued = above.issue_authority(&wanted, &key.public_key().unwrap(), SystemTime::now()).unwrap();
    Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap()
}

fn trusting(authorities: &[&Authority]) -> Trust {
    Trust::new(authorities.iter().map(|one| one.certificate_der().clone()).collect(), vec![]).unwrap()
}

/// `trust` with the lists in each of `files`.
fn with_lists(trust: &Trust, files: &[&[u8]]) -> Trust {
    let mut revocation = Revocation::default();
    for file in files {
        let refused = revocation.read_lists(trust, file, &Origin::Memory).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
    }
    trust.clone().with_revocation(revocation)
}

fn with_denied(trust: &Trust, list: &str) -> Trust {
    let mut revocation = Revocation::default();
    revocation.deny(DenyList::parse(list.as_bytes(), &Origin::Memory).unwrap());
    trust.clone().with_revocation(revocation)
}

fn look(trust: &Trust, who: &Credentials) -> Result<Verified, PkiError> {
    trust.identify(who.chain(), SystemTime::now())
}

/// Why `who` is not believed, who must have been taken back.
fn taken_back(trust: &Trust, who: &Credentials) -> (Serial, Revoker) {
    let error = look(trust, who).unwrap_err();
    let PkiError::Revoked { serial, by, .. } = error else { panic!("{error}") };
    (serial, by)
}

fn numbered(authority: &Authority, user: &str, serial: u8) -> Credentials {
    issue(authority, &leaf(user).serial(u128::from(serial).into()))
}

fn list(by: &Authority, revoked: &[u8]) -> String {
    let one = |serial: &u8| Revoked {
        serial: u128::from(*serial).into(),
        since: SystemTime::now(),
        reason: Reason::KeyCompromise,
    };
    let revoked: Vec<_> = revoked.iter().map(one).collect();
    by.revoke(None, &revoked, 30, SystemTime::now()).unwrap().pem().to_owned()
}

/// Why this file of lists is not taken.
fn refused(trust: &Trust, file: &[u8]) -> String {
    let error = Revocation::default().read_lists(trust, file, &Origin::Memory).unwrap_err();
    if let PkiError::RefusedRevocationList { what, .. } = error { what.into() } else { error.to_string() }
}

#[test]
fn a_revoked_leaf_is_believed_by_neither_end_and_told_so() {
    let root = authority("Dominator");
    let (lost, kept) = (numbered(&root, "subd", 7), numbered(&root, "subd", 8));
    let server = numbered(&root, "imageserver", 9);
    let before = trusting(&[&root]);
    let after = with_lists(&before, &[list(&root, &[7, 9]).as_bytes()]);
    assert_eq!(taken_back(&after, &lost), (7.into(), Revoker::List(Origin::Memory)));
    assert_eq!(look(&after, &kept).unwrap().serial(), &8.into());
    let text = look(&after, &lost).unwrap_err().to_string();
    assert!(text.contains("serial number 0x07 was taken back by its authority"), "{text}");

    let meet = |at_server: &Trust, at_client: &Trust, client: &Credentials| {
        let server = at_server.server_config(&server).unwrap();
        handshake(server, at_client.client_config(client, Role::ImageServer).unwrap(), "images")
    };
    meet(&before, &before, &lost).accepted();
    let met = meet(&after, &before, &lost);
    assert!(matches!(met.client, Err(Error::AlertReceived(AlertDescription::CertificateRevoked))));
    assert_eq!(met.refused_by_server(), Error::InvalidCertificate(CertificateError::Revoked));
    let met = meet(&before, &after, &kept);
    assert_eq!(met.refused_by_client(), Error::InvalidCertificate(CertificateError::Revoked));
    let name = "images".try_into().unwrap();
    let error = after.recognise(server.chain(), Role::ImageServer, &name, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::Revoked { .. }), "{error}");
}

#[test]
fn a_revoked_intermediate_takes_all_it_issued_with_it_and_nobody_elses() {
    let root = authority("Dominator");
    let (lost, kept) = (below(&root, "Site"), below(&root, "Other site"));
    let serial = Credentials::from_pem(
        lost.certificate_pem().as_bytes(),
        LeafKey::from_pem(lost.private_key_pem().as_bytes(), &Origin::Memory).unwrap().to_pem().as_bytes(),
    );
    let serial = serial.unwrap().certificate().serial().clone();
    let revoked = Revoked { serial: serial.clone(), since: SystemTime::now(), reason: Reason::CaCompromise };
    let list = root.revoke(None, &[revoked], 30, SystemTime::now()).unwrap();
    let trust = with_lists(&trusting(&[&root]), &[list.pem().as_bytes()]);
    let victim = issue(&lost, &leaf("subd"));
    assert_eq!(taken_back(&trust, &victim), (serial.clone(), Revoker::List(Origin::Memory)));
    look(&trust, &issue(&kept, &leaf("subd"))).unwrap();
    look(&trust, &issue(&root, &leaf("subd"))).unwrap();
    let denied = with_denied(&trusting(&[&root]), &format!("serial {serial}"));
    assert!(matches!(taken_back(&denied, &victim), (_, Revoker::Denied { .. })));
}

#[test]
fn a_list_binds_the_key_that_signed_it_and_no_other_of_that_name() {
    let (one, other) = (authority("Dominator"), authority("Dominator"));
    let trust = with_lists(&trusting(&[&one, &other]), &[list(&one, &[7]).as_bytes()]);
    taken_back(&trust, &numbered(&one, "alice", 7));
    look(&trust, &numbered(&other, "alice", 7)).unwrap();

    let site = below(&one, "Site");
    look(&trust, &numbered(&site, "alice", 7)).unwrap();
    let trust = with_lists(&trusting(&[&one]), &[list(&site, &[7]).as_bytes()]);
    taken_back(&trust, &numbered(&site, "alice", 7));
    look(&trust, &numbered(&one, "alice", 7)).unwrap();
    assert_eq!(look(&trust, &numbered(&site, "bob", 8)).unwrap().serial(), &8.into());
}

#[test]
fn a_list_that_no_authority_of_ours_signed_is_refused() {
    let (root, rogue) = (authority("Dominator"), authority("Dominator"));
    let trust = trusting(&[&root]);
    assert!(refused(&trust, list(&rogue, &[7]).as_bytes()).contains("not signed by an authority we trust"));
    // The name of one and the key of another.
    let renamed = ca_params("Somebody").self_signed(issuer(&root).key()).unwrap();
    let renamed = Authority::from_pem(renamed.pem().as_bytes(), root.private_key_pem().as_bytes()).unwrap();
    assert!(refused(&trust, list(&renamed, &[7]).as_bytes()).contains("not signed by an authority"));
    // An intermediate's list needs its certificate, and that of an authority and signed by one.
    let site = below(&root, "Site");
    let signed = list(&site, &[7]);
    let alone = signed.split_inclusive("-----END X509 CRL-----\n").next().unwrap();
    assert!(refused(&trust, alone.as_bytes()).contains("not signed by an authority"));
    let rogue_site = list(&below(&rogue, "Site"), &[7]);
    assert!(refused(&trust, rogue_site.as_bytes()).contains("not signed by an authority"));
    let key = LeafKey::from_pem(site.private_key_pem().as_bytes(), &Origin::Memory).unwrap();
    let plain = root.issue(&leaf("Site"), &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let beside_a_leaf = alone.to_owned() + &plain.pem;
    assert!(refused(&trust, beside_a_leaf.as_bytes()).contains("not signed by an authority"));
    // Beside a good one it is said, and does no harm.
    let both = list(&root, &[8]) + &list(&rogue, &[7]);
    let mut revocation = Revocation::default();
    let said = revocation.read_lists(&trust, both.as_bytes(), &Origin::Memory).unwrap();
    assert!(matches!(said.as_slice(), [PkiError::UnknownRevoker { .. }]), "{said:?}");
    let trust = trust.with_revocation(revocation);
    look(&trust, &numbered(&root, "alice", 7)).unwrap();
    taken_back(&trust, &numbered(&root, "alice", 8));
}

#[test]
fn a_key_usage_without_lists_rules_them_out() {
    let mut shy = ca_params("Dominator");
    shy.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let key = rcgen::KeyPair::generate().unwrap();
    let shy = shy.self_signed(&key).unwrap();
    let shy = Authority::from_pem(shy.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let forged = ForgedList::of(1, &[7]).sign(&shy);
    assert!(refused(&trusting(&[&shy]), &forged).contains("key usage"));
}

#[test]
fn identity_authorities_take_back_whom_they_named() {
    let (root, people) = (authority("Dominator"), authority("People"));
    let trust =
        Trust::new(vec![root.certificate_der().clone()], vec![people.certificate_der().clone()]).unwrap();
    let revoking = with_lists(&trust, &[list(&people, &[7]).as_bytes()]);
    taken_back(&revoking, &numbered(&people, "alice", 7));
    let bob = look(&revoking, &numbered(&people, "bob", 8)).unwrap();
    assert_eq!((bob.granted(), bob.identity().user.as_str()), (Granted::IdentityOnly, "bob"));
    taken_back(&with_denied(&trust, "user alice"), &numbered(&people, "alice", 7));
}

#[test]
fn lists_come_in_der_or_in_pem_one_or_many() {
    let (one, other) = (authority("One"), authority("Other"));
    let trust = trusting(&[&one, &other]);
    let der = ForgedList::of(1, &[7]).sign(&one);
    let many = format!("One and other.\n{}{}", list(&one, &[7]), list(&other, &[8]));
    for files in [vec![der.as_slice(), list(&other, &[8]).as_bytes()], vec![many.as_bytes()]] {
        let trust = with_lists(&trust, &files);
        assert_eq!(trust.revocation().lists(), 2);
        taken_back(&trust, &numbered(&one, "a", 7));
        taken_back(&trust, &numbered(&other, "a", 8));
        look(&trust, &numbered(&other, "a", 7)).unwrap();
    }
    let endless = list(&one, &[]).repeat(65);
    assert!(refused(&trust, endless.as_bytes()).contains("more than 64"));
    for unread in ["\u{feff}", " "] {
        let said = refused(&trust, (unread.to_owned() + &many.replace("One and other.\n", "")).as_bytes());
        assert!(said.contains("first of its line"), "{said}");
    }
    let foreign = many.clone() + &many.replace("X509 CRL", "CRL");
    assert!(refused(&trust, foreign.as_bytes()).contains("can't be read"));
    assert!(refused(&trust, one.certificate_pem().as_bytes()).contains("no X509 CRL section"));
    assert!(refused(&trust, b"").contains("no X509 CRL section"));
    let torn = &many.as_bytes()[..many.len() - 30];
    assert!(refused(&trust, torn).contains("not PEM"), "half of it is not taken for all of it");
}

#[test]
fn what_is_no_whole_list_is_refused_in_words() {
    let root = authority("Dominator");
    let trust = trusting(&[&root]);
    let fine = || ForgedList::of(1, &[7]);
    with_lists(&trust, &[&fine().sign(&root)]);
    let extension =
        |arc, critical| ForgedList { extensions: v3_extension(arc, critical, b"\x05\x00"), ..fine() };
    let entry =
        |arc, critical| ForgedList { revoked: vec![(7, v3_extension(arc, critical, b"\x30\x00"))], ..fine() };
    let cases = [
        (extension(27, true), "what has changed"),
        (extension(27, false), "what has changed"),
        (extension(28, true), "only a part"),
        (extension(28, false), "only a part"),
        (extension(99, true), "critical extension that is not known"),
        (extension(20, false), "stands in it twice"),
        (entry(29, true), "of another authority"),
        (ForgedList { next: None, ..fine() }, "when the next one is due"),
        (ForgedList { number: None, extensions: v3_extension(20, false, b"\x0c\x01a"), ..fine() }, "number"),
    ];
    for (list, words) in cases {
        let said = refused(&trust, &list.sign(&root));
        assert!(said.contains(words), "{words}: {said}");
    }
    with_lists(&trust, &[&extension(99, false).sign(&root)]);
    let mut longer = fine().sign(&root);
    longer.push(0);
    assert!(refused(&trust, &longer).contains("no DER either"));
    let pem = pem("X509 CRL", &longer);
    assert!(refused(&trust, pem.as_bytes()).contains("bytes follow"));
}

#[test]
fn no_bit_of_a_list_can_be_bent() {
    let root = authority("Dominator");
    let trust = trusting(&[&root]);
    let der = ForgedList::of(1, &[7]).sign(&root);
    for at in 0..der.len() {
        let mut bent = der.clone();
        bent[at] ^= 1;
        let taken = Revocation::default().read_lists(&trust, &bent, &Origin::Memory);
        assert!(taken.is_err(), "bent at {at}");
    }
}

#[test]
fn a_newer_list_takes_the_place_of_an_older_and_never_the_other_way_round() {
    let root = authority("Dominator");
    let trust = trusting(&[&root]);
    let alice = numbered(&root, "alice", 7);
    let (old, new) = (ForgedList::of(3, &[7]).sign(&root), ForgedList::of(4, &[]).sign(&root));
    look(&with_lists(&trust, &[&old, &new]), &alice).unwrap();

    let mut revocation = Revocation::default();
    revocation.read_lists(&trust, &new, &Origin::Memory).unwrap();
    let said = revocation.read_lists(&trust, &old, &Origin::Memory).unwrap();
    let [error @ PkiError::OlderRevocationList { .. }] = said.as_slice() else { panic!("{said:?}") };
    assert!(error.to_string().contains("stays in force"), "{error}");
    look(&trust.clone().with_revocation(revocation.clone()), &alice).unwrap();

    // An authority does not begin to count anew, and whoever does not count is held to the time.
    let unnumbered =
        |issued, revoked: &[u8]| ForgedList { number: None, issued, ..ForgedList::of(1, revoked) };
    let earlier = unnumbered("20190101000000Z", &[7]).sign(&root);
    assert_eq!(revocation.read_lists(&trust, &earlier, &Origin::Memory).unwrap().len(), 1);
    let later = unnumbered("20210101000000Z", &[7]).sign(&root);
    assert!(revocation.read_lists(&trust, &later, &Origin::Memory).unwrap().is_empty());
    taken_back(&trust.with_revocation(revocation), &alice);
}

#[test]
fn what_was_revoked_stays_so_as_long_as_its_authority_is_trusted() {
    let (root, gone) = (authority("Dominator"), authority("Gone"));
    let trust = trusting(&[&root, &gone]);
    let trust = with_lists(&trust, &[list(&root, &[7]).as_bytes(), list(&gone, &[7]).as_bytes()]);
    let later = trust.revocation().carried_over(&trusting(&[&root]));
    assert_eq!(later.lists(), 1);
    taken_back(&trusting(&[&root]).with_revocation(later), &numbered(&root, "alice", 7));
}

#[test]
fn a_list_whose_successor_is_overdue_revokes_on_but_is_stale() {
    let root = authority("Dominator");
    let trust = trusting(&[&root]);
    let now = SystemTime::now();
    assert_eq!(trust.revocation_standing(now), RevocationStanding::Current);
    let fresh = with_lists(&trust, &[list(&root, &[7]).as_bytes()]);
    assert_eq!(fresh.revocation_standing(now), RevocationStanding::Current);
    let until = fresh.revocation().lists_valid().next().unwrap().2.not_after;
    assert_eq!(fresh.revocation_standing(until), RevocationStanding::Current);
    let late = RevocationStanding::Stale { origin: Origin::Memory, since: until };
    assert_eq!(fresh.revocation_standing(until + DAY), late);

    let overdue = ForgedList { next: Some("20210101000000Z"), ..ForgedList::of(1, &[7]) }.sign(&root);
    let overdue = with_lists(&trust, &[&overdue]);
    assert!(matches!(overdue.revocation_standing(now), RevocationStanding::Stale { .. }));
    taken_back(&overdue, &numbered(&root, "alice", 7));

    let mut missed = fresh.revocation().clone();
    missed.missed(Origin::Memory, now);
    assert_eq!(missed.standing(now), RevocationStanding::Stale { origin: Origin::Memory, since: now });
    taken_back(&trust.with_revocation(missed), &numbered(&root, "alice", 7));
}

#[test]
fn the_policy_for_stale_lists_is_closed_for_changes_unless_somebody_says_otherwise() {
    assert_eq!(StalePolicy::default(), StalePolicy::ClosedForChanges);
    for policy in [StalePolicy::Open, StalePolicy::ClosedForChanges, StalePolicy::Closed] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert!("shut".parse::<StalePolicy>().is_err());
}

#[test]
fn a_deny_list_takes_back_by_serial_number_by_user_and_by_node() {
    let (one, other) = (authority("Dominator"), authority("Dominator"));
    let trust = trusting(&[&one, &other]);
    let alice = numbered(&one, "alice", 7);
    let node = issue(&one, &leaf("subd").node("web-7".parse().unwrap()));
    let by = |list: &str, who: &Credentials| taken_back(&with_denied(&trust, list), who).1;
    for list in ["serial 7", "serial 0x07", "user alice"] {
        assert!(matches!(by(list, &alice), Revoker::Denied { .. }), "{list}");
        look(&with_denied(&trust, list), &numbered(&one, "bob", 8)).unwrap();
    }
    assert_eq!(by("node web-7", &node), Revoker::Denied { what: "node", origin: Origin::Memory });
    let key: AuthorityKey = look(&trust, &alice).unwrap().issuer();
    let of_one = with_denied(&trust, &format!("serial 7 issuer={key}"));
    taken_back(&of_one, &alice);
    look(&of_one, &numbered(&other, "alice", 7)).unwrap();
    assert_eq!(key.to_string().parse(), Ok(key));
}

#[test]
fn a_claimed_name_that_nobody_verified_is_not_taken_for_a_denied_one() {
    let (root, rogue) = (authority("Dominator"), authority("Somebody"));
    let trust = with_denied(&trusting(&[&root]), "user alice");
    let error = look(&trust, &numbered(&rogue, "alice", 7)).unwrap_err();
    assert!(matches!(error, PkiError::Untrusted { .. }), "{error}");
}

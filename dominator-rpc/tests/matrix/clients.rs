//! Those who call.

use dominator_core::auth::Role;

use crate::people::{Paper, Shown, World};
use crate::run::{check, denied, refused, welcome};
use crate::services::Call;

const UNKNOWN: &str = "no authority that is trusted there has signed it";
const LOG: &str = "the log there says why";
const EXPIRED: &str = "it has expired: by this machine's clock it is …, and it was valid until …; renew it";
const EARLY: &str =
    "it is not valid yet: by this machine's clock it is …, and it is valid from …; check the clock here";
const UNTIMELY: &str = "by this machine's clock it is …, but the certificate of \"alice\" (or the authority's between) is valid from … until …; have it issued again, or set the clock if it is wrong";

// One row, one line: what the caller shows; what a program sees that checks nothing; what our own programs say, either
// of the server's refusal or already when they read the certificate; and the server's reason in its log.
#[rustfmt::skip]
#[tokio::test]
async fn whoever_proves_nothing_is_refused_and_told_why() {
    check(&[
        refused("nothing", |_, _| Shown::nothing(), "CertificateRequired", "the given bytes holds no certificate; it must have a BEGIN CERTIFICATE section", "it showed none"),
        refused("self-signed", |_, _| Shown::self_signed(&Paper::of("eve").methods("*.*")), "UnknownCA", UNKNOWN, "the certificate of \"eve\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer"),
        refused("another authority", |w, _| w.strangers.signs(&Paper::of("eve").methods("*.*")), "UnknownCA", UNKNOWN, "the certificate of \"eve\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer"),
        refused("another authority of the same name", |w, _| w.namesake.signs(&Paper::of("eve").methods("*.*")), "DecryptError", LOG, "the certificate of \"eve\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: BadSignature"),
        refused("the right certificate, another key", |w, _| w.member("alice", "*.*").stolen(), "DecryptError", "the private key does not belong to the certificate in the given bytes; give the pair that was made together", "invalid peer certificate: BadSignature"),
        refused("signed by one who is no authority", |w, _| w.member("alice", "*.*").signs(&Paper::of("eve").methods("*.*")), "CertificateUnknown", LOG, "the certificate of \"eve\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: Other(OtherError(EndEntityUsedAsCa))"),
        refused("expired", |w, _| w.root.signs(&Paper::of("alice").valid(-2, -1)), "CertificateExpired", EXPIRED, UNTIMELY),
        refused("not yet valid", |w, _| w.root.signs(&Paper::of("alice").valid(1, 2)), "CertificateExpired", EARLY, UNTIMELY),
        refused("an intermediate expired", |w, _| { let middle = w.root.below(Paper::of("Middle").valid(-2, -1)); middle.signs(&Paper::of("alice")).by_way_of(&middle) }, "CertificateExpired", EXPIRED, UNTIMELY),
        refused("an intermediate left out", |w, _| w.root.below(Paper::of("Middle")).signs(&Paper::of("alice")), "UnknownCA", UNKNOWN, "the certificate of \"alice\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer"),
        broken("no name", |w| w.root.signs(&Paper::of("").methods("*.*")), "its common name is empty, too long, or has control characters or blanks at its ends"),
        broken("blank name", |w| w.root.signs(&Paper::of(" ").methods("*.*")), "its common name is empty, too long, or has control characters or blanks at its ends"),
        broken("no common name, below an authority that has one", |w| { let middle = w.root.below(Paper::of("root").methods("*.*")); middle.signs(&Paper::of_all(&[])).by_way_of(&middle) }, "its subject has 0 common names; it must have one, the user name"),
        broken("two names", |w| w.root.signs(&Paper::of_all(&["eve", "alice"]).methods("*.*")), "its subject has 2 common names; it must have one, the user name"),
        broken("two roles", |w| w.root.signs(&Paper::of("eve").role(Role::Subd).role(Role::ImageServer)), "it claims several roles; it may claim one"),
        broken("a limit of tomorrow", |w| w.root.signs(&Paper::of("eve").methods("*.*").uri("urn:dominator:scope:planet:mars")), "the limit \"urn:dominator:scope:planet:mars\" is not understood, and granting everything instead would be wrong; issue it again, or update this program"),
        broken("a limit that limits nothing", |w| w.root.signs(&Paper::of("eve").methods("*.*").uri("urn:dominator:scope:tag:tier")), "the limit \"urn:dominator:scope:tag:tier\" is not understood, and granting everything instead would be wrong; issue it again, or update this program"),
        broken("a limit in other letters", |w| w.root.signs(&Paper::of("eve").methods("*.*").uri("URN:dominator:scope:tag:tier=front")), "the limit \"URN:dominator:scope:tag:tier=front\" is not understood, and granting everything instead would be wrong; issue it again, or update this program"),
        broken("two nodes", |w| w.root.signs(&Paper::of("eve").uri("urn:dominator:node:a").uri("urn:dominator:node:b")), "it names several nodes; it may name one"),
        broken("methods twice", |w| w.root.signs(&Paper::of("eve").methods("Subd.Poll").methods("*.*")), "an extension stands in it twice"),
        refused("version 1", |w, _| w.root.signs_version_one(&Paper::of("alice")), "CertificateUnknown", "the given bytes is an X.509 version 1 certificate, which can't be used for TLS; issue it again with make-cert (the authority itself may be version 1)", "the peer's certificate is an X.509 version 1 certificate, which can't be used for TLS; issue it again with make-cert (the authority itself may be version 1)"),
    ])
    .await;
}

/// A certificate that is refused for what stands in it, by whoever reads it.
fn broken(what: &str, caller: fn(&World) -> Shown, rule: &str) -> crate::run::Row {
    let says = format!("the given bytes is no acceptable certificate; have it issued again: {rule}");
    let logged = format!("the peer's certificate is no acceptable certificate; have it issued again: {rule}");
    refused(what, move |world, _| caller(world), "CertificateUnknown", &says, &logged)
}

#[rustfmt::skip]
#[tokio::test]
async fn a_certificate_grants_what_it_lists_and_nothing_else() {
    const NOT_LISTED: &str = "access to method denied: \"alice\" may not call {method}; its certificate does not list it";
    check(&[
        denied("nothing listed", |w, _| w.member("alice", ""), NOT_LISTED),
        denied("other methods listed", |w, s| w.member("alice", &format!("{s:?}.Nothing,Other.*")), NOT_LISTED),
        denied("methods by the identity authority", |w, _| w.people.signs(&Paper::of("alice").methods("*.*")), NOT_LISTED),
        denied("methods by the identity authority, which the root has certified", |w, _| w.people.signs(&Paper::of("alice").methods("*.*")).followed_by(w.people.certified_by(&w.root)), NOT_LISTED),
        denied("methods below the identity authority, by one with the root's name", |w, _| { let middle = w.people.below(Paper::of("Fleet").methods("*.*")); middle.signs(&Paper::of("alice").methods("*.*")).by_way_of(&middle) }, NOT_LISTED),
        denied("methods of the intermediate only", |w, _| { let middle = w.root.below(Paper::of("eve").methods("*.*")); middle.signs(&Paper::of("alice")).by_way_of(&middle) }, NOT_LISTED),
        denied("methods of a certificate that is no part of the chain", |w, _| { let eve = w.member("eve", "*.*"); w.member("alice", "").followed_by(eve.chain[0].clone()) }, NOT_LISTED),
        welcome("listed", |w, s| w.member("alice", s.method(Call::Listed).unwrap_or_default()), Call::Listed),
        welcome("listed, by way of an intermediate", |w, s| { let middle = w.root.below(Paper::of("Middle")); middle.signs(&Paper::of("alice").methods(&format!("{s:?}.*"))).by_way_of(&middle) }, Call::Listed),
        welcome("public", |w, _| w.member("alice", ""), Call::Public),
        welcome("public, by the identity authority", |w, _| w.people.signs(&Paper::of("alice")), Call::Public),
    ])
    .await;
}

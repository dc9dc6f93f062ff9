//! Those who are called.

use crate::people::{Paper, Shown, World};
use crate::run::{believed, check, disbelieved};
use crate::services::Service;

const UNKNOWN: &str = "no authority that is trusted there has signed it";
const LOG: &str = "the log there says why";
const TIME: &str = "by the clock there it has expired or is not valid yet";
const UNKNOWN_HERE: &str =
    "the certificate of {address} is not accepted: invalid peer certificate: UnknownIssuer";

/// A certificate of that role.
fn role(service: Service) -> Paper {
    Paper::of(service.role().name())
}

fn below_one_of_the_role(world: &World, service: Service) -> Shown {
    let middle = world.root.below(role(service));
    middle.signs(&Paper::of("web1")).by_way_of(&middle)
}

// One row, one line: what the server shows; what our clients say; what the server's log says of the client's refusal.
#[rustfmt::skip]
#[tokio::test]
async fn a_server_that_proves_too_little_is_not_believed_and_told_so() {
    check(&[
        disbelieved("self-signed", |_, s| Shown::self_signed(&role(s)), UNKNOWN_HERE, UNKNOWN),
        disbelieved("another authority", |w, s| w.strangers.signs(&role(s)), UNKNOWN_HERE, UNKNOWN),
        disbelieved("another authority of the same name", |w, s| w.namesake.signs(&role(s)), "the certificate of {address} is not accepted: invalid peer certificate: BadSignature", LOG),
        disbelieved("the identity authority", |w, s| w.people.signs(&role(s)), UNKNOWN_HERE, UNKNOWN),
        disbelieved("the identity authority, which the root has certified", |w, s| w.people.signs(&role(s)).followed_by(w.people.certified_by(&w.root)), UNKNOWN_HERE, UNKNOWN),
        disbelieved("expired", |w, s| w.root.signs(&role(s).valid(-2, -1)), "the certificate of {address} is not accepted: it has expired: by this machine's clock it is …, and it was valid until …; it must be renewed, or this clock is wrong", TIME),
        disbelieved("not yet valid", |w, s| w.root.signs(&role(s).valid(1, 2)), "the certificate of {address} is not accepted: it is not valid yet: by this machine's clock it is …, and it is valid from …; this clock is wrong, or its authority's", TIME),
        disbelieved("another role", |w, _| w.root.signs(&Paper::of("mdbd")), "{address} is no {role}: its certificate is that of mdbd; check the address and the port", LOG),
        disbelieved("no role", |w, _| w.root.signs(&Paper::of("web1").methods("*.*")), "{address} is no {role}: its certificate is that of \"web1\", which is no server's; check the address and the port", LOG),
        disbelieved("a role of tomorrow", |w, s| w.root.signs(&role(s).uri("urn:dominator:role:of-tomorrow")), "{address} is no {role}: its certificate is that of \"{role}\", which is no server's; check the address and the port", LOG),
        disbelieved("the role of the intermediate only", below_one_of_the_role, "{address} is no {role}: its certificate is that of \"web1\", which is no server's; check the address and the port", LOG),
        disbelieved("another host", |w, s| w.root.signs(&role(s).host("elsewhere.example")), "the certificate of {address} is not accepted: invalid peer certificate: certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"elsewhere.example\")", LOG),
        believed("the role as a name", |w, s| w.root.signs(&role(s))),
        believed("the role beside a name", |w, s| w.root.signs(&Paper::of("web1").role(s.role()))),
        believed("by way of an intermediate", |w, s| { let middle = w.root.below(Paper::of("Middle")); middle.signs(&role(s)).by_way_of(&middle) }),
    ])
    .await;
}

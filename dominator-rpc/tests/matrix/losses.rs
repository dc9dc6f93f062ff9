//! Those who lose their standing while they are connected.

use std::convert::Infallible;

use dominator_core::auth::Rule;
use dominator_pki::Trust;
use dominator_rpc::auth::{Authorise, Policy};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower::{Layer as _, Service as _, service_fn};

use crate::journal::Journal;
use crate::people::{Paper, Shown, World};
use crate::run::{Refused, Row, check, cut_off, denied, disbelieved, good_server, left, refused, welcome};
use crate::services::{Call, Service};

const BY_LIST: &str = "the certificate of \"alice\" is not believed any more: serial number … was taken back by its authority, in the given bytes";
const BY_NUMBER: &str = "the certificate of \"alice\" is not believed any more: serial number … was taken back by this machine, which denies its serial number in the given bytes";
const BY_USER: &str = "the certificate of \"alice\" is not believed any more: serial number … was taken back by this machine, which denies its user in the given bytes";
const BY_NODE: &str = "the certificate of \"alice\" is not believed any more: serial number … was taken back by this machine, which denies its node in the given bytes";

fn revoked(logged: &'static str) -> Refused {
    Refused { alert: "CertificateRevoked", says: "it was revoked", logged }
}

fn middle(world: &World, user: &str) -> Shown {
    let middle = world.root.below(Paper::of("Middle"));
    middle.signs(&Paper::of(user).methods("*.*")).by_way_of(&middle)
}

fn node(world: &World) -> Shown {
    world.root.signs(&Paper::of("alice").methods("*.*").uri("urn:dominator:node:web1"))
}

fn taken_back(what: &str, caller: impl Fn(&World, Service) -> Shown + 'static, logged: &'static str) -> Row {
    let Refused { alert, says, logged } = revoked(logged);
    refused(what, caller, alert, says, logged)
}

#[rustfmt::skip]
#[tokio::test]
async fn whoever_was_taken_back_is_refused() {
    check(&[
        taken_back("by the root's list", |w, _| w.member("alice", "*.*"), BY_LIST).trusting(World::trust_revoking),
        taken_back("by the root's list, which is overdue", |w, _| w.member("alice", "*.*"), BY_LIST).trusting(World::trust_revoking_overdue),
        taken_back("an intermediate by the root's list", |w, _| middle(w, "alice"), BY_LIST).trusting(World::trust_revoking_the_authority_of),
        taken_back("by the identity authority's list", |w, _| w.people.signs(&Paper::of("alice")), BY_LIST).trusting(|w, s| w.trust_by_list(&w.people.revokes(s))),
        taken_back("by serial number", |w, _| w.member("alice", "*.*"), BY_NUMBER).trusting(|w, s| w.trust_denying(&format!("serial {}", s.serial()))),
        taken_back("by name", |w, _| w.member("alice", "*.*"), BY_USER).trusting(|w, _| w.trust_denying("user alice")),
        taken_back("by name, of the identity authority", |w, _| w.people.signs(&Paper::of("alice")), BY_USER).trusting(|w, _| w.trust_denying("user alice")),
        taken_back("by node", |w, _| node(w), BY_NODE).trusting(|w, _| w.trust_denying("node web1")),
        welcome("another's list with the serial number", |w, _| w.member("alice", "*.*"), Call::Listed).trusting(|w, s| w.trust_by_list(&w.people.revokes(s))),
        welcome("another name denied", |w, _| w.member("alice", "*.*"), Call::Listed).trusting(|w, _| w.trust_denying("user alic\nuser Alice\nnode alice\nserial 7")),
        disbelieved("by the root's list", good_server, "the certificate of {address} is not accepted: it was revoked: it is on the list of its authority, or denied here", "it was revoked").trusting(World::trust_revoking),
        disbelieved("by name", good_server, "the certificate of {address} is not accepted: it was revoked: it is on the list of its authority, or denied here", "it was revoked").trusting(|w, s| w.trust_denying(&format!("serial {}", s.serial()))),
    ])
    .await;
}

const UNKNOWN: Refused = Refused {
    alert: "UnknownCA",
    says: "no authority that is trusted there has signed it",
    logged: "the certificate of \"alice\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer",
};
const UNTRUSTED: &str = "the certificate of \"alice\" is no longer accepted: the certificate of \"alice\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer";

#[rustfmt::skip]
#[tokio::test]
async fn where_nobody_knows_who_was_revoked_nothing_is_changed_and_what_is_public_is_told() {
    const STALE: &str = "access to method denied: the list of revoked certificates in the given bytes has not been current since …, so that nobody knows who was revoked since, and by this machine's clock it is …; put a new list there";
    let overdue = |row: Row| row.trusting(World::trust_by_an_overdue_list);
    check(&[
        overdue(denied("a change to the fleet", |w, _| w.member("alice", "*.*"), STALE)).only(Service::Dominator),
        overdue(denied("a change to images", |w, _| w.member("alice", "*.*"), STALE)).only(Service::ImageServer),
        overdue(welcome("a look at the machine", |w, _| w.member("alice", "*.*"), Call::Listed)).only(Service::Subd),
        overdue(welcome("a look at objects", |w, _| w.member("alice", "*.*"), Call::Listed)).only(Service::ObjectServer),
        overdue(welcome("what is public", |w, _| w.member("alice", ""), Call::Public)),
    ])
    .await;
}

#[rustfmt::skip]
#[tokio::test]
async fn whoever_loses_its_standing_is_cut_off_and_stays_out() {
    check(&[
        cut_off("its authority is removed", |w, _| w.member("alice", "*.*"), |w, _| w.trust_in_others(), UNTRUSTED, UNKNOWN),
        cut_off("the authority above its own is removed", |w, _| { let middle = w.root.below(Paper::of("Middle")); middle.signs(&Paper::of("alice").methods("*.*")).by_way_of(&middle) }, |w, _| w.trust_in_others(), UNTRUSTED, UNKNOWN),
        cut_off("it is revoked", |w, _| w.member("alice", "*.*"), World::trust_revoking, "the certificate of \"alice\" is no longer accepted: the certificate of \"alice\" is not believed any more: serial number … was taken back by its authority, in the given bytes", revoked(BY_LIST)),
        cut_off("the authority above it is revoked", |w, _| middle(w, "alice"), World::trust_revoking_the_authority_of, "the certificate of \"alice\" is no longer accepted: the certificate of \"alice\" is not believed any more: serial number … was taken back by its authority, in the given bytes", revoked(BY_LIST)),
        cut_off("its name is denied", |w, _| w.member("alice", "*.*"), |w, _| w.trust_denying("user alice"), "the certificate of \"alice\" is no longer accepted: the certificate of \"alice\" is not believed any more: serial number … was taken back by this machine, which denies its user in the given bytes", revoked(BY_USER)),
        cut_off("its node is denied", |w, _| node(w), |w, _| w.trust_denying("node web1"), "the certificate of \"alice\" is no longer accepted: the certificate of \"alice\" is not believed any more: serial number … was taken back by this machine, which denies its node in the given bytes", revoked(BY_NODE)),
    ])
    .await;
}

#[rustfmt::skip]
#[tokio::test]
async fn a_server_that_loses_its_standing_is_left() {
    check(&[
        left("its authority is removed", good_server, |w, _| w.trust_in_others(), "the certificate of \"{role}\" is no longer accepted: the certificate of \"{role}\" is not to be trusted; it must be signed by an authority in our CA file: invalid peer certificate: UnknownIssuer", "the certificate of {address} is not accepted: invalid peer certificate: UnknownIssuer"),
    ])
    .await;
}

/// A connection is closed from the task that looks after it; calls that came before go to others.
#[tokio::test]
async fn a_call_that_was_taken_from_a_connection_just_before_it_is_closed_is_refused() {
    let (world, journal) = (World::new(), Journal::open());
    let serves = world.member("subd", "");
    let policy = Policy::new().method("/dominator.v1.Subd/Poll", Rule::READS).unwrap();
    let inner =
        service_fn(async |_: http::Request<Body>| Ok::<_, Infallible>(http::Response::new(Body::empty())));
    let mut service = Authorise::new(policy).layer(inner);
    let becomes: [fn(&World, &Shown) -> Trust; 3] =
        [|w, _| w.trust_in_others(), World::trust_revoking, |w, _| w.trust_denying("user alice")];
    for becomes in becomes {
        let alice = world.member("alice", "Subd.Poll");
        let tls = world.tls(&serves);
        let peer = tls.peer(([127, 0, 0, 1], 1).into(), &alice.chain).unwrap();
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut request = http::Request::new(Body::empty());
            *request.uri_mut() = "http://subd/dominator.v1.Subd/Poll".parse().unwrap();
            request.extensions_mut().insert(peer.clone());
            let answer = service.call(request).await.unwrap();
            answers.push(Status::from_header_map(answer.headers()).map(|status| status.code()));
            tls.replace(becomes(&world, &alice), serves.credentials().unwrap()).unwrap();
        }
        assert_eq!(answers, [None, Some(Code::PermissionDenied)]);
        let event = journal.take(1).await.concat();
        assert!(
            event.starts_with("WARN access to method denied: the certificate of \"alice\" is no longer"),
            "{event}"
        );
    }
}

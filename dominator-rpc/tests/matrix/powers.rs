//! What lies beyond the list of a certificate: whom a server trusts, who wants to be an ordinary user, and where powers
//! end.

use dominator_core::auth::People;

use crate::people::Paper;
use crate::run::{check, denied, welcome};
use crate::services::{Call, Service};

const NOT_LISTED: &str =
    "access to method denied: \"alice\" may not call {method}; its certificate does not list it";
const WAIVED: &str = "access to method denied: \"alice\" may call {method}, but asked not to use its powers";

#[rustfmt::skip]
#[tokio::test]
async fn a_server_trusts_whom_it_was_told_to_and_takes_who_wants_it_for_an_ordinary_user() {
    check(&[
        welcome("a trusted user", |w, _| w.member("alice", ""), Call::Listed).served(|s| s.trusting(People::new(["alice"], [""; 0]))),
        welcome("of a trusted group", |w, _| w.root.signs(&Paper::of("alice").groups("staff,wheel")), Call::Listed).served(|s| s.trusting(People::new([""; 0], ["wheel"]))),
        welcome("of a trusted group, by the identity authority", |w, _| w.people.signs(&Paper::of("alice").groups("wheel")), Call::Listed).served(|s| s.trusting(People::new([""; 0], ["wheel"]))),
        denied("of another group", |w, _| w.root.signs(&Paper::of("alice").groups("staff,Wheel,wheels")), NOT_LISTED).served(|s| s.trusting(People::new([""; 0], ["wheel"]))),
        denied("a group named like the trusted user", |w, _| w.root.signs(&Paper::of("alice").groups("root")), NOT_LISTED).served(|s| s.trusting(People::new(["root"], ["alice"]))),
        denied("in a trusted group by the intermediate only", |w, _| { let middle = w.root.below(Paper::of("root").groups("wheel")); middle.signs(&Paper::of("alice")).by_way_of(&middle) }, NOT_LISTED).served(|s| s.trusting(People::new(["root"], ["wheel"]))),
        denied("powers not to be used", |w, _| w.member("alice", "*.*"), WAIVED).waiving(),
        denied("trust not to be used", |w, _| w.member("alice", ""), WAIVED).waiving().served(|s| s.trusting(People::new(["alice"], [""; 0]))),
        denied("ownership not to be used", |w, _| w.member("alice", ""), WAIVED).waiving().only(Service::Subd).served(|s| s.machine(People::new(["alice"], [""; 0]), [].into())),
        welcome("public without powers", |w, _| w.member("alice", "*.*"), Call::Public).waiving(),
        welcome("the owner of the machine", |w, _| w.member("alice", ""), Call::Listed).only(Service::Subd).served(|s| s.machine(People::new(["alice"], [""; 0]), [].into())),
        denied("the owner of a machine, elsewhere", |w, _| w.member("alice", ""), NOT_LISTED).only(Service::ObjectServer).served(|s| s.machine(People::new(["alice"], [""; 0]), [].into())),
    ])
    .await;
}

const FRONT: &str = "urn:dominator:scope:tag:tier=front";

#[rustfmt::skip]
#[tokio::test]
async fn powers_end_where_the_scope_of_a_certificate_does() {
    const MACHINE: &str = "access to method denied: \"alice\" may not call {method} for this machine; the scope of its certificate ends before that";
    const FLEET: &str = "access to method denied: \"alice\" may not call {method} for all machines; the scope of its certificate ends before that";
    const IMAGE: &str = "access to method denied: \"alice\" may not call {method} for image base/1; the scope of its certificate ends before that";
    let front = |what| welcome(what, |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri(FRONT)), Call::Listed);
    let beyond = |what, says| denied(what, |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri(FRONT)), says);
    check(&[
        front("a tag that the machine has").only(Service::Subd).served(|s| s.machine(People::default(), [("tier".into(), "front".into())].into())),
        beyond("a tag with another value", MACHINE).only(Service::Subd).served(|s| s.machine(People::default(), [("tier".into(), "back".into())].into())),
        beyond("a tag in other letters", MACHINE).only(Service::Subd).served(|s| s.machine(People::default(), [("tier".into(), "Front".into())].into())),
        beyond("a tag the machine does not have", MACHINE).only(Service::Subd),
        beyond("a tag, as the machine's owner", MACHINE).only(Service::Subd).served(|s| s.machine(People::new(["alice"], [""; 0]), [].into())),
        beyond("a tag, as one whom the server trusts", MACHINE).only(Service::Subd).served(|s| s.trusting(People::new(["alice"], [""; 0]))),
        beyond("a tag, for all machines", FLEET).only(Service::Dominator),
        front("a tag, for images").only(Service::ImageServer),
        front("a tag, for objects").only(Service::ObjectServer),
        welcome("the directory of the image", |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri("urn:dominator:scope:images:base")), Call::Listed).only(Service::ImageServer),
        denied("another directory", |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri("urn:dominator:scope:images:bas")), IMAGE).only(Service::ImageServer),
        denied("a directory below", |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri("urn:dominator:scope:images:base/1")), IMAGE).only(Service::ImageServer),
        welcome("what is public ends nowhere", |w, _| w.root.signs(&Paper::of("alice").uri(FRONT)), Call::Public),
        welcome("a word of tomorrow that is no limit", |w, _| w.root.signs(&Paper::of("alice").methods("*.*").uri("urn:dominator:colour:red")), Call::Listed),
    ])
    .await;
}

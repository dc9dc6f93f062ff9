//! The forms in which methods are listed. How the templates are filled is said in `Service::fill`.

use crate::people::World;
use crate::run::{Row, check, denied, refused, welcome};
use crate::services::{Call, Service};

#[tokio::test]
async fn patterns_grant_what_a_shell_would_match_on_either_side_of_the_dot() {
    let granted = [
        "{service}.{name}",
        "{service}.*",
        "*.{name}",
        "*.*",
        "?{ervice}.{N}*",
        "*{ervice}.?{ame}",
        "[{S}]{ervice}.{name}",
        "[^a]{ervice}.*",
        "[^a-z]{ervice}.[A-Z]*",
        "[a-zA-Z]*.*[a-z]",
        "{service}*.*{name}*",
        "Other.*,{service}.{name}",
    ];
    let rows = granted.map(|template| {
        welcome(template, move |world, service| world.member("alice", &service.fill(template)), Call::Listed)
    });
    check(&rows).await;
}

#[tokio::test]
async fn patterns_grant_nothing_more() {
    const NOT_LISTED: &str =
        "access to method denied: \"alice\" may not call {method}; its certificate does not list it";
    let elsewhere = [
        "{service-}.{name}",
        "{service}.{name-}",
        "{service-}*.*",
        "*.{name-}*",
        "?{ervice}.[{N}]{name-}",
        "{service}.{name}?",
        "{service}?.{name}",
        "?.*",
        "*.?",
        "{ervice}.*",
        "{service}.{ame}",
        "[a-z]{ervice}.*",
        "[^A-Z]*.*",
        "[^{S}]{ervice}.*",
        "*x.*",
        "*{name}.*",
        "*.*{service}",
        "{service}{name}.*",
        "*.{service}{name}",
    ];
    let rows = elsewhere.map(|template| {
        denied(template, move |world, service| world.member("alice", &service.fill(template)), NOT_LISTED)
    });
    check(&rows).await;
}

#[tokio::test]
async fn what_is_no_pattern_makes_the_whole_certificate_worthless() {
    let malformed = [
        "*",
        "{service}",
        "{service}{name}",
        "{service}*{name}",
        "{service}?{name}",
        "{service}[.]{name}",
        "{service}..{name}",
        "*.*.*",
        "{service}.{name}.*",
        ".{service}.{name}",
        "{service}.",
        ".{name}",
        "{service}/{name}",
        "dominator.v1.{service}.{name}",
        "{service}.{name} ",
        "{service}.[A-Z",
        "{service}.A-Z]*",
        "{service}.[[:alpha:]]*",
        "**.**",
        "[!a]{ervice}.*",
        "[!]{ervice}.*",
        "[]{ervice}.*",
        "[^]{ervice}.*",
        "[^^]{ervice}.*",
        "[Z-A]*.*",
        "[A-]{ervice}.*",
        "[-Z]*.*",
        "[A-Z-a]*.*",
        "{service}.{{name}}",
        "{service}.\\*",
        "{service}.!(Nothing)",
        "{service}.Pöll",
    ];
    check(&malformed.map(row_of_malformed)).await;
}

fn row_of_malformed(template: &'static str) -> Row {
    let rule = format!(
        "its list of methods is malformed: {template:?} is not a method pattern; write Service.Method with exactly one \
         dot, as in Subd.Poll or ImageServer.* (patterns may have *, ?, [a-z] and [^a], and nothing else)"
    );
    let says = format!("the given bytes is no acceptable certificate; have it issued again: {rule}");
    let logged = format!("the peer's certificate is no acceptable certificate; have it issued again: {rule}");
    let caller = move |world: &World, service: Service| world.member("alice", &service.fill(template));
    refused(template, caller, "CertificateUnknown", &says, &logged)
}

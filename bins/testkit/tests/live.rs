//! Trust that changes while daemons run: what lies in their files counts within seconds, and without a restart.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::port::{Agent as _, AgentError, PollRequest};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::transport::Tls;
use dominator_testkit::{Certificate, Lab, Outcome, Process, binary};

/// Within what time whoever is revoked is cut off: the promise itself.
const PROMISE: Duration = Duration::from_secs(5);

fn root(lab: &Lab) -> PathBuf {
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    root
}

fn tls(lab: &Lab, certificate: &Certificate) -> Tls {
    let paths =
        CredentialPaths { certificate: certificate.certificate.clone(), key: certificate.key.clone() };
    let trust = keystore::load_trust(&lab.path("CA.pem"), IdentityFile::None).unwrap();
    Tls::new(trust, keystore::load(&paths, SystemTime::now()).unwrap()).unwrap()
}

fn make_cert(lab: &Lab, arguments: &[&str]) {
    let mut command = Command::new(binary("make-cert"));
    Outcome::of(command.current_dir(lab.path("")).args(arguments)).success();
}

/// What comes of a call that waits, from the moment `revoke` is done.
async fn cut_off(agent: &Arc<RemoteAgent>, revoke: impl FnOnce()) -> AgentError {
    let seen = agent.poll(PollRequest::default()).await.unwrap().status.generation;
    let request = PollRequest { known: Some(seen), wait: Duration::from_secs(300), ..PollRequest::default() };
    let waiting = Arc::clone(agent);
    let call = tokio::spawn(async move {
        // The machine itself may answer before that.
        loop {
            waiting.poll(request.clone()).await?;
        }
    });
    revoke();
    let ended: Result<Result<(), AgentError>, _> =
        tokio::time::timeout(PROMISE, call).await.expect("cut off within the promised time");
    ended.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_or_denied_is_cut_off_by_a_running_agent_within_seconds() {
    let lab = Lab::new();
    let (alice, bob) = (lab.certificate("alice", "alice", "Subd.*"), lab.certificate("bob", "bob", "Subd.*"));
    let carol = lab.certificate("carol", "carol", "Subd.*");
    make_cert(&lab, &["revoke", "CA", "--serial", "0xdead"]);
    let denied = lab.write("denied", "# nobody yet\n");
    let list = lab.path("CA.crl.pem");
    let flags = ["--crl", list.to_str().unwrap(), "--deny-list", denied.to_str().unwrap()];
    let subd = lab.subd_with(1, &root(&lab), &flags);
    let address = format!("{}:6969", lab.address(1));
    let connect =
        async |certificate| Arc::new(RemoteAgent::connect(&tls(&lab, certificate), &address).await.unwrap());
    let (alices, bobs, carols) = (connect(&alice).await, connect(&bob).await, connect(&carol).await);
    let rows: [(_, _, &dyn Fn()); 2] = [
        (&alices, "alice", &|| make_cert(&lab, &["revoke", "CA", "alice.pem"])),
        (&bobs, "bob", &|| drop(lab.write("denied", "user bob\n"))),
    ];
    for (agent, user, revoke) in rows {
        let mark = subd.mark();
        let error = cut_off(agent, revoke).await;
        assert!(matches!(error, AgentError::Unreachable { .. } | AgentError::Denied(_)), "{error:?}");
        let event = subd.wait_for(mark, "the end of the connection", |line| {
            line.contains("connection closed") && line.contains(user)
        });
        assert!(event.contains("was taken back by"), "{event}");
        agent.poll(PollRequest::default()).await.unwrap_err();
    }
    carols.poll(PollRequest::default()).await.unwrap();
    // A list that is broken is told of, and everybody stands as before.
    let mark = subd.mark();
    lab.write("denied", "user bob\nuser carol, too\nusr dave\n");
    subd.wait_for(mark, "the broken list", |line| line.contains("ERROR") && line.contains("line"));
    carols.poll(PollRequest::default()).await.unwrap();
    bobs.poll(PollRequest::default()).await.unwrap_err();
}

#[test]
fn a_certificate_that_is_renewed_is_shown_without_a_word_to_the_daemon() {
    let lab = Lab::new();
    let (images, address) = lab.image_server();
    let admin = lab.certificate("admin", "admin", "*.*");
    lab.tool("imagetool", &admin, ["--image-server", &address, "list"]).success();
    // Another machine's certificate under the usual names: not believed at all.
    lab.authority("Next");
    lab.certificate_of("Next", "other", "imageserver", "");
    let mark = images.mark();
    for (new, old) in [("other.pem", "imageserver.pem"), ("other.key.pem", "imageserver.key.pem")] {
        fs::rename(lab.path(new), lab.path(old)).unwrap();
    }
    images.wait_for(mark, "the new certificate", |line| line.contains("certificates were read again"));
    let complaint = lab.tool("imagetool", &admin, ["--image-server", &address, "list"]).failure();
    assert!(complaint.contains("is not accepted"), "{complaint}");
}

#[test]
fn a_tool_believes_nobody_who_is_denied() {
    let lab = Lab::new();
    let (_images, address) = lab.image_server();
    let admin = lab.certificate("admin", "admin", "*.*");
    let denied = lab.write("denied", "user imageserver\n");
    let flags = ["--image-server", &address, "--deny-list", denied.to_str().unwrap(), "list"];
    let complaint = lab.tool("imagetool", &admin, flags).failure();
    assert!(complaint.contains("it was revoked"), "{complaint}");
}

#[test]
fn where_nobody_has_to_prove_anything_every_line_says_so_and_nobody_else_can_connect() {
    let lab = Lab::new();
    let address = format!("{}:6971", lab.address(0));
    let insecure = |listen: &str, state: &str| {
        let mut command = Command::new(binary("imageserver"));
        command.args(["--danger-permit-insecure", "--listen", listen]);
        command.arg("--state-dir").arg(lab.path(state));
        command
    };
    let images = Process::start("imageserver", &mut insecure(&address, "state"));
    let mut tool = Command::new(binary("imagetool"));
    let outcome = Outcome::of(tool.args(["--danger-permit-insecure", "--image-server", &address, "list"]));
    assert!(outcome.stderr.contains("INSECURE"), "{}", outcome.stderr);
    outcome.success();
    let lines = images.log_since(0);
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("\"insecure\":true")), "{lines:#?}");
    // Who demands proof gets none here.
    let admin = lab.certificate("admin", "admin", "*.*");
    let complaint = lab.tool("imagetool", &admin, ["--image-server", &address, "list"]).failure();
    assert!(complaint.contains("does not speak TLS"), "{complaint}");
    // Nothing is offered to, or sent to, another machine.
    let complaint = Outcome::of(&mut insecure("0.0.0.0:0", "another")).failure();
    assert!(complaint.contains("won't listen at 0.0.0.0:0"), "{complaint}");
    let mut tool = Command::new(binary("imagetool"));
    let elsewhere = ["--danger-permit-insecure", "--image-server", "192.0.2.1:6971", "list"];
    let complaint = Outcome::of(tool.args(elsewhere)).failure();
    assert!(complaint.contains("won't connect to 192.0.2.1:6971"), "{complaint}");
}

//! What real daemons record of calls, and what they show of what they count.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::type_complexity)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dominator_core::port::{ObjectStore as _, Pieces};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_rpc::client::RemoteObjects;
use dominator_rpc::transport::Tls;
use dominator_testkit::{Lab, Outcome, Process};
use serde_json::Value;

/// Waits for something that nobody tells of.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What a log says of calls of one method: event, user, target, outcome.
fn records(path: &Path, method: &str) -> Vec<[String; 4]> {
    let word = |line: &Value, key| line.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let lines = text(path);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
    lines
        .filter(|line| word(line, "method") == method)
        .map(|line| ["event", "user", "target", "outcome"].map(|key| word(&line, key)))
        .collect()
}

fn tls(lab: &Lab, name: &str) -> Tls {
    let paths = CredentialPaths {
        certificate: lab.path(format!("{name}.pem")),
        key: lab.path(format!("{name}.key.pem")),
    };
    let trust = keystore::load_trust(&lab.path("CA.pem"), IdentityFile::None).unwrap();
    Tls::new(trust, keystore::load(&paths, SystemTime::now()).unwrap()).unwrap()
}

/// What a daemon shows to whoever asks.
fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    page
}

#[test]
fn what_was_let_in_is_in_the_log_of_a_daemon_that_is_killed() {
    let lab = Lab::new();
    let address = format!("{}:6971", lab.address(0));
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let start = || {
        let mut command = lab.daemon("imageserver", &certificate, &address, "imageserver-state");
        Process::start("imageserver", &mut command)
    };
    let images = start();
    let alice = lab.certificate("alice", "alice", "ObjectServer.AddObjects,ImageServer.DeleteImage");
    let log = lab.path("imageserver-state").join("audit.log");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tls = tls(&lab, "alice");
    let target = address.clone();
    let call = runtime.spawn(async move {
        let objects = RemoteObjects::connect(&tls, &target).await.unwrap();
        objects.add(Pieces::new(futures_util::stream::pending())).await
    });
    until("the call", || text(&log).contains("ObjectServer.AddObjects"));
    drop(images);
    runtime.block_on(call).unwrap().unwrap_err();
    let method = "ObjectServer.AddObjects";
    assert_eq!(records(&log, method), [["begun", "alice", "-", "-"].map(str::to_owned)], "and no end");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o7777, 0o600);
    // As if it had been killed while it wrote.
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"time\":\"2026-1").unwrap();
    drop(file);
    let images = start();
    lab.tool("imagetool", &alice, ["--image-server", &address, "delete", "web/1"]).failure();
    until("the end", || text(&log).contains("\"ended\""));
    let expected = [
        ["begun", "alice", "-", "-"],
        ["aimed", "alice", "image web/1", "-"],
        ["ended", "alice", "image web/1", "not_found"],
    ];
    assert_eq!(records(&log, "ImageServer.DeleteImage"), expected.map(|row| row.map(str::to_owned)));
    let text = text(&log);
    let torn = text.lines().position(|line| line == "{\"time\":\"2026-1").expect("it is a line of its own");
    let next: Value = serde_json::from_str(text.lines().nth(torn + 1).unwrap()).unwrap();
    assert_eq!((&next["event"], &next["why"]), (&"opened".into(), &"start".into()));
    drop(images);
}

#[test]
fn every_daemon_keeps_a_log_and_shows_what_it_counts() {
    let lab = Lab::new();
    let shown = |number: u8, port: u16| format!("{}:{port}", lab.address(number));
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let at = format!("{}:6971", lab.address(0));
    let mut command = lab.daemon("imageserver", &certificate, &at, "imageserver-state");
    command.args(["--metrics-listen", &shown(0, 6981)]);
    let _images = Process::start("imageserver", &mut command);
    let certificate = lab.daemon_certificate("dominator", "dominator");
    let mut command =
        lab.daemon("dominator", &certificate, &format!("{}:6970", lab.address(0)), "dominator-state");
    command.args(["--image-server", &at, "--metrics-listen", &shown(0, 6980), "--mdb"]).arg(lab.mdb(&[]));
    let _dominator = Process::start("dominator", &mut command);
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    let elsewhere = lab.path("calls.log");
    let flags = ["--metrics-listen", &shown(1, 6979), "--audit-required", "--audit-log"];
    let _subd = lab.subd_with(
        1,
        &root,
        &[&flags[..], &[elsewhere.to_str().unwrap(), "--audit-log-count=2"]].concat(),
    );
    let alice = lab.certificate("alice", "alice", "*.*");
    let mallory = lab.certificate("mallory", "mallory", "");
    let (dominator, sub) = (format!("{}:6970", lab.address(0)), format!("{}:6969", lab.address(1)));
    let rows: [(&str, &[&str], &str, &Path, &str, &str); 3] = [
        (
            "imagetool",
            &["--image-server", &at, "delete", "web/1"],
            "ImageServer.DeleteImage",
            &lab.path("imageserver-state/audit.log"),
            "image web/1",
            &shown(0, 6981),
        ),
        (
            "domtool",
            &["--dominator", &dominator, "disable-updates", "a fire"],
            "Dominator.DisableUpdates",
            &lab.path("dominator-state/audit.log"),
            "all machines: a fire",
            &shown(0, 6980),
        ),
        (
            "subtool",
            &["--sub", &sub, "set-config", "--cpu-percent", "9"],
            "Subd.SetConfiguration",
            &elsewhere,
            "cpu 9",
            &shown(1, 6979),
        ),
    ];
    for (tool, words, method, log, target, page) in rows {
        // Of the first it is enough that it was asked.
        let _: Outcome = lab.tool(tool, &alice, words.iter().copied());
        until(method, || records(log, method).last().is_some_and(|record| record[0] == "ended"));
        let found = records(log, method);
        let said = found.iter().map(|[event, user, about, _]| [event, user, about].map(String::as_str));
        let expected = [["begun", "alice", "-"], ["aimed", "alice", target], ["ended", "alice", target]];
        assert_eq!(said.collect::<Vec<_>>(), expected, "{method}");
        lab.tool(tool, &mallory, words.iter().copied()).failure();
        until(page, || {
            scrape(page)
                .contains(&format!("dominator_decisions_total{{method=\"{method}\",decision=\"listed\"}} 1"))
        });
        let page = scrape(page);
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
    let denied = records(&elsewhere, "Subd.SetConfiguration");
    assert_eq!(denied.last().unwrap()[..2], ["denied", "mallory"], "{denied:?}");
}

#[test]
fn a_daemon_that_must_record_does_not_start_with_a_log_that_is_no_file() {
    let lab = Lab::new();
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let at = format!("{}:6971", lab.address(0));
    let mut command = lab.daemon("imageserver", &certificate, &at, "imageserver-state");
    let said = Outcome::of(command.args(["--audit-required", "--audit-log", "/dev/full"])).failure();
    assert!(said.contains("/dev/full is no file"), "{said}");
}

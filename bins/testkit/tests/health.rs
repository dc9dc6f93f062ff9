//! Whoever watches over a daemon sees how it is: over HTTP, and as systemd's service.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime};

use dominator_pki::ca::{Authority, Leaf};
use dominator_pki::keystore;
use dominator_testkit::{Lab, Process};

/// How long anything may take before a test is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// The status and the text of a page.
fn page(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().into(), body.into())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_daemon_says_that_it_lives_and_is_ready() {
    let lab = Lab::new();
    let shown = |number: u8, port: u16| format!("{}:{port}", lab.address(number));
    let at = shown(0, 6971);
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let mut command = lab.daemon("imageserver", &certificate, &at, "imageserver-state");
    let _images = Process::start("imageserver", command.args(["--metrics-listen", &shown(0, 6981)]));
    let certificate = lab.daemon_certificate("dominator", "dominator");
    let mut command = lab.daemon("dominator", &certificate, &shown(0, 6970), "dominator-state");
    command.args(["--image-server", &at, "--metrics-listen", &shown(0, 6980), "--mdb"]).arg(lab.mdb(&[]));
    let _dominator = Process::start("dominator", &mut command);
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    let _subd = lab.subd_with(1, &root, &["--metrics-listen", &shown(1, 6979)]);
    for address in [shown(0, 6981), shown(0, 6980), shown(1, 6979)] {
        let ready = ("200".to_owned(), "ready\n".to_owned());
        until("it becomes ready", || page(&address, "/readyz") == ready);
        assert_eq!(page(&address, "/healthz"), ("200".into(), "alive\n".into()));
        assert_eq!(page(&address, "/").0, "404");
    }
}

#[test]
fn a_daemon_whose_certificate_runs_out_lives_and_is_not_ready_until_it_is_renewed() {
    let lab = Lab::new();
    let shown = format!("{}:6981", lab.address(0));
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let renewed = fs::read(&certificate.certificate).unwrap();
    let authority = Authority::from_pem(
        &fs::read(lab.path("CA.pem")).unwrap(),
        &fs::read(lab.path("CA.key.pem")).unwrap(),
    );
    let leaf = Leaf::new("imageserver").unwrap().days(1);
    let key = keystore::load_key(&certificate.key).unwrap().public_key().unwrap();
    // It was good for one day, of which some seconds are left.
    let begin = SystemTime::now() - Duration::from_secs(86_400 - 15);
    fs::write(&certificate.certificate, authority.unwrap().issue(&leaf, &key, begin).unwrap().pem).unwrap();
    let at = format!("{}:6971", lab.address(0));
    let mut command = lab.daemon("imageserver", &certificate, &at, "imageserver-state");
    let _images = Process::start("imageserver", command.args(["--metrics-listen", &shown]));
    let mut why = (String::new(), String::new());
    // Before that, it is not ready for a moment because it starts.
    until("it expires", || {
        why = page(&shown, "/readyz");
        why.1.starts_with("certificate: ")
    });
    assert!(why.0 == "503" && why.1.starts_with("certificate: it expired at 20"), "{why:?}");
    assert_eq!(why.1.lines().count(), 1, "{why:?}");
    assert_eq!(page(&shown, "/healthz").0, "200", "starting it again would not help");
    lab.write("imageserver.pem", &String::from_utf8(renewed).unwrap());
    until("it is renewed", || page(&shown, "/readyz").0 == "200");
}

#[test]
fn a_service_manager_is_told_of_the_beginning_the_end_and_that_the_process_is_not_stuck() {
    let lab = Lab::new();
    let socket = lab.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut words = [0; 4096];
        let length = manager.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let at = format!("{}:6971", lab.address(0));
    let mut command = lab.daemon("imageserver", &certificate, &at, "imageserver-state");
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let images = Process::start("imageserver", &mut command);
    let mut told: Vec<String> = Vec::new();
    let mut hear = |until: &str| {
        while told.iter().rev().all(|words| words != until) {
            told.push(next());
        }
    };
    hear("READY=1");
    hear("STATUS=ready");
    // That it is not stuck is told again and again.
    for _ in 0..3 {
        while next() != "WATCHDOG=1" {}
    }
    assert!(images.end().success());
    hear("STOPPING=1");
}

//! Who may call what, and who is believed: separate processes with separate certificates, and clear words on both sides.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dominator_core::auth::MethodPattern;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Agent as _, ObjectSource, ObjectStore, Piece, Pieces, PollRequest, StoreError, Verified,
};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects;
use dominator_fs::store::ports::{LocalImages, LocalObjects};
use dominator_pki::ca::{Authority, Leaf};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use dominator_testkit::{Lab, Outcome, Process, binary, is_root, schema, trees};
use futures_util::StreamExt;

fn image(lab: &Lab) -> PathBuf {
    let path = lab.path("image");
    fs::create_dir(&path).unwrap();
    trees::small(&path, 1);
    path
}

#[test]
fn each_call_is_allowed_by_its_own_method_and_denied_without() {
    let lab = Lab::new();
    let (images, address) = lab.image_server();
    let subd = lab.subd(1, &{
        let root = lab.path("root");
        fs::create_dir(&root).unwrap();
        root
    });
    let (dominator, dominator_address) = lab.dominator(&address, &lab.mdb(&[]));
    let tree = image(&lab);
    let sub = format!("{}:6969", lab.address(1));
    // The tool, its words, the methods it needs that must be listed, and who is asked.
    let add = ["--image-server", &address, "add", "web/1", tree.to_str().unwrap(), "", ""];
    let get = lab.path("got");
    let rows: [(&str, &[&str], &[&str], &Process); 6] = [
        ("imagetool", &add, &["ObjectServer.AddObjects", "ImageServer.AddImage"], &images),
        (
            "imagetool",
            &["--image-server", &address, "get", "web/1", get.to_str().unwrap()],
            &["ObjectServer.GetObjects"],
            &images,
        ),
        ("subtool", &["--sub", &sub, "poll"], &["Subd.Poll"], &subd),
        ("subtool", &["--sub", &sub, "boost-scan-limit"], &["Subd.BoostScanLimit"], &subd),
        ("subtool", &["--sub", &sub, "set-config", "--cpu-percent", "9"], &["Subd.SetConfiguration"], &subd),
        (
            "domtool",
            &["--dominator", &dominator_address, "disable-updates", "why not"],
            &["Dominator.DisableUpdates"],
            &dominator,
        ),
    ];
    for (number, (tool, words, methods, server)) in rows.into_iter().enumerate() {
        for (lacking, method) in methods.iter().enumerate() {
            let others: Vec<_> = methods.iter().filter(|other| other != &method).copied().collect();
            let poor = lab.certificate(&format!("poor{number}-{lacking}"), "poor", &others.join(","));
            let mark = server.mark();
            let complaint = lab.tool(tool, &poor, words.iter().copied()).failure();
            assert!(complaint.contains("access to method denied"), "{tool}: {complaint}");
            assert!(complaint.contains(method), "{tool}: {complaint}");
            // What was written before the denial would be in the way of the next try.
            fs::remove_dir_all(&get).ok();
            server.wait_for(mark, method, |line| line.contains("denied") && line.contains(method));
        }
        let rich = lab.certificate(&format!("rich{number}"), "rich", &methods.join(","));
        lab.tool(tool, &rich, words.iter().copied()).success();
    }
}

#[test]
fn servers_say_what_they_offer() {
    let lab = Lab::new();
    let (_images, address) = lab.image_server();
    let nobody = lab.certificate("nobody", "nobody", "");
    let listing = lab.tool("list-methods", &nobody, [address.as_str(), "--json"]).json();
    schema::check("list-methods", &listing).unwrap();
    let methods: Vec<_> = listing["methods"].as_array().unwrap().iter().map(|m| m["name"].clone()).collect();
    for method in ["ImageServer.AddImage", "ObjectServer.GetObjects", "Introspection.ListMethods"] {
        assert!(methods.contains(&method.into()), "{listing:#}");
    }
    let public = lab.tool("list-methods", &nobody, [address.as_str(), "--public"]).success();
    let public: Vec<_> = public.lines().collect();
    assert!(
        public.contains(&"ImageServer.GetImage") && !public.contains(&"ImageServer.AddImage"),
        "{public:?}"
    );
}

#[test]
fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let lab = Lab::new();
    let (images, address) = lab.image_server();
    lab.authority("Mallory");
    let foreign = lab.certificate_of("Mallory", "foreign", "admin", "*.*");
    let mark = images.mark();
    let complaint = lab.tool("imagetool", &foreign, ["--image-server", &address, "list"]).failure();
    assert!(complaint.contains("certificate"), "{complaint}");
    images.wait_for(mark, "the refusal", |line| line.contains("WARN") && line.contains("certificate"));
    // And the other way round: a client that believes Mallory only does not talk to our server.
    let mut misled = lab.certificate("misled", "admin", "*.*");
    misled.authority = lab.path("Mallory.pem");
    let complaint = lab.tool("imagetool", &misled, ["--image-server", &address, "list"]).failure();
    assert!(complaint.contains("certificate"), "{complaint}");
}

#[test]
fn a_sub_can_not_pose_as_an_image_server() {
    let lab = Lab::new();
    let address = format!("{}:6971", lab.address(0));
    let sub = lab.daemon_certificate("subd", "sub");
    let _impostor = Process::start("impostor", &mut lab.daemon("imageserver", &sub, &address, "state"));
    let admin = lab.certificate("admin", "admin", "*.*");
    let complaint = lab.tool("imagetool", &admin, ["--image-server", &address, "list"]).failure();
    assert!(complaint.contains("imageserver") && complaint.contains("subd"), "{complaint}");
}

#[test]
fn an_expired_certificate_is_refused_on_both_sides() {
    let lab = Lab::new();
    let subd = lab.subd(1, &{
        let root = lab.path("root");
        fs::create_dir(&root).unwrap();
        root
    });
    let expired = expired(&lab);
    // A tool looks at its certificate first; one that does not is refused by the server.
    let complaint =
        lab.tool("subtool", &expired, ["--sub", &format!("{}:6969", lab.address(1)), "poll"]).failure();
    assert!(complaint.contains("expired"), "{complaint}");
    let credentials = dominator_pki::Credentials::from_pem(
        &fs::read(&expired.certificate).unwrap(),
        &fs::read(&expired.key).unwrap(),
    );
    let trust = keystore::load_trust(&lab.path("CA.pem"), IdentityFile::None).unwrap();
    let tls = Tls::new(trust, credentials.unwrap()).unwrap();
    let mark = subd.mark();
    let refused = runtime().block_on(async {
        let agent = RemoteAgent::connect(&tls, &format!("{}:6969", lab.address(1))).await?;
        agent.poll(PollRequest::default()).await
    });
    assert!(refused.is_err(), "{refused:?}");
    subd.wait_for(mark, "the refusal", |line| {
        line.contains("WARN") && line.contains("by this machine's clock")
    });
}

/// A certificate that was good for one day, ten days ago.
fn expired(lab: &Lab) -> dominator_testkit::Certificate {
    let ten_days_ago = SystemTime::now() - Duration::from_secs(10 * 24 * 3600);
    let (certificate, key) = (lab.path("expired.pem"), lab.path("expired.key.pem"));
    let authority = Authority::from_pem(
        &fs::read(lab.path("CA.pem")).unwrap(),
        &fs::read(lab.path("CA.key.pem")).unwrap(),
    );
    let made = lab.certificate("fresh", "admin", "*.*");
    fs::copy(&made.key, &key).unwrap();
    let key_pair = keystore::load_key(&key).unwrap();
    let leaf = Leaf::new("admin").unwrap().methods(MethodPattern::parse_list("*.*").unwrap()).days(1);
    let issued = authority.unwrap().issue(&leaf, &key_pair.public_key().unwrap(), ten_days_ago).unwrap();
    fs::write(&certificate, issued.pem).unwrap();
    dominator_testkit::Certificate { certificate, key, authority: lab.path("CA.pem") }
}

/// An object store whose every byte is wrong.
struct Liar(LocalObjects);

#[async_trait]
impl ObjectSource for Liar {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let honest = self.0.objects(wanted).await?;
        Ok(Pieces::new(honest.map(|piece| match piece {
            Ok(Piece::Data(data)) => Ok(Piece::Data(data.iter().map(|byte| byte ^ 1).collect())),
            other => other,
        })))
    }
}

#[async_trait]
impl ObjectStore for Liar {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        self.0.sizes(ids).await
    }

    async fn add(&self, pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        self.0.add(pieces).await
    }
}

#[test]
fn an_image_server_that_sends_wrong_bytes_changes_nothing() {
    if !is_root("an_image_server_that_sends_wrong_bytes_changes_nothing") {
        return;
    }
    let lab = Lab::new();
    let address = format!("{}:6971", lab.address(0));
    let own = lab.daemon_certificate("imageserver", "liar");
    let paths = CredentialPaths { certificate: own.certificate.clone(), key: own.key.clone() };
    let trust = keystore::load_trust(&lab.path("CA.pem"), IdentityFile::None).unwrap();
    let tls = Tls::new(trust, keystore::load(&paths, SystemTime::now()).unwrap()).unwrap();
    for name in ["objects", "images"] {
        fs::create_dir(lab.path(name)).unwrap();
    }
    let store = objects::ObjectStore::open(&lab.path("objects")).unwrap();
    let images = ImageStore::open(&lab.path("images"), store.clone()).unwrap();
    let services = Services::new("liar")
        .objects(Arc::new(Liar(LocalObjects::new(store))))
        .images(Arc::new(LocalImages::new(images)), SystemTime::now);
    let runtime = runtime();
    let server = runtime.block_on(Server::bind(address.parse().unwrap(), tls, services)).unwrap();
    let serving = runtime.spawn(server.serve(std::future::pending::<()>()));

    let admin = lab.certificate("admin", "admin", "*.*");
    let tree = image(&lab);
    let filter = lab.write("filter", "/none\n");
    let add =
        ["--image-server", &address, "add", "web/1", tree.to_str().unwrap(), filter.to_str().unwrap(), ""];
    lab.tool("imagetool", &admin, add).success();
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    trees::small(&root, 2);
    let before = lab.path("before");
    let mut copy = std::process::Command::new("cp");
    Outcome::of(copy.arg("-a").args([&root, &before])).success();
    let _subd = lab.subd(1, &root);
    let (dominator, _) = lab.dominator(&address, &lab.mdb(&[("one", 1, "web/1")]));
    dominator.wait_for_event(0, "status", &[("sub", "one"), ("status", "fetch failed")]);
    assert_eq!(trees::differences(&before, &root, &[]), Vec::<String>::new());
    serving.abort();
}

#[test]
fn a_daemon_says_what_is_wrong_with_its_configuration() {
    let lab = Lab::new();
    let config = lab.write("subd.toml", "scan-interval = \"1s\"\n\nrot-dir = \"/\"\n");
    let mut command = std::process::Command::new(binary("subd"));
    let complaint = Outcome::of(command.arg("--config").arg(&config)).failure();
    assert!(complaint.contains("subd.toml:3: unknown key \"rot-dir\""), "{complaint}");
}

#[test]
fn a_certificate_that_was_renewed_is_shown_after_a_hangup() {
    let lab = Lab::new();
    let (images, address) = lab.image_server();
    let admin = lab.certificate("admin", "admin", "*.*");
    // The authority everybody believed is replaced by another.
    lab.authority("Next");
    for (name, user, methods) in [("imageserver2", "imageserver", ""), ("admin2", "admin", "*.*")] {
        lab.certificate_of("Next", name, user, methods);
    }
    for (new, old) in [
        ("imageserver2.pem", "imageserver.pem"),
        ("imageserver2.key.pem", "imageserver.key.pem"),
        ("Next.pem", "CA.pem"),
    ] {
        fs::copy(lab.path(new), lab.path(old)).unwrap();
    }
    let mark = images.mark();
    images.hang_up();
    images.wait_for(mark, "the certificates were read again", |line| line.contains("read again, as ordered"));
    lab.tool("imagetool", &admin, ["--image-server", &address, "list"]).failure();
    let renewed = dominator_testkit::Certificate {
        certificate: lab.path("admin2.pem"),
        key: lab.path("admin2.key.pem"),
        authority: lab.path("CA.pem"),
    };
    lab.tool("imagetool", &renewed, ["--image-server", &address, "list"]).success();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

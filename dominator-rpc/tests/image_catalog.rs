//! Which images there are, how that changes and when they end: told from afar as it is near, to whom it may be told, and
//! changed by whom it may be changed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::time::Duration;

use dominator_core::catalog::{
    Change, ExpiryChange, ExpiryLimits, ExpiryRefusal, ImageUpdate, Latest, Position, Selection,
};
use dominator_core::image::{Image, ImageName};
use dominator_core::port::{ImageError, ImageStore, ImageUpdates};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::client::RemoteImages;
use futures_util::StreamExt as _;
use support::{Running, Stores, World};
use tokio::time::timeout;

const NOON: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

struct Scene {
    world: World,
    stores: Stores,
    server: Running,
    image: Image,
}

impl Scene {
    async fn new() -> Self {
        let (world, stores) = (World::new(), Stores::new());
        let server = world.serve("imageserver", stores.services()).await;
        let tree = tree_of(&[("/etc/motd", b"hello")]);
        stores.objects.put_tree(&tree);
        stores.objects.put("hello");
        Self { image: image_of(&tree), world, stores, server }
    }

    async fn caller(&self, user: &str, methods: &str) -> RemoteImages {
        RemoteImages::connect(&self.world.tls(user, methods), &self.server.at()).await.unwrap()
    }

    fn image(&self, stage: &str, expires_at: Option<u64>) -> Image {
        let tags = [("stage".to_owned(), stage.to_owned())].into();
        Image { tags, expires_at, ..self.image.clone() }
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn to(to: Option<u64>) -> ExpiryChange {
    // What is not `to` is the server's to say.
    ExpiryChange { to, now: 0, privileged: false, limits: ExpiryLimits::default() }
}

async fn hear(updates: &mut ImageUpdates, count: usize) -> Vec<ImageUpdate> {
    let heard: Vec<_> = updates.take(count).map(Result::unwrap).collect().await;
    assert_eq!(heard.len(), count);
    heard
}

fn position(update: &ImageUpdate) -> Position {
    match update {
        ImageUpdate::Current(position) | ImageUpdate::Change { position, .. } => *position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_follows_from_afar_hears_the_same_and_goes_on_where_it_was() {
    let scene = Scene::new().await;
    let (near, far) = (scene.stores.images.clone(), scene.caller("alice", "ImageServer.*").await);
    far.add(&name("web/1"), scene.image("prod", Some(NOON + HOUR))).await.unwrap();
    far.add(&name("web/2"), scene.image("test", None)).await.unwrap();
    let everything = Selection::default();
    let mut there = near.updates(&everything, None).await.unwrap();
    let mut here = far.updates(&everything, None).await.unwrap();
    // The root, a directory, two images; then what follows.
    assert_eq!(hear(&mut here, 6).await, hear(&mut there, 6).await);
    near.make_directory(&"db/old".parse().unwrap(), dominator_core::port::Parents::Made).await.unwrap();
    far.change_expiry(&name("web/1"), &to(Some(NOON + 2 * HOUR))).await.unwrap();
    far.delete(&name("web/2")).await.unwrap();
    near.delete_directory(&"db/old".parse().unwrap()).await.unwrap();
    near.chown_directory(&"db".parse().unwrap(), Some("dba".parse().unwrap())).await.unwrap();
    near.expire(NOON + 2 * HOUR).await.unwrap();
    let heard = hear(&mut here, 7).await;
    assert_eq!(heard, hear(&mut there, 7).await);
    drop(here);
    let mut resumed = far.updates(&everything, Some(position(&heard[3]))).await.unwrap();
    assert_eq!(position(&hear(&mut resumed, 1).await[0]), position(&heard[3]));
    assert_eq!(hear(&mut resumed, 3).await, heard[4..]);
    assert!(timeout(Duration::from_millis(50), resumed.next()).await.is_err(), "and then nothing");
    scene.server.stop().await;
}

#[tokio::test]
async fn images_are_found_and_listed_from_afar_as_near() {
    let scene = Scene::new().await;
    let far = scene.caller("alice", "ImageServer.AddImage").await;
    for (text, stage, end) in [
        ("web/1", "prod", None),
        ("web/2", "prod", Some(NOON + HOUR)),
        ("web/3", "test", None),
        ("db/1", "prod", None),
    ] {
        far.add(&name(text), scene.image(stage, end)).await.unwrap();
    }
    let anybody = scene.caller("bob", "").await;
    let tags = || [("stage".to_owned(), "prod".to_owned())].into_iter().collect();
    for (within, ignore_expiring, expected) in
        [("", false, "db/1 web/1 web/2"), ("web", true, "web/1"), ("db/", false, "db/1"), ("no", false, "")]
    {
        let selection = Selection { within: within.parse().unwrap(), tags: tags(), ignore_expiring };
        let names: Vec<_> =
            anybody.select(&selection).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names.join(" "), expected, "{selection:?}");
        let mut updates = anybody.updates(&selection, None).await.unwrap();
        let mut listed = Vec::new();
        loop {
            match updates.next().await.unwrap().unwrap() {
                ImageUpdate::Image { name, .. } => listed.push(name.to_string()),
                ImageUpdate::Current(_) => break,
                ImageUpdate::Begin | ImageUpdate::Directory(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(listed, names);
    }
    for (directory, ignore_expiring, expected) in
        [("web", false, Some("web/2")), ("web", true, Some("web/1")), ("no", false, None)]
    {
        let wanted =
            Latest { directory: directory.into(), tags: tags(), ignore_expiring, ..Latest::default() };
        let found = anybody.latest(&wanted).await.unwrap().map(|name| name.to_string());
        assert_eq!(found.as_deref(), expected, "{wanted:?}");
    }
    scene.server.stop().await;
}

#[tokio::test]
async fn whoever_waits_for_an_image_gets_it_when_it_comes_and_is_told_when_it_does_not() {
    let scene = Scene::new().await;
    let (far, web) = (scene.caller("alice", "ImageServer.AddImage").await, name("web/1"));
    let waited = far.image_within(&web, Duration::from_millis(30)).await;
    assert!(matches!(waited, Err(ImageError::NotFound { .. })), "{waited:?}");
    let waiting = tokio::spawn({
        let (far, web) = (far.clone(), web.clone());
        async move { far.image_within(&web, Duration::from_secs(60)).await }
    });
    let appears = tokio::spawn({
        let (far, web) = (far.clone(), web.clone());
        async move { far.appears(&web).await }
    });
    // Others wait for none of that.
    far.add(&name("web/0"), scene.image("prod", None)).await.unwrap();
    assert!(!waiting.is_finished() && !appears.is_finished());
    far.add(&web, scene.image("prod", None)).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().tags["stage"], "prod");
    appears.await.unwrap().unwrap();
    scene.server.stop().await;
}

#[tokio::test]
async fn an_end_is_put_off_by_whom_the_image_belongs_to_and_called_off_by_those_with_the_power() {
    let scene = Scene::new().await;
    let alice = scene.caller("alice", "ImageServer.AddImage").await;
    let image = Image { owner_users: vec!["carol".into()], ..scene.image("prod", Some(NOON + HOUR)) };
    alice.add(&name("web/1"), image).await.unwrap();
    let ask = async |user: &str, methods: &str, hours: Option<u64>| {
        let caller = scene.caller(user, methods).await;
        caller.change_expiry(&name("web/1"), &to(hours.map(|hours| NOON + hours * HOUR))).await
    };
    let power = "ImageServer.ChangeImageExpiration";
    let refused = |answer: Result<(), ImageError>| match answer.unwrap_err() {
        ImageError::Expiry(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let stranger = ask("bob", "ImageServer.AddImage", Some(2)).await;
    assert!(matches!(stranger, Err(ImageError::Denied(_))), "{stranger:?}");
    ask("alice", "", Some(2)).await.unwrap();
    ask("carol", "", Some(24)).await.unwrap();
    let day = Duration::from_secs(24 * HOUR);
    assert_eq!(refused(ask("carol", "", Some(25)).await), ExpiryRefusal::TooLate { limit: day });
    assert_eq!(refused(ask("alice", "", None).await), ExpiryRefusal::Removal);
    let sooner = refused(ask("dave", power, Some(23)).await);
    assert_eq!(sooner, ExpiryRefusal::Sooner { end: NOON + 24 * HOUR });
    ask("dave", power, Some(730)).await.unwrap();
    let month = Duration::from_secs(730 * HOUR);
    assert_eq!(refused(ask("dave", power, Some(731)).await), ExpiryRefusal::TooLate { limit: month });
    assert_eq!(alice.expires_at(&name("web/1")).await.unwrap(), Some(NOON + 730 * HOUR));
    ask("dave", power, None).await.unwrap();
    assert_eq!(alice.expires_at(&name("web/1")).await.unwrap(), None);
    assert_eq!(refused(ask("dave", power, Some(1)).await), ExpiryRefusal::Permanent);
    scene.server.stop().await;
}

#[tokio::test]
async fn an_image_that_has_expired_or_that_lists_can_not_tell_of_is_not_taken() {
    let scene = Scene::new().await;
    let far = scene.caller("alice", "ImageServer.AddImage").await;
    for end in [0, NOON - 1, NOON] {
        let refused = far.add(&name("web/1"), scene.image("prod", Some(end))).await;
        assert!(matches!(refused, Err(ImageError::Expiry(ExpiryRefusal::Over))), "{end}: {refused:?}");
    }
    let refused = far.add(&name("web/1"), scene.image(&"x".repeat(64 * 1024), None)).await;
    assert!(matches!(refused, Err(ImageError::Malformed(_))), "{refused:?}");
    for number in 0..100 {
        let tagged = scene.image(&"x".repeat(60 * 1024), None);
        far.add(&name(&format!("web/{number}")), tagged).await.unwrap();
    }
    // Six megabytes: more than a message may be.
    let mut updates = far.updates(&Selection::default(), None).await.unwrap();
    let heard = hear(&mut updates, 104).await;
    let images = heard.iter().filter(|update| matches!(update, ImageUpdate::Image { .. }));
    assert_eq!(images.count(), 100);
    far.delete(&name("web/7")).await.unwrap();
    let heard = hear(&mut updates, 1).await;
    assert!(
        matches!(&heard[0], ImageUpdate::Change { change: Change::Removed { name, .. }, .. } if name.as_str() == "web/7")
    );
    scene.server.stop().await;
}

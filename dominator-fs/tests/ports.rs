//! What the stores promise behind the ports: the same as without, and nothing to whoever breaks the rules.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test may fail by panicking"
)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    ClusterStore, ClusterStoreError, ImageError, ImageStore as _, ObjectSource, ObjectStore as _, Piece,
    Pieces, StoreError,
};
use dominator_core::trigger::Triggers;
use dominator_fs::export;
use dominator_fs::import;
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::seam::Kernel;
use dominator_fs::store::cluster::DirectoryClusterStore;
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::{LocalImages, LocalObjects, PortSink, PortStream};
use dominator_fs_testkit::{compared, nasty, needs_root};
use futures_util::{StreamExt, stream};

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn objects(dir: &Path) -> LocalObjects {
    LocalObjects::new(ObjectStore::open(&dir.join("objects")).unwrap())
}

fn pieces_of(contents: &[u8]) -> Vec<Piece> {
    let begin = Piece::Begin { id: ObjectId::of(contents), size: contents.len() as u64 };
    let data = contents.chunks(Piece::MAX_DATA).map(|data| Piece::Data(Bytes::copy_from_slice(data)));
    std::iter::once(begin).chain(data).collect()
}

fn stream_of(pieces: impl IntoIterator<Item = Piece>) -> Pieces {
    Pieces::new(stream::iter(pieces.into_iter().map(Ok).collect::<Vec<_>>()))
}

async fn received(mut pieces: Pieces) -> Result<Vec<(ObjectId, Vec<u8>)>, StoreError> {
    let mut objects: Vec<(ObjectId, Vec<u8>, u64)> = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Begin { id, size } => objects.push((id, Vec::new(), size)),
            Piece::Data(data) => {
                assert!((1..=Piece::MAX_DATA).contains(&data.len()));
                objects.last_mut().unwrap().1.extend_from_slice(&data);
            }
        }
    }
    assert!(objects.iter().all(|(_, bytes, size)| bytes.len() as u64 == *size));
    Ok(objects.into_iter().map(|(id, bytes, _)| (id, bytes)).collect())
}

/// Small, empty, of several pieces, and long enough to be mapped.
fn samples() -> Vec<Vec<u8>> {
    vec![b"small".to_vec(), Vec::new(), vec![1; 600_000], vec![2; 3_000_001], b"last".to_vec()]
}

#[test]
fn objects_stream_in_and_out_in_the_order_asked_for() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store = objects(dir.path());
        let samples = samples();
        let kept = store.add(stream_of(samples.iter().flat_map(|bytes| pieces_of(bytes)))).await.unwrap();
        let ids: Vec<_> = samples.iter().map(|bytes| ObjectId::of(bytes)).collect();
        assert_eq!(kept.iter().map(|verified| verified.id()).collect::<Vec<_>>(), ids);
        let absent = ObjectId::of(b"absent");
        assert_eq!(store.sizes(&[ids[3], absent, ids[1]]).await.unwrap(), [Some(3_000_001), None, Some(0)]);
        let wanted: Vec<_> = ids.iter().rev().chain(&ids).copied().collect();
        let expected: Vec<_> = samples.iter().rev().chain(&samples).cloned().collect();
        let came = received(store.objects(wanted.clone()).await.unwrap()).await.unwrap();
        assert_eq!(came, wanted.iter().copied().zip(expected).collect::<Vec<_>>());
        let missing = store.objects(vec![ids[0], absent]).await;
        assert!(matches!(missing, Err(StoreError::NotFound { id }) if id == absent));
    });
}

#[test]
fn a_long_upload_is_made_durable_while_more_of_it_comes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store = objects(dir.path());
        // More than is made durable at once, and then nothing more for as long as somebody looks.
        let samples: Vec<_> = (0..3_u8).map(|number| vec![number; 30 << 20]).collect();
        let ids: Vec<_> = samples.iter().map(|bytes| ObjectId::of(bytes)).collect();
        let pieces: Vec<_> = samples.iter().flat_map(|bytes| pieces_of(bytes)).map(Ok).collect();
        let (broken, breaking) = tokio::sync::oneshot::channel::<StoreError>();
        let end = stream::once(async move { Err(breaking.await.unwrap()) });
        let (adding, looking) = (store.clone(), store.clone());
        let adding =
            tokio::spawn(async move { adding.add(Pieces::new(stream::iter(pieces).chain(end))).await });
        while looking.sizes(&ids[..2]).await.unwrap().iter().any(Option::is_none) {
            tokio::task::yield_now().await;
        }
        assert!(!adding.is_finished(), "it goes on");
        broken.send(StoreError::Protocol("the line was cut".into())).unwrap();
        assert!(matches!(adding.await.unwrap(), Err(StoreError::Protocol(_))));
        // The last one did not end before the line did, as far as anybody knew; those before it stay.
        assert_eq!(store.sizes(&ids[..2]).await.unwrap(), [Some(30 << 20); 2]);
        let kept = store.add(stream_of(samples.iter().flat_map(|bytes| pieces_of(bytes)))).await.unwrap();
        assert_eq!(kept.iter().map(|verified| verified.id()).collect::<Vec<_>>(), ids);
    });
}

#[test]
fn a_stream_that_breaks_the_rules_is_refused_and_what_was_complete_stays() {
    let data = |bytes: &[u8]| Piece::Data(Bytes::copy_from_slice(bytes));
    let begin = |bytes: &[u8], size| Piece::Begin { id: ObjectId::of(bytes), size };
    let check = |what: &str, bad: Vec<Piece>| {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let store = objects(dir.path());
            let stream = stream_of(pieces_of(b"good").into_iter().chain(bad).chain(pieces_of(b"after")));
            let added = store.add(stream).await;
            assert!(
                matches!(added, Err(StoreError::Protocol(_) | StoreError::Corrupt { .. })),
                "{what}: {added:?}"
            );
            let sizes = store.sizes(&[b"good".as_slice(), b"bad", b"after"].map(ObjectId::of)).await.unwrap();
            assert_eq!(sizes, [Some(4), None, None], "{what}");
        });
    };
    check("other bytes", vec![begin(b"bad", 3), data(b"BAD")]);
    check("too short", vec![begin(b"bad", 3), data(b"ba")]);
    check("too long", vec![begin(b"bad", 3), data(b"bad"), data(b"!")]);
    check("another size", vec![begin(b"bad", 4), data(b"bad")]);
    check("beyond any size", vec![begin(b"bad", u64::MAX), data(b"bad")]);
    check("an overlong piece", vec![begin(b"bad", 1 << 20), data(&vec![0; Piece::MAX_DATA + 1])]);
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let orphan = objects(dir.path()).add(stream_of([data(b"nobody's")])).await;
        assert!(matches!(orphan, Err(StoreError::Protocol(_))));
    });
}

#[test]
fn a_stream_that_breaks_off_keeps_whole_objects_only() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store = objects(dir.path());
        let mut items: Vec<_> = pieces_of(b"good").into_iter().map(Ok).collect();
        items.push(Ok(Piece::Begin { id: ObjectId::of(b"half"), size: 4 }));
        items.push(Ok(Piece::Data(Bytes::from_static(b"ha"))));
        items.push(Err(StoreError::Denied("gone".into())));
        let added = store.add(Pieces::new(stream::iter(items))).await;
        assert!(matches!(added, Err(StoreError::Denied(_))));
        let sizes = store.sizes(&[b"good".as_slice(), b"half"].map(ObjectId::of)).await.unwrap();
        assert_eq!(sizes, [Some(4), None]);
        assert_eq!(std::fs::read_dir(dir.path().join("objects/tmp")).unwrap().count(), 0);
    });
}

#[test]
fn a_corrupt_object_ends_the_stream_with_an_error_however_often_it_was_sent_before() {
    run(async {
        for (size, before) in [(10, 0), (600_000, 0), (3_000_000, 0), (10, 2), (600_000, 2), (3_000_000, 2)] {
            let dir = tempfile::tempdir().unwrap();
            let store = objects(dir.path());
            let good = vec![3; size];
            let all = pieces_of(b"first").into_iter().chain(pieces_of(&good));
            store.add(stream_of(all)).await.unwrap();
            let id = ObjectId::of(&good);
            for _ in 0..before {
                let came = received(store.objects(vec![id]).await.unwrap()).await.unwrap();
                assert_eq!(came, [(id, good.clone())]);
            }
            let name = id.to_string();
            let file = dir.path().join("objects").join(&name[..2]).join(&name[2..]);
            std::fs::write(file, [&good[1..], b"x"].concat()).unwrap();
            let came = received(store.objects(vec![ObjectId::of(b"first"), id]).await.unwrap()).await;
            assert!(matches!(came, Err(StoreError::Corrupt { id: bad, .. }) if bad == id), "{size}");
            assert_eq!(store.sizes(&[id]).await.unwrap(), [None]);
        }
    });
}

#[test]
fn the_rest_of_an_object_is_sent_without_reading_its_beginning() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store = objects(dir.path());
        let contents: Vec<u8> = (0..800_000_u32).flat_map(u32::to_le_bytes).collect();
        let id = ObjectId::of(&contents);
        store.add(stream_of(pieces_of(&contents))).await.unwrap();
        let rest = async |offset: usize| -> Vec<u8> {
            let mut pieces = store.rest(id, offset as u64).await.unwrap();
            let begin = pieces.next().await.unwrap().unwrap();
            assert_eq!(begin, Piece::Begin { id, size: contents.len() as u64 });
            let mut came = Vec::new();
            while let Some(piece) = pieces.next().await {
                let Piece::Data(data) = piece.unwrap() else { panic!("another object") };
                assert!((1..=Piece::MAX_DATA).contains(&data.len()));
                came.extend_from_slice(&data);
            }
            came
        };
        for offset in [1, Piece::MAX_DATA, contents.len() - 1, contents.len(), contents.len() + 1] {
            assert_eq!(rest(offset).await, contents.get(offset..).unwrap_or_default(), "{offset}");
        }
        // Whoever reads it would find that it is not what it was.
        let name = id.to_string();
        let file = dir.path().join("objects").join(&name[..2]).join(&name[2..]);
        std::fs::write(file, [b"!", &contents[1..]].concat()).unwrap();
        assert_eq!(rest(1).await, contents[1..]);
        let whole = received(store.objects(vec![id]).await.unwrap()).await;
        assert!(matches!(whole, Err(StoreError::Corrupt { .. })));
        assert!(matches!(store.rest(id, 1).await, Err(StoreError::NotFound { .. })));
    });
}

#[test]
fn whoever_goes_away_gives_its_turn_back() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store = objects(dir.path());
        let long = vec![4; 4_000_000];
        store.add(stream_of(pieces_of(&long))).await.unwrap();
        for _ in 0..250 {
            let mut pieces = store.objects(vec![ObjectId::of(&long)]).await.unwrap();
            assert!(matches!(pieces.next().await, Some(Ok(Piece::Begin { .. }))));
        }
    });
}

#[test]
fn an_image_travels_through_the_ports_unchanged() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        nasty(&source);
        if !needs_root(
            "an_image_travels_through_the_ports_unchanged, as far as unreadable files are concerned,",
        ) {
            std::fs::remove_file(source.join("mode-0000")).unwrap();
            std::fs::remove_file(source.join("mode-0111")).unwrap();
        }
        let objects = objects(dir.path());
        let images = ImageStore::open(&dir.path().join("images"), objects.store().clone()).unwrap();
        let (images, name) = (LocalImages::new(images), "web/1".parse().unwrap());
        let runtime = tokio::runtime::Handle::current();
        let mut sink = PortSink::new(Arc::new(objects.clone()), runtime.clone());
        let root = Root::open(&source).unwrap();
        let imported = tokio::task::spawn_blocking(move || {
            let imported = import::directory(&root, &Filter::Empty, &Cancel::default(), &mut sink);
            sink.finish().unwrap();
            imported.unwrap()
        })
        .await
        .unwrap();
        let tree = imported.snapshot.tree.clone();
        let image = Image::new(tree, Filter::Empty, Triggers::default(), imported.xattrs);
        images.add(&name, image.clone()).await.unwrap();
        assert!(matches!(images.add(&name, image.clone()).await, Err(ImageError::Exists { .. })));
        assert_eq!(images.list().await.unwrap(), std::slice::from_ref(&name));
        assert_eq!(*images.image(&name).await.unwrap(), image);
        let tree = images.tree(&name).await.unwrap();
        let root = Root::open(&target).unwrap();
        let mut stream = PortStream::new(Arc::new(objects), runtime);
        let exported =
            tokio::task::spawn_blocking(move || export::directory(&tree, &root, &mut stream, &Kernel));
        let exported = exported.await.unwrap().unwrap();
        if exported.left_out.is_empty() {
            assert_eq!(compared(&source, &target, &[]), "");
        }
        images.delete(&name).await.unwrap();
        assert!(matches!(images.add(&name, image).await, Err(ImageError::Deleted { .. })));
    });
}

/// A source that sends what it likes.
struct Liar(Vec<Piece>);

#[async_trait::async_trait]
impl ObjectSource for Liar {
    async fn objects(&self, _wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        Ok(stream_of(self.0.clone()))
    }
}

#[test]
fn an_export_takes_nothing_a_source_lies_about() {
    run(async {
        let (id, other) = (ObjectId::of(b"right"), ObjectId::of(b"other"));
        let data = |bytes: &'static [u8]| Piece::Data(Bytes::from_static(bytes));
        for lie in [
            vec![],
            vec![data(b"right")],
            vec![Piece::Begin { id: other, size: 5 }, data(b"other")],
            vec![Piece::Begin { id, size: 5 }, data(b"wrong")],
            vec![Piece::Begin { id, size: 5 }, data(b"righ")],
            vec![Piece::Begin { id, size: 5 }, data(b"right!")],
            vec![Piece::Begin { id, size: 0 }],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (source, target) = (dir.path().join("source"), dir.path().join("target"));
            std::fs::create_dir(&source).unwrap();
            std::fs::create_dir(&target).unwrap();
            std::fs::write(source.join("file"), b"right").unwrap();
            let store = objects(dir.path()).store().clone();
            let root = Root::open(&source).unwrap();
            let tree =
                import::directory(&root, &Filter::Empty, &Cancel::default(), &mut store.batch()).unwrap();
            let mut stream = PortStream::new(Arc::new(Liar(lie.clone())), tokio::runtime::Handle::current());
            let root = Root::open(&target).unwrap();
            let exported = tokio::task::spawn_blocking(move || {
                export::directory(&tree.snapshot, &root, &mut stream, &Kernel)
            });
            let exported = exported.await.unwrap();
            assert!(matches!(exported, Err(export::ExportError::Source(_))), "{lie:?}: {exported:?}");
        }
    });
}

#[test]
fn shared_state_is_compared_and_set_through_the_port() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn ClusterStore> = Arc::new(DirectoryClusterStore::open(dir.path()).unwrap());
        let revision = store.set("updates", Bytes::from_static(b"off"), None).await.unwrap();
        let conflict = store.set("updates", Bytes::from_static(b"on"), None).await;
        assert!(matches!(conflict, Err(ClusterStoreError::Conflict { .. })));
        assert_eq!(store.value("updates").await.unwrap(), Some((Bytes::from_static(b"off"), revision)));
    });
}

#[test]
fn a_directory_hands_out_the_objects_of_its_tree_and_nothing_that_changed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("below")).unwrap();
    let long = vec![7; 3 * Piece::MAX_DATA + 5];
    std::fs::write(dir.path().join("below/long"), &long).unwrap();
    std::fs::write(dir.path().join("short"), "short").unwrap();
    std::fs::hard_link(dir.path().join("short"), dir.path().join("other")).unwrap();
    let root = Root::open(dir.path()).unwrap();
    let tree =
        import::directory(&root, &Filter::Empty, &Cancel::default(), &mut import::Nowhere).unwrap().snapshot;
    let source = import::TreeSource::new(root, tree.clone());
    let fetch = |id: ObjectId| {
        run(async {
            let mut pieces = source.objects(vec![id]).await?;
            let (mut bytes, mut announced) = (Vec::new(), None);
            while let Some(piece) = pieces.next().await {
                match piece? {
                    Piece::Begin { id: begun, size } => assert_eq!(announced.replace((begun, size)), None),
                    Piece::Data(data) => bytes.extend_from_slice(&data),
                }
            }
            assert_eq!(announced, Some((id, bytes.len() as u64)));
            Ok::<_, StoreError>(bytes)
        })
    };
    let mut ids: Vec<_> = tree.objects().into_keys().chain([tree.tree.links.0]).collect();
    ids.extend(tree.directories.iter().map(|(id, _)| id.0));
    assert!(ids.len() >= 5, "two contents, two directories, hard links");
    for id in ids {
        assert_eq!(ObjectId::of(&fetch(id).unwrap()), id);
    }
    let (absent, changed) = (ObjectId::of(b"absent"), ObjectId::of(b"short"));
    assert!(matches!(fetch(absent), Err(StoreError::NotFound { id }) if id == absent));
    for other in ["sh0rt", "sho"] {
        std::fs::write(dir.path().join("short"), other).unwrap();
        let refused = fetch(changed);
        assert!(matches!(refused, Err(StoreError::Failed { .. })), "{other}: {refused:?}");
    }
}

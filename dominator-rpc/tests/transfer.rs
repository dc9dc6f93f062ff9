//! Contents of objects on their way: compressed for those who asked for it, and no faster than a server allows.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dominator_core::auth::Role;
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource as _, Piece, Pieces, StoreError};
use dominator_core_testkit::MemoryObjects;
use dominator_rpc::client::{Compression, RemoteObjects};
use dominator_rpc::server::Services;
use dominator_rpc::v1;
use dominator_rpc::v1::object_piece::Piece as Kind;
use futures_util::{TryStreamExt as _, stream};
use support::{Running, Stores, World, raw};

/// What shrinks a lot, and is longer than a piece.
fn text() -> Vec<u8> {
    b"what is said twice is said twice; ".repeat(20_000)
}

async fn whole(pieces: Pieces) -> Result<Vec<u8>, StoreError> {
    let join = |mut whole: Vec<u8>, piece| async move {
        if let Piece::Data(data) = piece {
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    };
    pieces.try_fold(Vec::new(), join).await
}

/// The answer to `GetObjects` as it is on the wire: data and frames in bytes.
async fn on_the_wire(world: &World, server: &Running, id: ObjectId, zstd: bool) -> (usize, usize) {
    let channel = raw(world, server, "ObjectServer.*", Role::ImageServer).await;
    let mut client = v1::object_server_client::ObjectServerClient::new(channel);
    let ids = Bytes::copy_from_slice(id.as_bytes());
    let request = stream::iter([v1::GetObjectsRequest { ids, offset: 0, zstd }]);
    let answer = client.get_objects(request).await.unwrap().into_inner();
    let count = |(data, frames), message: v1::ObjectPieces| async move {
        let lengths = message.pieces.into_iter().map(|piece| match piece.piece.unwrap() {
            Kind::Data(data) => (data.len(), 0),
            Kind::Zstd(frame) => (0, frame.len()),
            Kind::Begin(_) => (0, 0),
        });
        Ok(lengths.fold((data, frames), |(data, frames), (more, framed)| (data + more, frames + framed)))
    };
    answer.try_fold((0, 0), count).await.unwrap()
}

#[tokio::test]
async fn contents_are_compressed_for_those_who_ask_and_for_no_others() {
    let (world, stores) = (World::new(), Stores::new());
    let id = stores.objects.put(text());
    let server = world.serve("imageserver", stores.services()).await;
    assert_eq!(on_the_wire(&world, &server, id, false).await, (text().len(), 0));
    let (data, frames) = on_the_wire(&world, &server, id, true).await;
    assert!(data == 0 && (1..text().len() / 10).contains(&frames), "{data} {frames}");
    server.stop().await;
}

#[tokio::test]
async fn compressed_contents_arrive_as_they_were_both_ways() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let tls = world.tls("author", "ObjectServer.*");
    let objects = RemoteObjects::connect(&tls, &server.at()).await.unwrap().compressing(Compression::Zstd);
    let own = MemoryObjects::default();
    let id = own.put(text());
    let added = objects.push(&[(id, text().len() as u64)], &own).await.unwrap();
    assert_eq!(added.iter().map(|object| object.id()).collect::<Vec<_>>(), [id]);
    assert_eq!(stores.objects.bytes(&id).unwrap(), text());
    assert_eq!(whole(objects.objects(vec![id]).await.unwrap()).await.unwrap(), text());
    // Pieces are compressed each by itself: any of them may be the first.
    let offset = Piece::MAX_DATA + 1000;
    let rest = whole(objects.rest(id, offset as u64).await.unwrap()).await.unwrap();
    assert_eq!(rest, text()[offset..]);
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_says_it_holds_more_than_a_piece_is_not_taken_in() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let channel = raw(&world, &server, "ObjectServer.*", Role::ImageServer).await;
    let zeros = vec![0; 64 * 1024 * 1024];
    let id = Bytes::copy_from_slice(ObjectId::of(&zeros).as_bytes());
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    assert!(bomb.len() < 10_000);
    let pieces =
        [Kind::Begin(v1::ObjectBegin { id, size: zeros.len() as u64, offset: 0 }), Kind::Zstd(bomb.into())];
    let pieces = pieces.map(|piece| v1::ObjectPiece { piece: Some(piece) }).into();
    let part = v1::add_objects_request::Part::Pieces(v1::ObjectPieces { pieces });
    let mut client = v1::object_server_client::ObjectServerClient::new(channel);
    let request = stream::iter([v1::AddObjectsRequest { part: Some(part) }]);
    let status = client.add_objects(request).await.unwrap().into_inner().message().await.unwrap_err();
    assert!(status.message().contains("a frame that does not say that it holds"), "{status:?}");
    assert_eq!(stores.objects.bytes(&ObjectId::of(&zeros)), None);
    server.stop().await;
}

#[tokio::test]
async fn an_address_gets_and_sends_no_faster_than_the_server_allows() {
    let world = World::new();
    let rate = NonZeroU64::new(4_000_000).unwrap();
    let objects = std::sync::Arc::new(MemoryObjects::default());
    let id = objects.put(vec![7; 2_000_000]);
    let services = Services::new("test").transfer_rate(rate).objects(objects);
    let server = world.serve("imageserver", services).await;
    let tls = world.tls("author", "ObjectServer.*");
    // Two connections have no more than one.
    let [one, other] =
        [RemoteObjects::connect(&tls, &server.at()).await, RemoteObjects::connect(&tls, &server.at()).await]
            .map(Result::unwrap);
    let begun = Instant::now();
    let get = async |from: &RemoteObjects| whole(from.objects(vec![id]).await.unwrap()).await.unwrap().len();
    let lengths = futures_util::future::join(get(&one), get(&other)).await;
    assert_eq!(lengths, (2_000_000, 2_000_000));
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?} for a second's bytes", begun.elapsed());
    let begun = Instant::now();
    let own = MemoryObjects::default();
    let mine = own.put(vec![8; 4_000_000]);
    one.push(&[(mine, 4_000_000)], &own).await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(600), "{:?} for a second's bytes", begun.elapsed());
    server.stop().await;
}

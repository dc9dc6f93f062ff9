//! An object store behind mutual TLS: a server with a store on the disk, and clients whose certificates list what they
//! may do there. No more than that is done for them.
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use dominator_core::auth::MethodPattern;
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectStore, Piece, Pieces, StoreError};
use dominator_fs::store::objects;
use dominator_fs::store::ports::LocalObjects;
use dominator_pki::Trust;
use dominator_pki::ca::{Authority, Leaf};
use dominator_rpc::client::{RemoteObjects, verified};
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use futures_util::{TryStreamExt, stream};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = Authority::create("Example authority", SystemTime::now())?;
    let directory = tempfile::tempdir()?;
    let store = LocalObjects::new(objects::ObjectStore::open(&directory.path().join("objects"))?);
    let services = Services::new("1.0").objects(Arc::new(store));
    // The name in the certificate is that of a part in the system: clients talk to an image server only.
    let own = tls(&authority, &authority, "imageserver", "")?;
    let server = Server::bind(([127, 0, 0, 1], 0).into(), own, services).await?;
    let (address, metrics) = (server.local_address().to_string(), server.metrics());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));

    let alice = tls(&authority, &authority, "alice", "ObjectServer.AddObjects,ObjectServer.GetObjects")?;
    add_and_read(&RemoteObjects::connect(&alice, &address).await?).await?;

    let elsewhere = Authority::create("Another authority", SystemTime::now())?;
    let mallory = tls(&authority, &elsewhere, "mallory", "*.*")?;
    println!("mallory checks: {}", told(check(&mallory, &address).await));
    println!("alice checks: {}", told(check(&alice, &address).await));
    println!("refused: {} connections, {} calls", metrics.connections_refused(), metrics.calls_denied());

    drop(stop);
    Ok(serving.await??)
}

/// A client is an `ObjectStore` like the one on the disk: what takes one takes the other.
async fn add_and_read(store: &dyn ObjectStore) -> Result<(), Box<dyn Error>> {
    let contents = ["Welcome.\n", "root:x:0:0:root:/root:/bin/sh\n"].map(Bytes::from);
    let pieces = contents.clone().into_iter().flat_map(|bytes| {
        let begin = Piece::Begin { id: ObjectId::of(&bytes), size: bytes.len() as u64 };
        [Ok(begin), Ok(Piece::Data(bytes))]
    });
    for kept in store.add(Pieces::new(stream::iter(pieces.collect::<Vec<_>>()))).await? {
        println!("kept {}, {} bytes", kept.id(), kept.size());
    }
    for bytes in &contents {
        println!("read {:?}", read(store, ObjectId::of(bytes)).await?);
    }
    println!("alice reads what nobody added: {}", told(read(store, ObjectId::of(b"nothing")).await));
    Ok(())
}

/// Hashed on the way: what a server sends is a claim.
async fn read(store: &dyn ObjectStore, id: ObjectId) -> Result<String, StoreError> {
    let mut pieces = verified(store.objects(vec![id]).await?);
    let mut text = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        if let Piece::Data(bytes) = piece {
            text.extend_from_slice(&bytes);
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn check(tls: &Tls, address: &str) -> Result<String, StoreError> {
    let sizes = RemoteObjects::connect(tls, address).await?.sizes(&[ObjectId::of(b"Welcome.\n")]).await?;
    Ok(format!("{sizes:?}"))
}

/// Whom `trusted` has signed is believed; this end shows a certificate of `signer` for `user`.
fn tls(trusted: &Authority, signer: &Authority, user: &str, methods: &str) -> Result<Tls, Box<dyn Error>> {
    let trust = Trust::new(vec![trusted.certificate_der().clone()], Vec::new())?;
    let leaf = Leaf::new(user)?.methods(MethodPattern::parse_list(methods)?);
    Ok(Tls::new(trust, signer.issue_credentials(&leaf, SystemTime::now())?)?)
}

/// What came, or why not, with all causes.
fn told(result: Result<String, StoreError>) -> String {
    match result {
        Ok(answer) => answer,
        Err(error) => {
            let causes = std::iter::successors(Some(&error as &dyn Error), |error| (*error).source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        }
    }
}

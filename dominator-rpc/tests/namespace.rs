//! Directories of images over the network: every call and every error arrives whole, names are checked at the door, and
//! powers end with the scope of a certificate.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, unreachable_pub, missing_docs)]

mod support;

use dominator_core::auth::Role;
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use dominator_core::port::{ImageError, ImageStore, Parents};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::client::RemoteImages;
use dominator_rpc::transport::Tls;
use dominator_rpc::v1::image_server_client::ImageServerClient;
use dominator_rpc::v1::{ChownDirectoryRequest, DirectoryRequest, MakeDirectoryRequest};
use support::{Running, Stores, World, raw};
use tonic::Code;

fn directory(name: &str) -> DirectoryName {
    name.parse().unwrap()
}

fn group(name: &str) -> Option<GroupName> {
    Some(name.parse().unwrap())
}

async fn connect(tls: &Tls, server: &Running) -> RemoteImages {
    RemoteImages::connect(tls, &server.at()).await.unwrap()
}

#[tokio::test]
async fn directories_are_the_same_from_afar_and_so_are_their_errors() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let remote = connect(&world.tls("root", "ImageServer.*"), &server).await;
    let (web, front, none) = (directory("web"), directory("web/front"), directory("none"));
    remote.make_directory(&web, Parents::Required).await.unwrap();
    remote.chown_directory(&web, group("web admins")).await.unwrap();
    remote.make_directory(&front, Parents::Made).await.unwrap();
    let found = remote.directory(&front).await.unwrap();
    assert_eq!(found, ImageDirectory { name: front.clone(), owner_group: group("web admins") });
    remote.chown_directory(&front, None).await.unwrap();
    let near = stores.images.directories().await.unwrap();
    assert_eq!(remote.directories().await.unwrap(), near);
    assert_eq!(near.len(), 3);
    let said = remote.make_directory(&web, Parents::Required).await;
    assert!(matches!(said, Err(ImageError::DirectoryExists { name }) if name == web));
    let said = remote.make_directory(&directory("none/1"), Parents::Required).await;
    assert!(matches!(said, Err(ImageError::NoDirectory { name }) if name == none));
    assert!(matches!(remote.directory(&none).await, Err(ImageError::NoDirectory { name }) if name == none));
    let said = remote.delete_directory(&web).await;
    assert!(matches!(said, Err(ImageError::DirectoryNotEmpty { name }) if name == web));
    remote.delete_directory(&front).await.unwrap();
    let tree = tree_of(&[]);
    stores.objects.put_tree(&tree);
    remote.add(&"web/new/1".parse().unwrap(), image_of(&tree)).await.unwrap();
    let inherited = remote.directory(&directory("web/new")).await.unwrap();
    assert_eq!(inherited.owner_group, group("web admins"));
    server.stop().await;
}

#[tokio::test]
async fn no_name_that_leads_elsewhere_comes_in() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let channel = raw(&world, &server, "ImageServer.*", Role::ImageServer).await;
    let mut client = ImageServerClient::new(channel);
    for name in ["", "..", "../etc", "a/..", "/a", "a//b", "a/", ".metadata", "a/.lock", "a~", "a\0b", "a\nb"]
    {
        let name = name.to_owned();
        let answers = [
            client.check_directory(DirectoryRequest { name: name.clone() }).await.err(),
            client.delete_directory(DirectoryRequest { name: name.clone() }).await.err(),
            client.make_directory(MakeDirectoryRequest { name: name.clone(), parents: true }).await.err(),
            client
                .chown_directory(ChownDirectoryRequest { name: name.clone(), owner_group: "g".into() })
                .await
                .err(),
        ];
        for answer in answers {
            assert_eq!(answer.map(|status| status.code()), Some(Code::InvalidArgument), "{name:?}");
        }
    }
    let name = ".".to_owned();
    for owner_group in ["a\nb", " a", "a,b"].map(str::to_owned) {
        let answer = client.chown_directory(ChownDirectoryRequest { name: name.clone(), owner_group }).await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(stores.images.directories().await.unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn powers_over_directories_end_below_those_a_certificate_names() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let root = connect(&world.tls("root", "ImageServer.*"), &server).await;
    for name in ["web", "base"] {
        root.make_directory(&directory(name), Parents::Required).await.unwrap();
    }
    let credentials = world.credentials_at_images("alice", "ImageServer.*", "web");
    let alice = connect(&Tls::new(world.trust(), credentials).unwrap(), &server).await;
    alice.make_directory(&directory("web/new"), Parents::Required).await.unwrap();
    alice.chown_directory(&directory("web/new"), group("web")).await.unwrap();
    alice.delete_directory(&directory("web/new")).await.unwrap();
    let denied = [
        alice.make_directory(&directory("base/new"), Parents::Required).await,
        alice.make_directory(&directory("new"), Parents::Required).await,
        alice.chown_directory(&directory("web"), group("mine")).await,
        alice.chown_directory(&directory("."), group("mine")).await,
        alice.delete_directory(&directory("base")).await,
        alice.delete_directory(&directory("web")).await,
    ];
    for (number, answer) in denied.into_iter().enumerate() {
        assert!(matches!(answer, Err(ImageError::Denied(_))), "{number}: {answer:?}");
    }
    // What everybody may see she may see as well.
    assert_eq!(alice.directories().await.unwrap().len(), 3);
    alice.directory(&directory("base")).await.unwrap();
    server.stop().await;
}

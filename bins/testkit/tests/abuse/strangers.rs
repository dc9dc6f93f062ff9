//! Those who have no certificate, or show none.

use std::time::Duration;

use dominator_rpc::limits;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::GROWTH;
use super::scene::{Scene, until_closed};

/// From how many addresses they come.
const ADDRESSES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_sockets_that_say_nothing_keep_nobody_out_and_are_closed() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            let mut silent = JoinSet::new();
            for number in 0..5000 {
                let socket = scene.stranger(number % ADDRESSES);
                silent.spawn(async move { until_closed(&mut socket.await?).await });
            }
            silent.join_all().await.len()
        })
        .await;
    assert_eq!(seen.of_attack, 5000, "all of them were closed");
    // Those that are being shaken hands with, those that just were, and what a server has open otherwise.
    assert!(seen.descriptors <= limits::HANDSHAKES + 128, "{seen:?}");
    assert!(seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_that_come_a_byte_a_second_and_handshakes_left_half_way_are_cut_off() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            let mut slow = JoinSet::new();
            for number in 0..600 {
                let (socket, hello) = (scene.stranger(number % ADDRESSES), scene.hello());
                slow.spawn(async move {
                    let (mut read, mut write) = socket.await?.into_split();
                    // Half of them say all of it, and no more after that.
                    let step = if number % 2 == 0 { 1 } else { hello.len() };
                    let drip = async {
                        let mut ticks = interval(Duration::from_secs(1));
                        for bytes in hello.chunks(step) {
                            ticks.tick().await;
                            write.write_all(bytes).await?;
                        }
                        std::future::pending().await
                    };
                    tokio::select! {
                        closed = until_closed(&mut read) => closed,
                        failed = drip => failed,
                    }
                });
            }
            slow.join_all().await;
        })
        .await;
    assert!(seen.descriptors <= 600 + 128 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_answered_by_an_end() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            for round in 0..20 {
                let mut loud = JoinSet::new();
                for number in 0..100_usize {
                    let socket = scene.stranger(number % ADDRESSES);
                    let noise: Vec<u8> = match number % 4 {
                        0 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                        // A record that is as long as one can be, and another of a version there is not.
                        1 => [&[22, 3, 1, 0xff, 0xff][..], &[round; 2000]].concat(),
                        2 => [&[22, 9, 9, 0, 5][..], &[1; 5]].concat(),
                        _ => (0..4000_usize).map(|at| (at * 31 + number) as u8).collect(),
                    };
                    loud.spawn(async move {
                        let mut socket = socket.await?;
                        // It may be closed before all of it was said.
                        socket.write_all(&noise).await.ok();
                        socket.shutdown().await.ok();
                        until_closed(&mut socket).await
                    });
                }
                loud.join_all().await;
            }
        })
        .await;
    assert!(seen.descriptors <= 256 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

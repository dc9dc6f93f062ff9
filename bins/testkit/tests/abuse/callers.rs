//! Those who have a good certificate.

use std::time::Duration;

use dominator_rpc::limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::GROWTH;
use super::frames::{
    CONTINUATION, END_HEADERS, HEADERS, PING, RST_STREAM, frame, headers, request, settings,
};
use super::scene::{Scene, Socket, until_closed};

/// More calls than anybody may begin for nothing.
const ENDLESS: u32 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_are_not_listened_to() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            for _ in 0..20 {
                let mut caller = scene.caller().await;
                let first = frame(HEADERS, 0, 1, &headers(&[]));
                let more = frame(CONTINUATION, 0, 1, &headers(&[("x-more", &"x".repeat(16_000))]));
                let endless = async {
                    caller.write.write_all(&first).await?;
                    loop {
                        caller.write.write_all(&more).await?;
                    }
                };
                // Written to the end only if it is not.
                let ended: std::io::Result<()> = tokio::select! {
                    ended = endless => ended,
                    closed = until_closed(&mut caller.read) => closed,
                };
                drop(ended);
            }
            // One header that is too long is refused alone; the connection may be used on.
            let mut caller = scene.caller().await;
            let long = headers(&[("x-long", &"x".repeat(15_900))]);
            for (number, stream) in (1_u32..).step_by(2).take(50).enumerate() {
                let (flags, rest) = if number % 2 == 0 { (END_HEADERS, 0) } else { (0, 2) };
                caller.write.write_all(&frame(HEADERS, flags, stream, &long)).await.unwrap();
                for left in (0..rest).rev() {
                    let flags = if left == 0 { END_HEADERS } else { 0 };
                    caller.write.write_all(&frame(CONTINUATION, flags, stream, &long)).await.unwrap();
                }
            }
            caller.ping().await
        })
        .await;
    seen.of_attack.as_ref().unwrap();
    assert!(seen.descriptors <= 64 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_begun_and_reset_at_once_end_the_connection() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            let mut most = 0;
            for _ in 0..10 {
                let mut caller = scene.caller().await;
                let mut begun = 0_u32;
                let reset = async {
                    while begun < ENDLESS {
                        let stream = begun * 2 + 1;
                        // A call that waits for its request, as most do.
                        let call = frame(HEADERS, END_HEADERS, stream, &request("ImageServer/GetImage"));
                        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                        caller.write.write_all(&[call, reset].concat()).await?;
                        begun += 1;
                    }
                    Ok(())
                };
                let ended: std::io::Result<()> = tokio::select! {
                    ended = reset => ended,
                    closed = until_closed(&mut caller.read) => closed,
                };
                drop(ended);
                most = most.max(begun);
            }
            most
        })
        .await;
    // What is on its way when the end is decided was begun, too.
    assert!(seen.of_attack < ENDLESS, "{seen:?}");
    assert!(seen.descriptors <= 64 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_drips_headers_after_a_good_handshake_is_cut_off() {
    let scene = Scene::new().await;
    let patience = limits::KEEPALIVE + limits::KEEPALIVE_ANSWER;
    let seen = scene
        .while_healthy(async {
            let mut slow = JoinSet::new();
            for number in 0..100 {
                let mut caller = scene.caller().await;
                slow.spawn(async move {
                    let drip = async {
                        let mut ticks = interval(Duration::from_secs(1));
                        // Half of them begin a block of headers that goes on, half one long frame.
                        let announced = frame(HEADERS, END_HEADERS, 1, &[0; 10_000]);
                        let first = match number % 2 {
                            0 => frame(HEADERS, 0, 1, &headers(&[])),
                            _ => announced.into_iter().take(9).collect(),
                        };
                        caller.write.write_all(&first).await?;
                        loop {
                            ticks.tick().await;
                            match number % 2 {
                                0 => caller.write.write_all(&frame(CONTINUATION, 0, 1, &[])).await?,
                                _ => caller.write.write_all(&[0]).await?,
                            }
                            caller.write.flush().await?;
                        }
                    };
                    tokio::select! {
                        closed = until_closed(&mut caller.read) => closed,
                        failed = drip => failed,
                    }
                });
            }
            timeout(patience * 4, slow.join_all()).await.map(drop)
        })
        .await;
    seen.of_attack.as_ref().expect("all of them were cut off");
    assert!(seen.descriptors <= 100 + 64 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_settings_whose_answers_nobody_takes_take_no_memory() {
    let scene = Scene::new().await;
    let seen = scene
        .while_healthy(async {
            for flood in [frame(PING, 0, 0, &[7; 8]), settings()] {
                let mut caller: Socket = scene.caller().await;
                let flood = flood.repeat(1000);
                let mut written = 0;
                // As soon as the answers are stuck, nothing more is heard.
                while let Ok(Ok(())) = timeout(Duration::from_secs(2), caller.write.write_all(&flood)).await {
                    written += flood.len();
                    if written > 64 * 1024 * 1024 {
                        break;
                    }
                }
                // What it had to say until then is still there.
                caller.read.read_u8().await.unwrap();
            }
        })
        .await;
    assert!(seen.descriptors <= 64 && seen.growth <= GROWTH, "{seen:?}");
    scene.settles().await;
}

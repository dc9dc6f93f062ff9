//! Those who do not speak TLS.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::journal::Journal;
use crate::people::World;
use crate::run::{asked, good_server, raw};
use crate::services::Service;
use crate::support::serve;

#[tokio::test]
async fn whoever_speaks_in_the_clear_is_not_answered() {
    let journal = Journal::open();
    let words: [&[u8]; 4] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"CONNECT /_goSRPC_/ HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for service in Service::ALL {
        let world = World::new();
        let server = serve(world.tls(&good_server(&world, service)), service.served()).await;
        let bystander = raw(&world, service, &server, &world.member("bystander", "")).await.unwrap();
        for word in words {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(word).await.unwrap();
            let mut answer = Vec::new();
            // The end may be a reset: there were bytes nobody has read.
            drop(stream.read_to_end(&mut answer).await);
            // An alert in TLS and nothing else: its kind, its version, its length of two, fatal, what.
            assert!(matches!(answer.as_slice(), [] | [21, 3, _, 0, 2, 2, _]), "{service:?}: {answer:?}");
            let logged = "WARN connection refused peer=… reason=it does not speak TLS";
            assert_eq!(journal.take(1).await, [logged], "{service:?}: {word:?}");
        }
        assert_eq!(asked(&bystander, "Introspection.ListMethods").await, Ok(()), "{service:?}");
        server.stop().await;
    }
}

//! Looking at a server that nobody vouches for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use dominator_pki::{PkiError, glance};
use rustls::{ServerConfig, ServerConnection};
use support::*;

/// What a client sees of `answer`, and what `answer` gives back.
fn look<T: Send>(
    host: &str,
    answer: impl FnOnce(UnixStream) -> T + Send,
) -> (Result<Vec<rustls::pki_types::CertificateDer<'static>>, PkiError>, T) {
    let (mut near, far) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let far = scope.spawn(|| answer(far));
        let seen = glance(host, &mut near);
        drop(near);
        (seen, far.join().unwrap())
    })
}

#[test]
fn the_chain_of_any_server_is_seen_and_the_handshake_never_ends() {
    let stranger = forge(&params("stranger"), &issuer(&authority("Nobody")));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(stranger.chain.clone(), stranger.key_der())
        .unwrap();
    let config = Arc::new(config);
    for host in ["localhost", "127.0.0.1", "::1"] {
        let (seen, through) = look(host, |mut stream| {
            let mut server = ServerConnection::new(config.clone()).unwrap();
            // An error either way: the client is gone when the server would thank it.
            drop(server.complete_io(&mut stream));
            !server.is_handshaking()
        });
        assert_eq!(seen.unwrap(), stranger.chain);
        assert!(!through, "the server must not have got through");
    }
}

#[test]
fn whoever_speaks_no_tls_has_shown_nothing() {
    let answers: [&[u8]; 4] =
        [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0; 4096], &[0x16, 3, 3, 0xff, 0xff]];
    for answer in answers {
        let (seen, ()) = look("localhost", |mut stream| stream.write_all(answer).unwrap());
        assert!(matches!(seen, Err(PkiError::NoChain { .. })), "{answer:?}");
    }
    let (seen, ()) = look("not a name", |_| ());
    assert!(matches!(seen, Err(PkiError::NoChain { .. })));
}

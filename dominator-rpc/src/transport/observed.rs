use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::bounds::Bounds;
use super::conduct::{Conduct, End};
use super::pace::Pace;

/// How long the first words of HTTP/2 are, in bytes. Whoever has not said them is probed by nobody.
const FIRST_WORDS: usize = 24;

/// A peer's stream that ends when its conduct is not to be borne.
pub(super) struct Observed<S> {
    stream: S,
    conduct: Arc<Conduct>,
    ended: Pin<Box<dyn Future<Output = End> + Send>>,
    end: Option<End>,
    /// Until the first words have come: how many bytes of them did, and how long they may take.
    first_words: Option<(usize, Pin<Box<Sleep>>)>,
    /// How fast it takes what is sent.
    taking: Pace,
}

impl<S> Observed<S> {
    /// A stream whose end, should it come to that, is told by `tell`.
    pub(super) fn new(
        stream: S,
        conduct: Arc<Conduct>,
        bounds: &Bounds,
        tell: impl FnOnce(End) + Send + 'static,
    ) -> Self {
        let watched = conduct.clone();
        let ended = Box::pin(async move {
            let end = watched.ended().await;
            tell(end);
            end
        });
        let first_words = Some((0, Box::pin(sleep(bounds.handshake))));
        let taking = Pace::new(bounds.stall, bounds.slowest);
        Self { stream, conduct, ended, end: None, first_words, taking }
    }

    /// An error once the connection has to end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let late = |(_, limit): &mut (usize, Pin<Box<Sleep>>)| limit.as_mut().poll(context).is_ready();
        if self.first_words.as_mut().is_some_and(late) {
            self.conduct.end(End::Silent);
        }
        if self.end.is_none()
            && let Poll::Ready(why) = self.ended.as_mut().poll(context)
        {
            self.end = Some(why);
        }
        match self.end {
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)),
            None => Ok(()),
        }
    }

    /// Whoever takes nothing is not waited for for ever: nothing is read meanwhile, so no probe finds it out.
    fn poll_taken<T>(
        &mut self,
        context: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &taken {
            Poll::Ready(Ok(count)) => self.taking.came(bytes(count)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.taking.poll_wait(context).is_ready() {
                    self.conduct.end(End::Deaf);
                }
                self.poll_end(context)?;
            }
        }
        taken
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_end(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if let Some((heard, _)) = &mut this.first_words {
            *heard += buffer.filled().len().saturating_sub(before);
            if *heard >= FIRST_WORDS {
                this.first_words = None;
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.poll_taken(context, taken, |count| *count)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let taken = Pin::new(&mut this.stream).poll_flush(context);
        this.poll_taken(context, taken, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let taken = Pin::new(&mut this.stream).poll_shutdown(context);
        this.poll_taken(context, taken, |()| 0)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        this.poll_taken(context, taken, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    fn observed() -> (Observed<DuplexStream>, DuplexStream, Bounds) {
        let bounds = Bounds::default();
        let (near, far) = duplex(64);
        let conduct = Arc::new(Conduct::new(1));
        (Observed::new(near, conduct, &bounds, |_| ()), far, bounds)
    }

    fn why<T: std::fmt::Debug>(result: io::Result<T>) -> End {
        *result.unwrap_err().get_ref().unwrap().downcast_ref().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_drips_its_first_words_has_to_go() {
        for words in [0, FIRST_WORDS - 1] {
            let ((mut near, mut far, bounds), begun) = (observed(), Instant::now());
            let mut heard = vec![0; FIRST_WORDS];
            far.write_all(&heard[..words]).await.unwrap();
            assert_eq!(why(near.read_exact(&mut heard).await), End::Silent);
            assert_eq!(begun.elapsed(), bounds.handshake);
        }
        // Who has said them may be silent for as long as it likes: it is probed.
        let (mut near, mut far, bounds) = observed();
        let mut heard = vec![0; FIRST_WORDS];
        far.write_all(&heard).await.unwrap();
        near.read_exact(&mut heard).await.unwrap();
        assert!(timeout(bounds.handshake * 1000, near.read_u8()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_has_to_go() {
        let ((mut near, mut far, bounds), begun) = (observed(), Instant::now());
        far.write_all(&[0; FIRST_WORDS]).await.unwrap();
        near.read_exact(&mut [0; FIRST_WORDS]).await.unwrap();
        assert_eq!(why(near.write_all(&[0; 65]).await), End::Deaf);
        assert_eq!(begun.elapsed(), bounds.stall);
        assert_eq!(why(near.read_u8().await), End::Deaf, "nothing more is read");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_at_a_time_has_to_go_and_who_takes_enough_may_stay() {
        for (each, stays) in [(64, false), (2048, true)] {
            let (mut near, mut far, bounds) = observed();
            far.write_all(&[0; FIRST_WORDS]).await.unwrap();
            near.read_exact(&mut [0; FIRST_WORDS]).await.unwrap();
            let takes = async {
                let mut room = vec![0; each];
                loop {
                    far.read_exact(&mut room).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let gives = async { near.write_all(&vec![0; each * 400]).await };
            tokio::select! {
                () = takes => {}
                given = gives => match stays {
                    true => given.unwrap(),
                    false => assert_eq!(why(given), End::Deaf, "{bounds:?}"),
                },
            }
        }
    }
}

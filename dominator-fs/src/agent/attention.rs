//! Hears of the stop switch: whoever waits for news of a machine is told at once that somebody stopped it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Shared, switch};

/// A thread that waits for the switch to be set or taken back. It ends when this is dropped.
pub(super) struct Attention {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Attention {
    /// Begins to listen in the state directory. Where that can't be done the switch is looked at when somebody asks, and
    /// before services are stopped, as in any case.
    pub(super) fn start(shared: &Arc<Shared>, state: &Path) -> Option<Self> {
        let started = Self::listening(shared, state);
        started.inspect_err(|error| tracing::info!(%error, "the stop switch is not heard of")).ok()
    }

    fn listening(shared: &Arc<Shared>, state: &Path) -> io::Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&queue, state, changes | WatchFlags::ONLYDIR)?;
        let end = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let (ended, theirs) = (Arc::clone(&end), Arc::clone(shared));
        let listen = move || {
            // From before this thread was there.
            theirs.look_at_the_switch();
            if let Err(error) = listen(&queue, &ended, || drop(theirs.look_at_the_switch())) {
                tracing::warn!(%error, "the stop switch is not heard of any more");
            }
        };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(listen)?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        // It can't fail: nobody else counts it up.
        rustix::io::write(&*self.end, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}

/// Looks whenever something was done to the switch, until the end is told.
fn listen(queue: &OwnedFd, end: &OwnedFd, look: impl Fn()) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let mut fds = [PollFd::new(end, PollFlags::IN), PollFd::new(queue, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [told, _] = &fds;
        if !told.revents().is_empty() {
            return Ok(());
        }
        if is_concerned(queue, &mut buffer)? {
            look();
        }
    }
}

/// Whether the switch is among what happened. The agent's own files are in the same directory.
fn is_concerned(queue: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<bool> {
    let mut events = inotify::Reader::new(queue.as_fd(), buffer);
    let mut concerned = false;
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                return Err(io::Error::other("the state directory is gone"));
            }
            Ok(event) => {
                let is_switch =
                    event.file_name().is_some_and(|name| name.to_bytes() == switch::NAME.as_bytes());
                concerned |= is_switch || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            }
            Err(Errno::AGAIN) => return Ok(concerned),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

//! What a thread cost: blocks it really read, and its time on a processor.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use rustix::time::{ClockId, clock_gettime};

use super::Priority;

/// Tells pacers apart, as a thread may work under one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacerId(u64);

impl PacerId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a thread cost since it was charged last.
#[derive(Debug)]
pub(super) struct Cost {
    /// When that was, since the pacer began.
    pub(super) since: Duration,
    /// Bytes read from block devices.
    pub(super) read: u64,
    /// Time on a processor.
    pub(super) cpu: Duration,
}

/// Begins to count this thread.
pub(super) fn begin(pacer: PacerId, now: Duration) {
    METER.set(Some(Meter { pacer, at: now, counters: Counters::of_this_thread() }));
}

/// What this thread cost; nothing when it was not counted for this pacer, which it now is. The next cost is counted from
/// here.
pub(super) fn cost(pacer: PacerId, now: Duration) -> Option<Cost> {
    let counters = Counters::of_this_thread();
    let before =
        METER.replace(Some(Meter { pacer, at: now, counters })).filter(|meter| meter.pacer == pacer)?;
    Some(Cost {
        since: before.at,
        read: counters.read.saturating_sub(before.counters.read),
        cpu: counters.cpu.saturating_sub(before.counters.cpu),
    })
}

/// How many bytes this thread ever read from block devices; what the page cache had is not among them, what was read
/// ahead because of it is.
pub(super) fn read_by_this_thread() -> u64 {
    // The kernel counts in blocks of 512 bytes, whatever the device's are.
    const BLOCK: u64 = 512;
    let blocks = getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.block_reads());
    u64::try_from(blocks).unwrap_or(0).saturating_mul(BLOCK)
}

/// Gives this thread `priority`, as far as it may have it.
pub(super) fn take_priority(priority: Priority) {
    match priority {
        Priority::Inherited => {}
        Priority::Background => {
            // Without a process, Linux means the calling thread, not its process.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "this thread can't be made nice");
            }
            if let Err(error) = idle_class() {
                tracing::debug!(%error, "this thread can't leave the disk to others");
            }
        }
    }
}

/// As nice as the scans of other such agents are.
const NICE: i32 = 15;

thread_local!(static METER: Cell<Option<Meter>> = const { Cell::new(None) });

#[derive(Clone, Copy)]
struct Meter {
    pacer: PacerId,
    at: Duration,
    counters: Counters,
}

#[derive(Clone, Copy)]
struct Counters {
    read: u64,
    cpu: Duration,
}

impl Counters {
    /// A thread that can't be looked at, which no kernel does, costs nothing.
    fn of_this_thread() -> Self {
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Self { read: read_by_this_thread(), cpu: Duration::try_from(cpu).unwrap_or(Duration::ZERO) }
    }
}

/// Lets this thread have the disk only when nobody else wants it.
fn idle_class() -> nix::Result<()> {
    use nix::libc::{SYS_ioprio_set, c_int, syscall};
    const WHO_PROCESS: c_int = 1;
    const THIS_THREAD: c_int = 0;
    const CLASS_IDLE: c_int = 3 << 13;
    // SAFETY: the call takes three numbers and no memory of ours. No crate in use has a wrapper for it.
    #[expect(unsafe_code, reason = "no crate in use has a wrapper for ioprio_set")]
    let outcome = unsafe { syscall(SYS_ioprio_set, WHO_PROCESS, THIS_THREAD, CLASS_IDLE) };
    nix::errno::Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_charged_for_its_own_work_and_for_nothing_before_it_entered() {
        let pacer = PacerId::next();
        let at = Duration::from_secs;
        let work = || {
            let begin = Counters::of_this_thread().cpu;
            while Counters::of_this_thread().cpu - begin < Duration::from_millis(2) {}
        };
        std::thread::spawn(move || {
            work();
            assert!(cost(pacer, at(1)).is_none());
            work();
            let charged = cost(pacer, at(2)).unwrap();
            assert_eq!(charged.since, at(1));
            assert!(charged.cpu >= Duration::from_millis(2));
            std::thread::scope(|scope| scope.spawn(work).join().unwrap());
            let another_threads = cost(pacer, at(3)).unwrap();
            assert!(another_threads.cpu < Duration::from_millis(2), "{another_threads:?}");
            assert!(cost(PacerId::next(), at(3)).is_none());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_background_thread_is_nice_and_idle_and_no_other_thread_is() {
        let of_this_thread = || {
            let nice = rustix::process::getpriority_process(None).unwrap();
            // SAFETY: as above: two numbers.
            #[expect(unsafe_code, reason = "no crate in use has a wrapper for ioprio_get")]
            let io = unsafe { nix::libc::syscall(nix::libc::SYS_ioprio_get, 1, 0) };
            (nice, io >> 13)
        };
        let before = of_this_thread();
        let inside = std::thread::spawn(move || {
            take_priority(Priority::Inherited);
            assert_eq!(of_this_thread(), before);
            take_priority(Priority::Background);
            of_this_thread()
        });
        assert_eq!(inside.join().unwrap(), (NICE, 3));
        assert_eq!(of_this_thread(), before);
    }
}

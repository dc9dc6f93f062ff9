//! Scans keep to their share of the disk and of the processors, by the kernel's own accounts. Needs root, and takes
//! some twenty seconds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::view::View;
use dominator_fs::pace::{DiskSpeed, Limits, Pacer, Share, SpeedSource};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs_testkit::{Disk, Throttle, left_out, mount_overlay, unmount, with_mounts};
use nix::sys::resource::{UsageWho, getrusage};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More than one, so that a budget for each of them would be noticed.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Files of 64 KiB that sum up to `total`.
fn fill(dir: &Path, total: u64) {
    fs::create_dir(dir).unwrap();
    for number in 0..total / (64 * KIB) {
        let words = (0..64 * KIB / 8).map(|word| word ^ number << 32);
        fs::write(dir.join(number.to_string()), words.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
            .unwrap();
    }
}

/// Scans everything below `dir`, and says how much of that was hashed.
fn scan(dir: &Path, pacer: &Arc<Pacer>) -> u64 {
    let scanner = Scanner::new(Root::open(dir).unwrap(), Arc::new(View::everything())).threads(THREADS);
    scanner.pace(Arc::clone(pacer)).scan(&Cancel::default()).unwrap().bytes_hashed
}

/// The mount is its own disk, so nobody but this test reads from it, and it is this thread's group that is slow.
#[test]
fn a_share_of_the_disk_is_a_share_of_what_is_really_read_from_it() {
    const TEST: &str = "a_share_of_the_disk_is_a_share_of_what_is_really_read_from_it";
    const THROTTLE: u64 = 40 * MIB;
    with_mounts(TEST, || {
        let disk = match Disk::new(128 * MIB) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let shares = [(2, 5 * MIB), (10, 25 * MIB)];
        for (percent, total) in shares {
            fill(&disk.path().join(percent.to_string()), total);
            fill(&disk.path().join(format!("{percent}/cached")), total);
        }
        disk.forget();
        let _throttle = match Throttle::reads(&disk, THROTTLE) {
            Ok(throttle) => throttle,
            Err(why) => return left_out(TEST, &why),
        };
        let measured = measure(&disk);
        println!("{measured}; the controller allows {THROTTLE}");
        check("the speed that was measured", measured.speed.bytes() as f64, THROTTLE as f64);
        let of_files = measure_files(&disk);
        check("the speed of files", of_files.speed.bytes() as f64, THROTTLE as f64);
        for (percent, total) in shares {
            let share = measured.speed.share(Share::new(percent).unwrap());
            let pacer = Arc::new(Pacer::new(Limits { disk: Some(share), ..Limits::default() }));
            scan(&disk.path().join(format!("{percent}/cached")), &Arc::default());
            let (began, before) = (Instant::now(), disk.bytes_read());
            let hashed = scan(&disk.path().join(percent.to_string()), &pacer);
            let (read, took) = (disk.bytes_read() - before, began.elapsed());
            println!("{percent} %: {hashed} bytes hashed, {read} read in {took:?}");
            assert_eq!(hashed, 2 * total, "half of it was in the page cache");
            // With what is read ahead, and what a kernel that is short of memory, or tidy, drove out of the cache.
            assert!((total..total + total / 2).contains(&read));
            check(&format!("{percent} %"), read as f64 / took.as_secs_f64(), share.bytes() as f64);
        }
    });
}

/// The speed of the device, and that it is measured once.
fn measure(disk: &Disk) -> DiskSpeed {
    let (root, home) = (Root::open(&disk.path()).unwrap(), tempfile::tempdir().unwrap());
    let home = fs::File::open(home.path()).unwrap();
    let speed = || DiskSpeed::remembered(&root, home.as_fd(), b"disk.speed").unwrap();
    let (before, measured, read) = (disk.bytes_read(), speed(), disk.bytes_read());
    assert!(matches!(&measured.source, SpeedSource::Device { node } if node == disk.device()));
    assert!(read > before);
    let again = speed();
    assert!(matches!(&again.source, SpeedSource::Remembered { node } if node == disk.device()));
    assert_eq!((again.speed, disk.bytes_read()), (measured.speed, read));
    measured
}

/// The speed as files show it, where a root is on no device.
fn measure_files(disk: &Disk) -> DiskSpeed {
    let overlay = tempfile::tempdir().unwrap();
    let of_disk = |name| disk.path().join(name).display().to_string();
    mount_overlay(overlay.path(), &[&of_disk("2"), &of_disk("10")]);
    let measured = DiskSpeed::measure(&Root::open(overlay.path()).unwrap()).unwrap();
    unmount(overlay.path());
    println!("{measured}");
    assert!(matches!(measured.source, SpeedSource::Files { .. }));
    measured
}

fn check(what: &str, rate: f64, aim: f64) {
    println!("{what}: {rate:.0} bytes/s where {aim:.0} was the aim: {:+.1} %", (rate / aim - 1.0) * 100.0);
    // A machine that is busy with something else is slower than it may be, which is nobody's fault. That all of a share is
    // taken is shown in a time of its own, in `dominator_fs::pace`.
    assert!(rate <= aim * 1.15, "{what}: more than may be");
}

/// How much this process has worked, on all its threads.
fn worked() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    time(usage.user_time()) + time(usage.system_time())
}

#[test]
fn all_threads_together_stay_below_their_share_of_the_processors() {
    const TEST: &str = "all_threads_together_stay_below_their_share_of_the_processors";
    // By itself: the account is of the whole process, in which other tests would run.
    if std::env::var_os("ALONE").is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env("ALONE", "1")
            .status();
        assert!(alone.unwrap().success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("cached"), 64 * MIB);
    scan(dir.path(), &Arc::default());
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    // Of shares that one thread can exceed.
    let mut shares = [1, 5, 20, 40].map(|percent| (percent, f64::from(percent) * cores / 100.0)).to_vec();
    shares.retain(|(_, share)| (0.05..0.9).contains(share));
    if shares.is_empty() {
        left_out(TEST, "one thread can't exceed a hundredth of so many processors");
    }
    for (percent, share) in shares {
        let pacer = Arc::new(Pacer::new(Limits { cpu: Share::new(percent), ..Limits::default() }));
        // What may be used at once at the beginning is no rate.
        scan(dir.path(), &pacer);
        let (began, before) = (Instant::now(), worked());
        // So much work that two seconds pass at the share.
        while worked() - before < Duration::from_secs_f64(2.0 * share) {
            assert_eq!(scan(dir.path(), &pacer), 64 * MIB);
        }
        let used = (worked() - before).as_secs_f64() / began.elapsed().as_secs_f64();
        println!("{percent} % of {cores} processors: used {used:.3} of one where {share:.3} is allowed");
        // The account is looked at after a piece of work, so that the last one may not have been waited for.
        assert!(used <= share * 1.05, "{percent} %");
    }
}

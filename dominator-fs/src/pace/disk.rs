//! How fast the disk behind a root reads, so that a share of it can be had.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dominator_core::inode::Mode;
use thiserror::Error;

use super::device::Device;
use super::direct::DirectBuffer;
use super::{BytesPerSecond, sample};
use crate::publish::{self, Replace};
use crate::root::{Root, open_file};
use crate::seam::{At, Kernel};

/// How fast a disk reads, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpeed {
    /// How fast: one read of up to 1 MiB after the other.
    pub speed: BytesPerSecond,
    /// How that is known.
    pub source: SpeedSource,
}

/// How the speed of a disk is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpeedSource {
    /// The operator says so.
    Given,
    /// Read from the block device the root is on.
    Device {
        /// The device.
        node: PathBuf,
    },
    /// Read from that device by an earlier run.
    Remembered {
        /// The device.
        node: PathBuf,
    },
    /// Read from files below the root. With files that are small this is less than the disk can do.
    Files {
        /// Why no device was read.
        because: String,
    },
}

impl DiskSpeed {
    /// How much is read of a device at most, in bytes.
    const MOST: u64 = 128 << 20;
    /// How long it is read at most.
    const LONGEST: Duration = Duration::from_secs(1);
    /// In how many places.
    const PLACES: u64 = 8;
    /// At once: what scans read with read-ahead is less, what disks need to be fast is not more.
    const PIECE: usize = 1 << 20;

    /// What the operator says.
    pub fn given(speed: BytesPerSecond) -> Self {
        Self { speed, source: SpeedSource::Given }
    }

    /// Reads for at most a second or 128 MiB, past the page cache, from the block device `root` is on. Where there is
    /// none (overlay, btrfs, ZFS), or it can't be read (who is not root may not), files below the root are read
    /// instead, for at most two seconds.
    ///
    /// # Errors
    /// [`DiskSpeedError`] when neither says anything.
    pub fn measure(root: &Root) -> Result<Self, DiskSpeedError> {
        match Device::behind(root.dev()).and_then(|device| Ok((of_device(&device)?, device))) {
            Ok((speed, device)) => Ok(Self { speed, source: SpeedSource::Device { node: device.node } }),
            Err(why) => {
                let speed = sample::files(root)?.ok_or(DiskSpeedError::NoDisk)?;
                Ok(Self { speed, source: SpeedSource::Files { because: why.to_string() } })
            }
        }
    }

    /// As [`Self::measure`], but a device is measured only once: what came of it is kept as the file `name` in the
    /// directory `dir`. Remove that to have it measured anew.
    ///
    /// # Errors
    /// As [`Self::measure`]. What can't be kept is measured anew next time; that is no error.
    pub fn remembered(root: &Root, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Self, DiskSpeedError> {
        let device = Device::behind(root.dev()).ok();
        if let Some(device) = &device
            && let Some(speed) = recall(dir, name, device)
        {
            return Ok(Self { speed, source: SpeedSource::Remembered { node: device.node.clone() } });
        }
        let measured = Self::measure(root)?;
        if let (Some(device), SpeedSource::Device { .. }) = (device, &measured.source)
            && let Err(error) = keep(dir, name, &device, measured.speed)
        {
            tracing::warn!(%error, "the speed of the disk can't be kept; it will be measured at the next start");
        }
        Ok(measured)
    }
}

impl fmt::Display for DiskSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes/s, ", self.speed.bytes())?;
        match &self.source {
            SpeedSource::Given => f.write_str("as configured"),
            SpeedSource::Device { node } => write!(f, "measured on {}", node.display()),
            SpeedSource::Remembered { node } => write!(f, "measured earlier on {}", node.display()),
            SpeedSource::Files { because } => {
                write!(f, "measured on files, as the device can't be read ({because})")
            }
        }
    }
}

/// Why nothing is known of the speed of a disk.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskSpeedError {
    /// Nothing below the root was read from a disk this machine knows of: it is in memory, on the network, or empty.
    /// Configure a speed, or no share of the disk.
    #[error("nothing below the root is read from a disk; configure its speed, or no limit for it")]
    NoDisk,
    /// The root can't be read.
    #[error("the root directory can't be read; is it still there, and may this process read it?")]
    Root(#[from] io::Error),
}

/// Reads some long runs of a device, far apart, as disks are faster outside than inside.
fn of_device(device: &Device) -> io::Result<BytesPerSecond> {
    let file = device.open()?;
    let mut buffer = DirectBuffer::new(DiskSpeed::PIECE);
    let stride = device.size / DiskSpeed::PLACES;
    let (run, began, mut read) = (stride.min(DiskSpeed::MOST / DiskSpeed::PLACES), Instant::now(), 0);
    for place in 0..DiskSpeed::PLACES {
        let begin = (place * stride).next_multiple_of(DirectBuffer::ALIGNMENT as u64);
        for offset in (begin..begin + run).step_by(DiskSpeed::PIECE) {
            if read > 0 && began.elapsed() >= DiskSpeed::LONGEST {
                break;
            }
            read += buffer.fill(&file, offset)? as u64;
        }
    }
    rate(read, began.elapsed()).ok_or_else(|| io::Error::other("it has nothing to read"))
}

/// So many bytes in so much time, unless there were none.
pub(crate) fn rate(bytes: u64, time: Duration) -> Option<BytesPerSecond> {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    BytesPerSecond::new(u64::try_from(rate).unwrap_or(u64::MAX))
}

const BEGINNING: &str = "disk speed 1";

/// What is kept: the version, the speed, and what tells the device from others.
fn keep(dir: BorrowedFd<'_>, name: &[u8], device: &Device, speed: BytesPerSecond) -> io::Result<()> {
    let text = format!("{BEGINNING}\n{}\n{}\n", speed.bytes(), device.identity);
    // DURABILITY: none is needed, but the one way to replace a file has it.
    let mode = Mode::from_st_mode(0o600);
    publish::bytes(&Kernel, dir, name, text.as_bytes(), mode, Replace::Existing).map(drop)
}

/// What was kept of this device; whatever else is there is as good as nothing.
fn recall(dir: BorrowedFd<'_>, name: &[u8], device: &Device) -> Option<BytesPerSecond> {
    const LIMIT: u64 = 4096;
    let mut text = String::new();
    open_file(At::new(dir, name)).ok()?.take(LIMIT).read_to_string(&mut text).ok()?;
    let (speed, identity) = text.strip_prefix(BEGINNING)?.strip_prefix('\n')?.split_once('\n')?;
    if identity.strip_suffix('\n')? != device.identity {
        return None;
    }
    BytesPerSecond::new(speed.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn device(identity: &str) -> Device {
        Device { node: PathBuf::from("/dev/none"), size: 0, identity: identity.into() }
    }

    #[test]
    fn what_is_remembered_is_of_this_device_and_whole() {
        let kept = tempfile::tempdir().unwrap();
        let dir = File::open(kept.path()).unwrap();
        let (dir, name) = (dir.as_fd(), b"disk.speed".as_slice());
        let disk = device("one");
        assert_eq!(recall(dir, name, &disk), None);
        let speed = BytesPerSecond::new(123_456_789).unwrap();
        keep(dir, name, &disk, speed).unwrap();
        assert_eq!(recall(dir, name, &disk), Some(speed));
        assert_eq!(recall(dir, name, &device("another")), None);
        let path = kept.path().join("disk.speed");
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(recall(dir, name, &disk), None, "of {len} bytes");
        }
    }

    #[test]
    fn a_rate_is_bytes_over_seconds() {
        assert_eq!(rate(3_000_000, Duration::from_millis(1500)), BytesPerSecond::new(2_000_000));
        assert_eq!(rate(0, Duration::from_secs(1)), None);
        assert_eq!(rate(5, Duration::ZERO), BytesPerSecond::new(5_000_000_000));
    }

    #[test]
    fn a_root_in_memory_has_no_disk() {
        let Ok(shm) = tempfile::tempdir_in("/dev/shm") else { return };
        std::fs::write(shm.path().join("file"), vec![7; 1 << 20]).unwrap();
        let outcome = DiskSpeed::measure(&Root::open(shm.path()).unwrap());
        assert!(matches!(outcome, Err(DiskSpeedError::NoDisk)), "{outcome:?}");
    }
}

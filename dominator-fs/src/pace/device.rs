//! The block device a file-system is on.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};

/// A block device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Where it is in `/dev`.
    pub(super) node: PathBuf,
    /// How many bytes it has.
    pub(super) size: u64,
    /// What tells it from others, also after a restart, when its number may be another's. One line.
    pub(super) identity: String,
}

impl Device {
    /// The one that files with this `st_dev` are on.
    pub(super) fn behind(dev: u64) -> io::Result<Self> {
        const SECTOR: u64 = 512;
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        if major == 0 {
            return Err(io::Error::other("the file-system is not on a single block device"));
        }
        let sys = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
        let missing = || io::Error::other("the kernel does not tell of it");
        let name = sys.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
        let sectors: u64 = line(&sys, "size").and_then(|text| text.parse().ok()).ok_or_else(missing)?;
        // Names with directories in them are written with `!` there.
        let node = Path::new("/dev").join(name.replace('!', "/"));
        let stat = rustix::fs::stat(&node)?;
        if !FileType::from_raw_mode(stat.st_mode).is_block_device() || stat.st_rdev != dev {
            return Err(io::Error::other(format!("{} is not the device", node.display())));
        }
        let identity = identity(&sys, name, sectors);
        Ok(Self { node, size: sectors.saturating_mul(SECTOR), identity })
    }

    /// Opens it for reading past the page cache.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.node, flags, rustix::fs::Mode::empty())?)
    }
}

/// What the kernel knows of a device, or of the disk it is a part of.
fn identity(sys: &Path, name: &str, sectors: u64) -> String {
    let mut identity = format!("{name} {sectors}");
    for file in ["wwid", "serial", "device/model", "device/serial", "dm/uuid", "loop/backing_file"] {
        let known = line(sys, file).or_else(|| line(sys.parent()?, file));
        identity.push('|');
        identity.push_str(known.as_deref().unwrap_or_default());
    }
    identity
}

/// The first line of a small file of the kernel.
fn line(sys: &Path, file: &str) -> Option<String> {
    let text = std::fs::read(sys.join(file)).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_no_single_device_has_none() {
        assert!(Device::behind(rustix::fs::makedev(0, 40)).is_err());
        let error = Device::behind(rustix::fs::makedev(4095, 1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

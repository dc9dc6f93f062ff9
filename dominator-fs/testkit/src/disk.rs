use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// A disk of its own with an ext4 file-system on it: a file behind a loop device, mounted until this is dropped. Only
/// within [`with_mounts`](crate::with_mounts).
#[derive(Debug)]
pub struct Disk {
    place: TempDir,
    device: PathBuf,
    options: &'static str,
}

impl Disk {
    /// The size of a block of the file-system, in bytes.
    pub const BLOCK: u64 = 4096;

    /// One of `size` bytes, or why this machine can't have one.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(size: u64) -> Result<Self, String> {
        Self::make(size, "", &[])
    }

    /// As [`Self::new`], mounted with options of ext4.
    ///
    /// # Errors
    /// What is missing.
    pub fn with(size: u64, options: &'static str) -> Result<Self, String> {
        Self::make(size, options, &[])
    }

    /// As [`Self::new`], with these arguments for `mkfs.ext4` as well.
    ///
    /// # Errors
    /// What is missing.
    pub fn made_with(size: u64, arguments: &[&str]) -> Result<Self, String> {
        Self::make(size, "", arguments)
    }

    /// One that promises `size` bytes, fewer than 128 MiB, while the file-system `place` is on has still fewer: what is
    /// written to files beyond is an error of the disk. Where it keeps inodes, directories and its journal it has what it
    /// promises: a file-system that can't write these lets nobody write any more, sooner or later. A larger one would have
    /// more than one group of blocks, and put directories into the next.
    ///
    /// # Errors
    /// What is missing.
    pub fn promised(place: &Path, size: u64) -> Result<Self, String> {
        const NOT_FILES: u64 = 8 << 20;
        let place = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
        let arguments = ["-O", "^resize_inode", "-N", "1024", "-J", "size=4,location=4M"];
        let disk = Self::make_in(place, size, "", &arguments)?;
        fs::OpenOptions::new()
            .write(true)
            .open(disk.image())
            .and_then(|file| Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, NOT_FILES)?))
            .map_err(|error| format!("no room for what the file-system needs: {error}"))?;
        Ok(disk)
    }

    fn make(size: u64, options: &'static str, arguments: &[&str]) -> Result<Self, String> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        Self::make_in(place, size, options, arguments)
    }

    fn make_in(place: TempDir, size: u64, options: &'static str, arguments: &[&str]) -> Result<Self, String> {
        let image = place.path().join("image");
        let made = fs::File::create(&image).and_then(|file| file.set_len(size));
        made.map_err(|error| format!("no room for a disk: {error}"))?;
        // What is initialised later would be read and written while tests measure.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .args(arguments)
            .arg(&image))?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image))?;
        let disk = Self { place, device: PathBuf::from(device.trim()), options };
        fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        disk.mount().map_err(|error| format!("it can't be mounted: {error}"))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.place.path().join("mounted")
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The file that stands for the disk.
    pub fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    /// Where on the device a block of a file is, in bytes. The file must have been there when this was mounted.
    ///
    /// # Panics
    /// When it is nowhere.
    pub fn place_of(&self, path: &str, block: u64) -> u64 {
        let ask = format!("bmap {path} {block}");
        let told = run(Command::new("debugfs").args(["-R", &ask]).arg(&self.device)).expect("debugfs runs");
        let place: u64 = told.trim().parse().expect("the number of a block");
        assert_ne!(place, 0, "{path} has such a block");
        place * Self::BLOCK
    }

    /// Changes one bit on the device, behind the file-system's back.
    ///
    /// # Panics
    /// When the device can't be written to.
    pub fn flip(&self, place: u64) {
        let device = fs::OpenOptions::new().read(true).write(true).open(&self.device).expect("a device");
        let mut byte = [0];
        device.read_exact_at(&mut byte, place).expect("it is on the device");
        device.write_all_at(&[byte[0] ^ 1], place).expect("the device can be written to");
        device.sync_all().expect("it reaches the device");
    }

    /// The block device, as `MAJOR:MINOR`.
    ///
    /// # Panics
    /// When the device is gone.
    pub fn number(&self) -> String {
        let dev = rustix::fs::stat(&self.device).expect("the device is there").st_rdev;
        format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev))
    }

    /// Forgets what is in the page cache: mounts it anew.
    ///
    /// # Panics
    /// When something on it is still open.
    pub fn forget(&self) {
        self.damage(|_| {});
    }

    /// As [`Self::forget`], and `work` has the device while it is not mounted, and all that was written is on it.
    ///
    /// # Panics
    /// When something on it is still open.
    pub fn damage(&self, work: impl FnOnce(&Path)) {
        let mut attempts = 0;
        // A process that another test starts at this moment has all that is open until it becomes another program.
        while let Err(error) = rustix::mount::unmount(self.path(), UnmountFlags::empty()) {
            attempts += 1;
            assert!(error == Errno::BUSY && attempts < 60_000, "{error}: somebody uses it");
            std::thread::sleep(Duration::from_millis(1));
        }
        work(&self.device);
        self.mount().expect("it was mounted before");
    }

    /// How many bytes were read from the device, as the kernel counts them there.
    ///
    /// # Panics
    /// When the kernel does not tell.
    pub fn bytes_read(&self) -> u64 {
        let file = format!("/sys/dev/block/{}/stat", self.number());
        let counters = fs::read_to_string(file).expect("the kernel tells of the device");
        let sectors = counters.split_whitespace().nth(2).expect("sectors read are the third");
        sectors.parse::<u64>().expect("a number") * 512
    }

    fn mount(&self) -> io::Result<()> {
        let options = CString::new(self.options)?;
        let flags = MountFlags::NOATIME;
        Ok(rustix::mount::mount(&self.device, self.path(), c"ext4", flags, Some(options.as_c_str()))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may not be mounted, and nothing can be done about what fails.
        rustix::mount::unmount(self.path(), UnmountFlags::DETACH).unwrap_or_default();
        drop(run(Command::new("losetup").arg("--detach").arg(&self.device)));
    }
}

/// This process as one of few that a disk is slow for, until this is dropped: a control group of its own, of either
/// version. Needs root.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    /// The group the process was in before.
    home: PathBuf,
}

impl Throttle {
    /// Lets this process read at most `bytes` a second from the disk, or says why that can't be.
    ///
    /// # Errors
    /// What is missing.
    pub fn reads(disk: &Disk, bytes: u64) -> Result<Self, String> {
        let fault = |error: io::Error| format!("no control group can be made: {error}");
        let (first, second) = (Path::new("/sys/fs/cgroup/blkio"), Path::new("/sys/fs/cgroup"));
        let name = format!("dominator-test-{}", std::process::id());
        let (above, kind, file, line) = if first.join("blkio.throttle.read_bps_device").exists() {
            (first, ":blkio:", "blkio.throttle.read_bps_device", format!("{} {bytes}", disk.number()))
        } else if fs::read_to_string(second.join("cgroup.controllers")).is_ok_and(|all| all.contains("io")) {
            fs::write(second.join("cgroup.subtree_control"), "+io").map_err(fault)?;
            (second, "0::", "io.max", format!("{} rbps={bytes}", disk.number()))
        } else {
            return Err("there is no blkio or io controller".into());
        };
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(fault)?;
        let home = groups.lines().find_map(|line| Some(line.split_once(kind)?.1)).unwrap_or("/");
        let home = above.join(home.trim_start_matches('/'));
        let throttle = Self { group: above.join(name), home };
        fs::create_dir(&throttle.group).map_err(fault)?;
        fs::write(throttle.group.join(file), line).map_err(fault)?;
        fs::write(throttle.group.join("cgroup.procs"), std::process::id().to_string()).map_err(fault)?;
        Ok(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Nothing can be done about what fails.
        drop(fs::write(self.home.join("cgroup.procs"), std::process::id().to_string()));
        drop(fs::remove_dir(&self.group));
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

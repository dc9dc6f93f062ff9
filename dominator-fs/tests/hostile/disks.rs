//! Disks that promise more than they have, and quotas: what the kernel tells late, or once, is believed at once and for good.

use std::fs;
use std::path::Path;
use std::process::Command;

use dominator_core::object::ObjectId;
use dominator_core::port::{Chain, StoreError};
use dominator_fs::seam::IFlags;
use dominator_fs_testkit::{Disk, left_out, mount_tmpfs, unmount, with_mounts};
use nix::mount::{MsFlags, mount};

use crate::support::{Machine, file, put};

const MIB: usize = 1024 * 1024;

/// Bytes that can't be made small, not even by a disk that tries.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

fn offer(machine: &Machine, contents: &[u8]) -> Result<(), StoreError> {
    let mut intake = machine.updater.objects().intake();
    intake.begin(ObjectId::of(contents), contents.len() as u64)?;
    contents.chunks(MIB).try_for_each(|part| intake.data(part))?;
    intake.finish().map(drop)
}

fn is_kept(machine: &Machine, contents: &[u8]) -> bool {
    machine.updater.objects().size(&ObjectId::of(contents)).unwrap().is_some()
}

/// The disk says so when it is waited for, and once only: the kernel then takes what it could not write for written.
#[test]
fn what_a_disk_could_not_write_is_never_taken_for_written() {
    const TEST: &str = "disks::what_a_disk_could_not_write_is_never_taken_for_written";
    with_mounts(TEST, || {
        let place = tempfile::tempdir().unwrap();
        mount_tmpfs(place.path(), "size=24m");
        let disk = match Disk::promised(place.path(), 120 << 20) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let root = tempfile::tempdir_in(disk.path()).unwrap();
        let mut machine = Machine::within(root);
        // Its directories, at least, are there before the disk has no room for them.
        rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
        let contents = bytes(32 * MIB);
        for attempt in 0..3 {
            let words = offer(&machine, &contents).map_err(|error| Chain(&error).to_string()).unwrap_err();
            let expected = ["Input/output error", "No space left on device", "corrupt"];
            assert!(expected.iter().any(|expected| words.contains(expected)), "{attempt}: {words}");
            assert!(!is_kept(&machine, &contents), "{attempt}: {words}");
        }
        // Somebody gives the disk what it promised.
        let none = None::<&str>;
        mount(none, place.path(), none, MsFlags::MS_REMOUNT, Some("size=300m")).unwrap();
        offer(&machine, &contents).unwrap();
        machine.applied(vec![put("/large", file(0o600, &contents))]);
        let root = machine.dir.keep();
        drop((machine.root, machine.updater));
        disk.forget();
        assert!(fs::read(root.join("large")).unwrap() == contents, "what was acknowledged is not there");
        drop(disk);
        unmount(place.path());
    });
}

/// A file-system with a quota, mounted until this is dropped. The kernel here may have none but that of btrfs.
struct Quota<'a>(&'a Path);

impl<'a> Quota<'a> {
    fn at(image: &Path, place: &'a Path) -> Result<Self, String> {
        fs::File::create(image)
            .and_then(|file| file.set_len(256 << 20))
            .map_err(|error| error.to_string())?;
        run("mkfs.btrfs", &["-q", image.to_str().unwrap()])?;
        run("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()])?;
        let quota = Self(place);
        run("btrfs", &["quota", "enable", place.to_str().unwrap()])?;
        run("btrfs", &["subvolume", "create", quota.volume().to_str().unwrap()])?;
        Ok(quota)
    }

    fn volume(&self) -> std::path::PathBuf {
        self.0.join("volume")
    }

    fn limit(&self, size: &str) {
        run("btrfs", &["qgroup", "limit", size, self.volume().to_str().unwrap()]).unwrap();
    }
}

impl Drop for Quota<'_> {
    fn drop(&mut self) {
        drop(run("umount", &[self.0.to_str().unwrap()]));
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

#[test]
fn a_quota_at_its_end_is_told_of_as_one_and_gone_on_with_when_it_is_raised() {
    const TEST: &str = "disks::a_quota_at_its_end_is_told_of_as_one_and_gone_on_with_when_it_is_raised";
    with_mounts(TEST, || {
        let (place, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let quota = match Quota::at(&image.path().join("image"), place.path()) {
            Ok(quota) => quota,
            Err(why) => return left_out(TEST, &why),
        };
        quota.limit("16M");
        let mut machine = Machine::within(tempfile::tempdir_in(quota.volume()).unwrap());
        machine.write("/large", b"old");
        let contents = bytes(24 * MIB);
        for _ in 0..2 {
            let words = offer(&machine, &contents).map_err(|error| Chain(&error).to_string()).unwrap_err();
            assert!(words.to_lowercase().contains("quota"), "{words}");
            assert!(!is_kept(&machine, &contents));
        }
        assert_eq!(machine.read("/large"), b"old");
        quota.limit("none");
        offer(&machine, &contents).unwrap();
        machine.applied(vec![put("/large", file(0o600, &contents))]);
        assert!(machine.read("/large") == contents);
        drop(machine);
    });
}

#[test]
fn a_phase_is_written_over_its_own_blocks_also_where_files_go_to_new_ones() {
    const TEST: &str = "disks::a_phase_is_written_over_its_own_blocks_also_where_files_go_to_new_ones";
    with_mounts(TEST, || {
        let (place, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let quota = match Quota::at(&image.path().join("image"), place.path()) {
            Ok(quota) => quota,
            Err(why) => return left_out(TEST, &why),
        };
        let mut machine = Machine::within(tempfile::tempdir_in(quota.volume()).unwrap());
        machine.write("/file", b"old");
        offer(&machine, b"new").unwrap();
        assert!(machine.apply(vec![put("/file", file(0o600, b"new"))]).unwrap().is_success());
        let flags = |at: &str| rustix::fs::ioctl_getflags(fs::File::open(machine.at(at)).unwrap()).unwrap();
        assert!(flags("/.subd/journal").contains(IFlags::NOCOW));
        assert!(!flags("/file").contains(IFlags::NOCOW), "files keep their checksums");
        drop(machine);
    });
}

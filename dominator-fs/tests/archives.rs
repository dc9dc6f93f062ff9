//! What archives from elsewhere promise: compressed or not, they are one image, and whoever made one with a grudge gets
//! neither a full disk, nor memory, nor a name outside.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use dominator_core::filter::Filter;
use dominator_core::inode::{Device, Kind};
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_fs::import::{self, ArchiveFault, ImportError, UnpackLimits, UnpacksToTooMuch, unpacked};
use dominator_fs::store::objects::ObjectStore;
use tar::{EntryType, Header};

/// What the system's own program makes of these bytes.
fn packed(program: &str, flags: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; the tests need it"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

const PROGRAMS: [&str; 3] = ["gzip", "xz", "zstd"];

fn member(kind: EntryType, name: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(8).unwrap();
    header.set_device_minor(1).unwrap();
    header.set_size(contents.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// A member whose name, or target, stands in an extended header, where it may be any bytes.
fn named(key: &str, value: &[u8], kind: EntryType) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let len = (1..).map(|digits| rest.len() + digits).find(|len| len.to_string().len() + rest.len() == *len);
    let record = [len.unwrap().to_string().as_bytes(), &rest].concat();
    [member(EntryType::XHeader, "PaxHeaders/x", &record), member(kind, "plain", b"")].concat()
}

fn imported(bytes: impl Read, limits: UnpackLimits) -> Result<Snapshot, ImportError> {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let mut batch = store.batch();
    let imported = import::tar(unpacked(bytes, limits)?, &Filter::Empty, store.spool().unwrap(), &mut batch)?;
    Ok(imported.snapshot)
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(step).collect()
}

#[test]
fn however_an_archive_is_compressed_it_is_the_same_image() {
    let plain = archive(&[
        member(EntryType::Regular, "noise", &noise(300_000)),
        member(EntryType::Regular, "zeros", &[0; 100_000]),
    ]);
    let expected = imported(&*plain, UnpackLimits::default()).unwrap().id();
    for program in PROGRAMS {
        let whole = packed(program, &["-c"], &plain);
        assert_eq!(imported(&*whole, UnpackLimits::default()).unwrap().id(), expected, "{program}");
        let (first, second) = plain.split_at(150_000);
        let parts = [packed(program, &["-c"], first), packed(program, &["-c"], second)].concat();
        assert_eq!(imported(&*parts, UnpackLimits::default()).unwrap().id(), expected, "{program} in parts");
    }
    let bzip2 = imported(&b"BZh91AY&SY"[..], UnpackLimits::default());
    assert!(matches!(bzip2, Err(ImportError::Compressed { format: "bzip2" })), "{bzip2:?}");
}

#[test]
fn a_compressed_archive_that_was_cut_or_damaged_is_refused() {
    let plain = archive(&[member(EntryType::Regular, "noise", &noise(5_000))]);
    for program in PROGRAMS {
        let whole = packed(program, &["-c"], &plain);
        for len in (0..whole.len()).step_by(whole.len() / 7).chain([whole.len() - 1]) {
            assert!(imported(&whole[..len], UnpackLimits::default()).is_err(), "{program} cut at {len}");
        }
        for at in (whole.len() / 4..whole.len()).step_by(whole.len() / 5) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(imported(&*damaged, UnpackLimits::default()).is_err(), "{program} damaged at {at}");
        }
    }
}

fn chain(error: &ImportError) -> Option<&UnpacksToTooMuch> {
    let ImportError::Input(error) = error else { return None };
    error.get_ref()?.downcast_ref()
}

#[test]
fn a_bomb_goes_off_at_the_limit_and_not_in_memory() {
    let limits = UnpackLimits { unpacked: 1 << 20, ..UnpackLimits::default() };
    let bomb = archive(&[member(EntryType::Regular, "zeros", &vec![0; 8 << 20])]);
    for program in PROGRAMS {
        let small = packed(program, &["-c"], &bomb);
        assert!(small.len() < 64 << 10, "{program}: {}", small.len());
        let error = imported(&*small, limits).unwrap_err();
        assert_eq!(chain(&error), Some(&UnpacksToTooMuch { limit: 1 << 20 }), "{program}: {error:?}");
        let many = imported(&*packed(program, &["-c"], &small), limits);
        assert!(many.is_err(), "{program}: compressed twice is no archive");
    }
    let narrow = UnpackLimits { window: 1 << 20, ..UnpackLimits::default() };
    let wide: [(&str, &[&str]); 2] = [("xz", &["-c", "--lzma2=dict=64MiB"]), ("zstd", &["-c", "--long=26"])];
    let plain = archive(&[member(EntryType::Regular, "noise", &noise(6 << 20))]);
    for (program, flags) in wide {
        let bytes = packed(program, flags, &plain);
        assert!(imported(&*bytes, UnpackLimits::default()).is_ok(), "{program}");
        assert!(imported(&*bytes, narrow).is_err(), "{program} may not take 64 MiB for its window");
    }
}

#[test]
fn no_name_leads_out_hides_a_nul_or_is_too_long() {
    let long = vec![b'x'; 256];
    let deep = [b"d/".repeat(2100), b"f".to_vec()].concat();
    for name in [&b"a\0b"[..], b"../x", b"a/../../x", b"/../x", &long, &deep] {
        let refused =
            imported(&*archive(&[named("path", name, EntryType::Regular)]), UnpackLimits::default());
        let fault = match refused {
            Err(ImportError::Member { fault, .. }) => fault,
            other => panic!("{:?}: {other:?}", name.get(..20)),
        };
        assert_eq!(fault, ArchiveFault::Path, "{:?}", name.get(..20));
    }
    for target in [&b"../../etc/shadow"[..], b"a\0b"] {
        let refused =
            imported(&*archive(&[named("linkpath", target, EntryType::Link)]), UnpackLimits::default());
        assert!(matches!(refused, Err(ImportError::Member { fault: ArchiveFault::Path, .. })), "{refused:?}");
    }
    let long = named("linkpath", &[b't'; 4096], EntryType::Symlink);
    let refused = imported(&*archive(&[long]), UnpackLimits::default());
    assert!(
        matches!(refused, Err(ImportError::Member { fault: ArchiveFault::Field("target"), .. })),
        "{refused:?}"
    );
}

#[test]
fn devices_and_absolute_names_are_parts_of_the_image_and_of_nothing_else() {
    let absolute = named("path", b"//etc///passwd", EntryType::Regular);
    let device = member(EntryType::Block, "dev/sda1", b"");
    let tree = imported(&*archive(&[absolute, device]), UnpackLimits::default()).unwrap();
    let inode = |path: &str| tree.inode(&ImagePath::parse(path.as_bytes()).unwrap()).unwrap();
    assert_eq!(inode("/etc/passwd").kind_name(), "file");
    let Kind::BlockDevice { device, .. } = inode("/dev/sda1").kind else { panic!("no device") };
    assert_eq!(device, Device { major: 8, minor: 1 });
}

#[test]
fn what_is_not_compressed_comes_through_as_it_is() {
    for plain in [&b""[..], b"x", b"\x1f", b"\xfd7zXZ", &noise(10_000)] {
        let mut through = Vec::new();
        unpacked(plain, UnpackLimits::default()).unwrap().read_to_end(&mut through).unwrap();
        assert_eq!(through, plain);
    }
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    assert!(matches!(unpacked(Broken, UnpackLimits::default()).err(), Some(ImportError::Input(_))));
}

#[test]
fn a_tree_comes_out_of_an_archive_of_ours_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    dominator_fs_testkit::nasty(&source);
    if !dominator_fs_testkit::needs_root("importing what only root can read") {
        std::fs::remove_file(source.join("mode-0000")).unwrap();
        std::fs::remove_file(source.join("mode-0111")).unwrap();
    }
    std::fs::write(source.join("twin"), noise(3000)).unwrap();
    std::fs::write(source.join("twin-of-it"), noise(3000)).unwrap();
    let store = ObjectStore::open(&dir.path().join("store")).unwrap();
    let mut batch = store.batch();
    let root = dominator_fs::root::Root::open(&source).unwrap();
    let cancel = dominator_fs::scan::Cancel::default();
    let before = import::directory(&root, &Filter::Empty, &cancel, &mut batch).unwrap().snapshot;
    drop(batch.finish().unwrap());
    let mut bytes = Vec::new();
    let written = dominator_fs::export::tar(&before, &mut bytes, &mut &store).unwrap();
    assert_eq!(written.left_out, []);
    let after = imported(&*bytes, UnpackLimits::default()).unwrap();
    assert_eq!(dominator_fs_testkit::described(&after), dominator_fs_testkit::described(&before));
    assert_eq!(after.id(), before.id());
    let listed = packed("tar", &["-tf", "-"], &bytes);
    assert!(listed.starts_with(b"./\n"), "another tar reads it, too");
}

use std::fs;
use std::io::Write;
use std::time::Duration;

use dominator_core::object::ObjectId;
use dominator_core::port::StoreError;
use dominator_fs_testkit::{Disk, left_out, with_mounts};

use crate::support::{Lab, named};

const FILES: &[(&str, &[u8])] = &[("a", b"alpha"), ("b", b"beta")];
const MIB: usize = 1024 * 1024;

fn fill(place: &std::path::Path) {
    let mut file = fs::File::create(place).unwrap();
    for piece in [MIB, 4096, 512, 1] {
        let bytes = vec![b'f'; piece];
        while file.write_all(&bytes).is_ok() {}
    }
    drop(file.sync_all());
}

/// A disk of its own, really full.
#[test]
fn a_full_disk_refuses_uploads_as_a_whole_goes_on_serving_and_lets_garbage_go() {
    const TEST: &str = "full::a_full_disk_refuses_uploads_as_a_whole_goes_on_serving_and_lets_garbage_go";
    with_mounts(TEST, || {
        let disk = match Disk::new(32 << 20) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let lab = Lab::new(&disk.path());
        lab.add("one", FILES);
        lab.put(&vec![b'g'; 6 * MIB]);
        let too_long = vec![b'x'; 30 * MIB];
        let refused = lab.objects().begin(ObjectId::of(&too_long), too_long.len() as u64).unwrap_err();
        let StoreError::NoSpace { need, free } = refused else { panic!("{refused}") };
        assert!(need == 30 << 20 && free < need && free > 0, "{need} needed, {free} free");
        fill(&disk.path().join("filler"));
        for bytes in [vec![b'y'; 8192], b"short".to_vec()] {
            let mut batch = lab.objects().batch();
            let refused = batch.add_bytes(&bytes).and_then(|_| batch.finish().map(drop)).unwrap_err();
            assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
            assert!(!lab.is_there(&bytes));
        }
        assert_eq!(fs::read_dir(disk.path().join("objects/tmp")).unwrap().count(), 0, "no debris");
        assert!(lab.is_whole("one", FILES));
        drop(lab);
        // Even to one that finds it so.
        let lab = Lab::new(&disk.path());
        assert!(lab.is_whole("one", FILES));
        assert_eq!(lab.collect(Duration::ZERO), (1, 6 << 20));
        assert!(lab.is_whole("one", FILES));
        let more: &[(&str, &[u8])] = &[("c", b"there is room again")];
        lab.add("two", more);
        drop(lab.images.delete(&named("one")).unwrap());
        assert!(lab.is_whole("two", more));
    });
}

#![allow(warnings, clippy::all)]
use dominator_core::inode::*;
use dominator_core::object::ObjectId;
use dominator_core::path::*;
use dominator_core::plan::*;
use dominator_core::tree::*;
use dominator_core::view::View;
fn dir() -> Inode {
    Inode {
        mode: Mode::from_st_mode(0o755),
        uid: 0,
        gid: 0,
        xattrs: Xattrs::default(),
        kind: Kind::Directory { id: Builder::placeholder() },
    }
}
fn file(s: &str) -> Inode {
    Inode {
        kind: Kind::Regular { mtime: Timestamp::default(), size: 1, object: ObjectId::of(s.as_bytes()) },
        ..dir()
    }
}
fn deep(s: &str) -> Snapshot {
    let mut b = Builder::new(dir()).unwrap();
    let mut at = ImagePath::root();
    for _ in 0..2047 {
        at = at.join(&Name::parse(b"d").unwrap()).unwrap();
        b.insert(&at, dir()).unwrap();
    }
    b.insert(&at.join(&Name::parse(b"f").unwrap()).unwrap(), file(s)).unwrap();
    b.finish(View::everything().id())
}
fn main() {
    let cpu = || -> u64 {
        std::fs::read_to_string("/proc/thread-self/schedstat")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let empty = Builder::new(dir()).unwrap().finish(View::everything().id());
    for (name, required, actual) in [("change", deep("a"), deep("b")), ("delete", empty.clone(), deep("b"))] {
        let mut directories = DirectoryMap::default();
        let mut rounds = 0;
        let t = cpu();
        loop {
            let c = Comparison {
                required: &required,
                actual: &actual.tree,
                links: Some(&actual.links),
                directories: &directories,
            };
            match c.plan() {
                Err(DiffError::Missing(ids)) => {
                    rounds += 1;
                    for id in ids {
                        let id = DirectoryId(id);
                        directories.share(id, actual.directories.directory(&id).unwrap());
                    }
                }
                Ok(p) => {
                    println!(
                        "{name}: {rounds} rounds, {} ops, {} ms",
                        p.plan.operations.len(),
                        (cpu() - t) / 1000000
                    );
                    break;
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
}

use std::collections::BTreeMap;

use super::{Operation, Plan};
use crate::object::ObjectId;

/// What a plan takes: which contents, and room for how much else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The contents of files, each once; the empty one needs no getting.
    pub objects: BTreeMap<ObjectId, Need>,
    /// How many inodes are made beside those of these files: directories, links, devices, pipes and empty files.
    pub inodes: u64,
}

/// How much room one object takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its length in bytes.
    pub size: u64,
    /// How many files are made of it.
    pub uses: u64,
}

impl Needs {
    /// Objects of these lengths, each for one file, and nothing else.
    pub fn of(objects: impl IntoIterator<Item = (ObjectId, u64)>) -> Self {
        let once = |(id, size)| (id, Need { size, uses: 1 });
        Self { objects: objects.into_iter().map(once).collect(), inodes: 0 }
    }
}

impl Plan {
    /// What it takes to carry it out.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for operation in &self.operations {
            match operation {
                Operation::MakeDirectory { .. } => needs.inodes += 1,
                Operation::Put { inode, .. } => match inode.object().filter(|(_, size)| *size > 0) {
                    Some((id, size)) => needs.objects.entry(id).or_insert(Need { size, uses: 0 }).uses += 1,
                    None => needs.inodes += 1,
                },
                Operation::Link { .. } | Operation::SetMetadata { .. } | Operation::Delete { .. } => {}
            }
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
    use crate::path::ImagePath;
    use crate::tree::Builder;

    fn put(name: &str, contents: &[u8]) -> Operation {
        let kind = Kind::Regular {
            mtime: Timestamp::default(),
            size: contents.len() as u64,
            object: ObjectId::of(contents),
        };
        Operation::Put { path: path(name), inode: inode(kind) }
    }

    fn inode(kind: Kind) -> Inode {
        Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
    }

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn contents_are_counted_by_use_and_what_has_none_by_inode() {
        let directory = inode(Kind::Directory { id: Builder::placeholder() });
        let plan = Plan {
            operations: vec![
                Operation::MakeDirectory { path: path("/d"), inode: directory },
                put("/d/a", b"same"),
                put("/d/b", b"same"),
                put("/d/c", b"other"),
                put("/d/empty", b""),
                Operation::Link { path: path("/d/l"), target: path("/d/a") },
                Operation::Delete { path: path("/x"), directory: false },
            ],
        };
        let needs = plan.needs();
        assert_eq!(needs.inodes, 2);
        let need = |contents: &[u8]| needs.objects.get(&ObjectId::of(contents)).copied();
        assert_eq!(need(b"same"), Some(Need { size: 4, uses: 2 }));
        assert_eq!(need(b"other"), Some(Need { size: 5, uses: 1 }));
        assert_eq!(needs.objects.len(), 2);
    }
}

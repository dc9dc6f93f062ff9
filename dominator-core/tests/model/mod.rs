//! A model of a file-system with hard links: what plans are tried on.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};

use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::View;

pub fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

pub fn inode(mode: u32, kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

pub fn directory(mode: u32) -> Inode {
    inode(mode, Kind::Directory { id: Builder::placeholder() })
}

pub fn file(contents: &str, mode: u32) -> Inode {
    let kind = Kind::Regular {
        mtime: Timestamp::new(1, 0).unwrap(),
        size: contents.len() as u64,
        object: ObjectId::of(contents.as_bytes()),
    };
    inode(mode, kind)
}

/// A file-system: names, and the inodes they point to.
#[derive(Clone, Debug)]
pub struct Model {
    pub names: BTreeMap<ImagePath, usize>,
    pub inodes: Vec<Inode>,
    /// Names out of view, by inode.
    pub hidden: BTreeSet<usize>,
}

impl Model {
    pub fn new() -> Self {
        Self {
            names: BTreeMap::from([(ImagePath::root(), 0)]),
            inodes: vec![directory(0o755)],
            hidden: BTreeSet::new(),
        }
    }

    pub fn add(&mut self, at: &ImagePath, inode: Inode) -> usize {
        self.inodes.push(inode);
        let number = self.inodes.len() - 1;
        self.names.insert(at.clone(), number);
        number
    }

    pub fn at(&self, path: &ImagePath) -> Option<&Inode> {
        self.names.get(path).map(|number| &self.inodes[*number])
    }

    pub fn below(&self, path: &ImagePath) -> Vec<ImagePath> {
        self.names.keys().filter(|name| *name != path && name.is_within(path)).cloned().collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut builder = Builder::new(self.at(&ImagePath::root()).unwrap().clone()).unwrap();
        let mut first: BTreeMap<usize, ImagePath> = BTreeMap::new();
        for (name, number) in &self.names {
            match first.get(number) {
                Some(target) => builder.link(name, target).unwrap(),
                None => {
                    builder.insert(name, self.inodes[*number].clone()).unwrap();
                    first.insert(*number, name.clone());
                }
            }
        }
        let snapshot = builder.finish(View::everything().id());
        snapshot.verify(1000).unwrap();
        snapshot
    }

    /// Puts a new inode where only what the plan deletes may be lost.
    pub fn replace(&mut self, at: &ImagePath, number: usize, doomed: &BTreeSet<ImagePath>) {
        let parent = self.at(&at.parent().unwrap()).expect("parents come before what is in them");
        assert!(parent.is_directory(), "{at} has a parent that is no directory");
        for below in self.below(at) {
            assert!(doomed.contains(&below), "{below} is lost with {at}, but the plan does not delete it");
            self.names.remove(&below);
        }
        self.names.insert(at.clone(), number);
    }

    pub fn apply(&mut self, plan: &Plan) {
        let deleted = |operation: &Operation| match operation {
            Operation::Delete { path, .. } => Some(path.clone()),
            _ => None,
        };
        let doomed: BTreeSet<_> = plan.operations.iter().filter_map(deleted).collect();
        for operation in &plan.operations {
            match operation {
                Operation::MakeDirectory { path, inode } | Operation::Put { path, inode } => {
                    self.inodes.push(inode.clone());
                    self.replace(path, self.inodes.len() - 1, &doomed);
                }
                Operation::Link { path, target } => {
                    let number = self.names[target];
                    assert!(!self.inodes[number].is_directory());
                    self.replace(path, number, &doomed);
                }
                Operation::SetMetadata { paths, inode } => {
                    let number = self.names[&paths[0]];
                    let all: Vec<_> =
                        self.names.iter().filter(|(_, n)| **n == number).map(|(p, _)| p.clone()).collect();
                    assert_eq!(&all, paths, "all names in view are given");
                    assert!(self.inodes[number].same_contents(inode), "only metadata change");
                    if self.hidden.contains(&number) {
                        self.inodes.push(inode.clone());
                        for path in paths {
                            self.names.insert(path.clone(), self.inodes.len() - 1);
                        }
                    } else {
                        self.inodes[number] = inode.clone();
                    }
                }
                Operation::Delete { path, directory } => {
                    if let Some(inode) = self.at(path) {
                        if inode.is_directory() != *directory {
                            continue; // replaced earlier in the plan
                        }
                        assert_eq!(self.below(path), [], "{path} is not empty when it is deleted");
                        self.names.remove(path);
                    }
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// `name=group` for files, `name/` for directories.
pub fn model(spec: &[(&str, &str, &str, u32)]) -> Model {
    let mut model = Model::new();
    let mut groups = BTreeMap::new();
    for (at, group, contents, mode) in spec {
        let at = path(at);
        if *contents == "/" {
            model.add(&at, directory(*mode));
        } else if let Some(number) = groups.get(group) {
            model.names.insert(at, *number);
        } else {
            groups.insert(group, model.add(&at, file(contents, *mode)));
        }
    }
    model
}

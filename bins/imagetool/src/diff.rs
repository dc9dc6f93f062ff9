//! Which paths differ between two images, and in what.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use serde::Serialize;

/// Every path in which two images differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Differences {
    left: String,
    right: String,
    differences: Vec<Remark>,
}

const ADDED: &str = "added";
const REMOVED: &str = "removed";
const CHANGED: &str = "changed";

impl Differences {
    /// Compares two images path by path.
    pub(crate) fn between(left: (&ImageName, &Snapshot), right: (&ImageName, &Snapshot)) -> Self {
        let (mut before, after) = (Paths::of(left.1), Paths::of(right.1));
        let mut differences = BTreeMap::new();
        for (path, new) in &after.0 {
            let difference = match before.0.remove(path) {
                None => Some((ADDED, vec![new.inode.kind_name().into()])),
                Some(old) => Some((CHANGED, old.differs(new))).filter(|(_, details)| !details.is_empty()),
            };
            differences.extend(difference.map(|found| (path, found)));
        }
        let gone = before.0.iter().map(|(path, old)| (path, (REMOVED, vec![old.inode.kind_name().into()])));
        differences.extend(gone);
        let entry = |(path, (why, details)): (&ImagePath, (&'static str, Vec<String>))| {
            Remark::new(path, details.join(", ")).because(why)
        };
        Self {
            left: left.0.to_string(),
            right: right.0.to_string(),
            differences: differences.into_iter().map(entry).collect(),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Show for Differences {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Remark { path, why, detail } in &self.differences {
            let sign = match *why {
                Some(ADDED) => '+',
                Some(REMOVED) => '-',
                _ => '~',
            };
            writeln!(out, "{sign} {path} ({detail})")?;
        }
        Ok(())
    }
}

/// Every path of a tree with all that can differ.
struct Paths(BTreeMap<ImagePath, Path>);

struct Path {
    inode: Inode,
    /// The first of the names that share the inode, if there are several.
    linked: Option<ImagePath>,
}

impl Paths {
    fn of(tree: &Snapshot) -> Self {
        let mut paths = BTreeMap::new();
        tree.walk(|path, inode| {
            paths.insert(path.clone(), Path { inode: inode.clone(), linked: None });
        });
        for set in tree.links.iter() {
            for name in set {
                if let Some(path) = paths.get_mut(name) {
                    path.linked = set.first().cloned();
                }
            }
        }
        Self(paths)
    }
}

impl Path {
    fn differs(&self, new: &Self) -> Vec<String> {
        let mut details = Vec::new();
        let mut note = |differs: bool, words: &dyn Fn() -> String| {
            if differs {
                details.push(words());
            }
        };
        let (a, b) = (&self.inode, &new.inode);
        let same_kind = a.kind_name() == b.kind_name();
        note(!same_kind, &|| format!("{} becomes {}", a.kind_name(), b.kind_name()));
        note(same_kind && !a.same_contents(b), &|| contents(a, b));
        note(a.mode != b.mode, &|| format!("mode {} becomes {}", a.mode, b.mode));
        note((a.uid, a.gid) != (b.uid, b.gid), &|| {
            format!("owner {}:{} becomes {}:{}", a.uid, a.gid, b.uid, b.gid)
        });
        note(a.xattrs != b.xattrs, &|| "extended attributes".into());
        note(same_kind && modified(a) != modified(b), &|| "time".into());
        note(self.linked != new.linked, &|| match &new.linked {
            Some(first) => format!("hard link of {first}"),
            None => "no hard link any more".into(),
        });
        details
    }
}

fn contents(a: &Inode, b: &Inode) -> String {
    match (&a.kind, &b.kind) {
        (Kind::Symlink { target: old }, Kind::Symlink { target: new }) => {
            format!("target {} becomes {}", old.escape_ascii(), new.escape_ascii())
        }
        _ => match (a.object(), b.object()) {
            (Some((_, old)), Some((_, new))) if old != new => format!("size {old} becomes {new}"),
            _ => "contents".into(),
        },
    }
}

fn modified(inode: &Inode) -> Option<Timestamp> {
    match inode.kind {
        Kind::Regular { mtime, .. }
        | Kind::BlockDevice { mtime, .. }
        | Kind::CharDevice { mtime, .. }
        | Kind::Fifo { mtime } => Some(mtime),
        Kind::Computed { .. } | Kind::Symlink { .. } | Kind::Directory { .. } | Kind::Unknown { .. } | _ => {
            None
        }
    }
}

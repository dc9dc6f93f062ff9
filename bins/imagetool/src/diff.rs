//! Which paths differ between two images, and in what.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::inode::{Aspect, Inode};
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

pub(crate) const ADDED: &str = "added";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const CHANGED: &str = "changed";

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
        let mut details = details(&self.inode, &new.inode);
        if self.linked != new.linked {
            details.push(match &new.linked {
                Some(first) => format!("hard link of {first}"),
                None => "no hard link any more".into(),
            });
        }
        details
    }
}

/// In what two inodes differ, for people.
pub(crate) fn details(old: &Inode, new: &Inode) -> Vec<String> {
    let mut details: Vec<String> = old.differences(new).iter().map(detail).collect();
    // Attributes are many, and their values seldom say anything.
    details.dedup();
    details
}

fn detail(aspect: &Aspect<'_>) -> String {
    match aspect {
        Aspect::Kind(old, new) => format!("{old} becomes {new}"),
        Aspect::Contents((_, old), (_, new)) if old != new => format!("size {old} becomes {new}"),
        Aspect::Target(old, new) => {
            format!("target {} becomes {}", old.escape_ascii(), new.escape_ascii())
        }
        Aspect::Mode(old, new) => format!("mode {old} becomes {new}"),
        Aspect::Owner(old, new) => format!("owner {}:{} becomes {}:{}", old.0, old.1, new.0, new.1),
        Aspect::Modified(..) => "time".into(),
        Aspect::Xattr(..) => "extended attributes".into(),
        Aspect::Contents(..) | Aspect::Source(..) | Aspect::Device(..) | Aspect::Reason(..) | _ => {
            "contents".into()
        }
    }
}

//! What may be there after a crash, and what may not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use dominator_core::object::ObjectId;
use dominator_core::view::View;

use super::world::{Attributes, Body, NodeId, World};

/// What is at each path of a tree, the work directory left out; `/` is the top.
pub type Tree = BTreeMap<Path, Thing>;

/// A path, readable in messages.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<u8>);

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What it consists of; entries of directories have paths of their own.
    pub body: Body,
    /// Its metadata.
    pub attributes: Attributes,
    /// All paths of the same inode.
    pub names: BTreeSet<Path>,
}

impl World {
    /// What is at each path.
    pub fn tree(&self) -> Tree {
        let mut paths = self.paths();
        paths.retain(|path, _| !is_ours(path));
        paths.insert(b"/".to_vec(), Self::TOP);
        let mut names: BTreeMap<NodeId, BTreeSet<Path>> = BTreeMap::new();
        for (path, node) in &paths {
            names.entry(*node).or_default().insert(Path(path.clone()));
        }
        let thing = |node: NodeId| {
            let found = self.node(node).expect("invariant: what has a path is there");
            let body = match &found.body {
                Body::Directory(_) => Body::Directory(BTreeMap::new()),
                body @ (Body::File(_) | Body::Symlink(_) | Body::Special { .. }) => body.clone(),
            };
            let names = names.get(&node).cloned().unwrap_or_default();
            Thing { body, attributes: found.attributes.clone(), names }
        };
        paths.into_iter().map(|(path, node)| (Path(path), thing(node))).collect()
    }

    /// Whether the work directory holds what it may: whole objects, and what was displaced only beside a journal. Says
    /// whether there is a journal.
    ///
    /// # Errors
    /// What it holds beside that.
    pub fn is_tidy(&self) -> Result<bool, String> {
        let (mut top, work) = (self.names("/.subd"), |part: &str| self.names(&format!("/.subd/{part}")));
        let journal = top.iter().any(|name| name == "journal");
        top.retain(|name| !["objects", "slots", "conflicts", "journal"].contains(&&**name));
        if !top.is_empty() {
            return Err(format!("debris in the work directory: {top:?}"));
        }
        if !journal && !work("slots").is_empty() {
            return Err(format!("debris in slots: {:?}", work("slots")));
        }
        if !work("conflicts").is_empty() {
            return Err(format!("nobody changed anything, and there are conflicts: {:?}", work("conflicts")));
        }
        for name in work("objects") {
            let whole =
                self.read(&format!("/.subd/objects/{name}")).map(|bytes| ObjectId::of(bytes).to_string());
            if whole.as_ref() != Some(&name) {
                return Err(format!("object {name} is not whole"));
            }
        }
        Ok(journal)
    }
}

/// How two trees differ, a few lines of it; nothing when they don't.
pub fn difference(is: &Tree, must: &Tree) -> Option<String> {
    let paths: BTreeSet<_> = is.keys().chain(must.keys()).collect();
    let differ = paths.into_iter().filter(|path| is.get(path) != must.get(path));
    let lines: Vec<_> = differ
        .map(|path| format!("{path:?} is {}, not {}", shown(is.get(path)), shown(must.get(path))))
        .take(4)
        .collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Whether what is at each path is what was there before or what must be there after: contents, and metadata but for the
/// paths `dressed` in place. Nothing stands where there was something and must be something. Which names share an inode
/// is not asked: no two of them change at once.
///
/// # Errors
/// The first path that is neither.
pub fn each_old_or_new(is: &Tree, old: &Tree, new: &Tree, dressed: &BTreeSet<Path>) -> Result<(), String> {
    let paths: BTreeSet<_> = is.keys().chain(old.keys()).chain(new.keys()).collect();
    let seen = |tree: &Tree, path: &Path| {
        tree.get(path).map(|thing| {
            // What keeps an inode from being changed is lifted meanwhile.
            let plain = Attributes { flags: 0, ..thing.attributes.clone() };
            (thing.body.clone(), (!dressed.contains(path)).then_some(plain))
        })
    };
    for path in paths {
        let found = seen(is, path);
        if found != seen(old, path) && found != seen(new, path) {
            let (is, old, new) = (is.get(path), old.get(path), new.get(path));
            return Err(format!("{path:?} is {}, neither {} nor {}", shown(is), shown(old), shown(new)));
        }
    }
    Ok(())
}

fn is_ours(path: &[u8]) -> bool {
    path.strip_prefix(View::WORK_DIRECTORY).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn shown(thing: Option<&Thing>) -> String {
    let Some(Thing { body, attributes, names }) = thing else { return "nothing".to_owned() };
    let body = match body {
        Body::Directory(_) => "a directory".to_owned(),
        Body::File(contents) => {
            let begin: Vec<_> = contents.iter().copied().take(12).collect();
            format!("a file of {} bytes ({:?}…)", contents.len(), String::from_utf8_lossy(&begin))
        }
        Body::Symlink(target) => format!("a link to {:?}", String::from_utf8_lossy(target)),
        Body::Special { kind, device } => format!("special {kind:o} {device}"),
    };
    let Attributes { mode, uid, gid, mtime, xattrs, flags } = attributes;
    format!("{body} {mode:04o} {uid}:{gid} {mtime:?} {xattrs:?} {flags:x} of {} names", names.len())
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

//! The algebra of hard links: which existing inode serves which required one, and what is put, changed or linked.
//!
//! A *set* is all names in view of one inode. Each required set is given at most one actual inode, its donor, that
//! already has one of its names and is as it must be, or may be made so without touching a name outside the set. The
//! rest of the names are linked to it. A set without donor gets a new inode.

use std::collections::{BTreeMap, BTreeSet};

use super::Operation;
use super::diff::DiffError;
use super::walk::{There, Touched};
use crate::inode::Inode;
use crate::path::ImagePath;
use crate::tree::LinkSets;

/// Both trees, as far as names of files are concerned.
pub(super) struct Sides<'a> {
    pub(super) required: &'a dyn Fn(&ImagePath) -> Option<Inode>,
    pub(super) actual: &'a dyn Fn(&ImagePath) -> Option<Inode>,
    pub(super) required_links: &'a LinkSets,
    pub(super) actual_links: &'a LinkSets,
}

/// Whether both trees have the same hard links.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Same,
    Differ,
}

impl Sides<'_> {
    /// Whoever compares by id hands in one list twice.
    fn links(&self) -> Links {
        if std::ptr::eq(self.required_links, self.actual_links) { Links::Same } else { Links::Differ }
    }
}

/// What is to be done to names of files: first what makes inodes as they must be, then links to them. `touched` is in
/// order.
pub(super) fn reconcile(
    sides: &Sides<'_>,
    touched: Vec<Touched>,
    unknown: &BTreeSet<ImagePath>,
) -> Result<Vec<Operation>, DiffError> {
    let [only_required, only_actual] = match sides.links() {
        Links::Same => [Vec::new(), Vec::new()],
        Links::Differ => sides.required_links.differences(sides.actual_links),
    };
    let linked = linked(sides, &touched);
    let (linked, alone): (Vec<_>, Vec<_>) =
        touched.into_iter().zip(linked).partition(|(_, linked)| *linked == Linked::Yes);
    let linked: Vec<ImagePath> = linked.into_iter().map(|(touched, _)| touched.path).collect();
    check(sides, &linked, unknown, &only_actual)?;
    let sets = affected(sides, &linked, only_required, &only_actual);
    let mut donors = Donors { sides, claimed: BTreeSet::new() };
    let (mut inodes, mut links) = (Vec::new(), Vec::new());
    for set in sets {
        let names: BTreeSet<&ImagePath> = set.iter().filter(|name| !is_below(name, unknown)).collect();
        let Some(first) = names.first().copied() else { continue };
        let inode = (sides.required)(first).ok_or(DiffError::Incomplete)?;
        let served = match donors.choose(&names, &inode) {
            Donor::AsItIs(served) => served,
            Donor::Changed(paths) => {
                inodes.push(Operation::SetMetadata { paths: paths.clone(), inode });
                paths
            }
            Donor::None => {
                inodes.push(Operation::Put { path: first.clone(), inode });
                vec![first.clone()]
            }
        };
        let target = served.first().ok_or(DiffError::Incomplete)?;
        let others = names.into_iter().filter(|name| served.binary_search(name).is_err());
        links.extend(others.map(|name| Operation::Link { path: name.clone(), target: target.clone() }));
    }
    inodes.extend(alone.into_iter().map(|(touched, _)| single(touched)));
    // Two runs, each in order: one pass.
    inodes.sort_by(|a, b| a.paths().first().cmp(&b.paths().first()));
    inodes.append(&mut links);
    Ok(inodes)
}

/// Whether a name shares its inode with another, on either side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linked {
    Yes,
    No,
}

fn linked(sides: &Sides<'_>, touched: &[Touched]) -> Vec<Linked> {
    let both = [sides.required_links, sides.actual_links];
    let lists = match sides.links() {
        Links::Same => &both[..1],
        Links::Differ => &both,
    };
    let is_linked = |touched: &Touched| lists.iter().any(|links| links.set_of(&touched.path).is_some());
    touched.iter().map(|touched| if is_linked(touched) { Linked::Yes } else { Linked::No }).collect()
}

/// What is to be done to the one name of an inode.
fn single(Touched { path, inode, there }: Touched) -> Operation {
    match there {
        There::Similar => Operation::SetMetadata { paths: vec![path], inode },
        There::Other => Operation::Put { path, inode },
    }
}

/// The machine's sets must be of equal inodes that are no directories. The required ones are; a set that is the same
/// on the machine is, too, unless one of its names is not as it must be.
fn check(
    sides: &Sides<'_>,
    linked: &[ImagePath],
    unknown: &BTreeSet<ImagePath>,
    only_actual: &[&[ImagePath]],
) -> Result<(), DiffError> {
    let doubtful = linked.iter().chain(unknown).flat_map(|path| sides.actual_links.within(path));
    for set in doubtful.chain(only_actual.iter().copied()).collect::<BTreeSet<_>>() {
        let mut first = None;
        for name in set {
            let malformed = || DiffError::Malformed { path: name.clone() };
            let inode = (sides.actual)(name).filter(|inode| !inode.is_directory()).ok_or_else(malformed)?;
            if *first.get_or_insert_with(|| inode.clone()) != inode {
                return Err(malformed());
            }
        }
    }
    Ok(())
}

/// The required sets of which a name differs, or whose names are shared otherwise on the machine, in order of their
/// first names.
fn affected<'a>(
    sides: &Sides<'a>,
    linked: &'a [ImagePath],
    only_required: Vec<&'a [ImagePath]>,
    only_actual: &[&'a [ImagePath]],
) -> BTreeSet<&'a [ImagePath]> {
    let set_of =
        |name: &'a ImagePath| sides.required_links.set_of(name).unwrap_or(std::slice::from_ref(name));
    let is_file = |name: &&ImagePath| (sides.required)(name).is_some_and(|inode| !inode.is_directory());
    let shared_otherwise = only_actual.iter().flat_map(|set| set.iter()).filter(is_file);
    linked.iter().chain(shared_otherwise).map(set_of).chain(only_required).collect()
}

fn is_below(name: &ImagePath, unknown: &BTreeSet<ImagePath>) -> bool {
    // Ancestors are few, unknown paths may be many.
    let mut path = Some(name.clone());
    while let Some(here) = path {
        if unknown.contains(&here) {
            return true;
        }
        path = here.parent();
    }
    false
}

/// Which inode of the machine is to serve a set.
enum Donor {
    /// One that is as it must be; its names within the set.
    AsItIs(Vec<ImagePath>),
    /// One that is once its metadata are set; all its names, which are all in the set.
    Changed(Vec<ImagePath>),
    /// None.
    None,
}

struct Donors<'a> {
    sides: &'a Sides<'a>,
    /// First names of the actual sets that serve a required one.
    claimed: BTreeSet<ImagePath>,
}

impl Donors<'_> {
    /// All names in view of the inode the machine has at `name`.
    fn set_of<'b>(&'b self, name: &'b ImagePath) -> &'b [ImagePath] {
        self.sides.actual_links.set_of(name).unwrap_or(std::slice::from_ref(name))
    }

    fn choose(&mut self, names: &BTreeSet<&ImagePath>, inode: &Inode) -> Donor {
        // Actual sets that have a name here, by their first name, with those names.
        let mut equal: BTreeMap<&ImagePath, Vec<ImagePath>> = BTreeMap::new();
        let mut similar: BTreeMap<&ImagePath, &[ImagePath]> = BTreeMap::new();
        for name in names {
            let set = self.set_of(name);
            let Some(first) = set.first().filter(|first| !self.claimed.contains(*first)) else { continue };
            match (self.sides.actual)(name) {
                Some(actual) if actual == *inode => equal.entry(first).or_default().push((*name).clone()),
                Some(actual) if actual.same_contents(inode) => {
                    if similar.contains_key(first) || set.iter().all(|other| names.contains(other)) {
                        similar.insert(first, set);
                    }
                }
                Some(_) | None => {}
            }
        }
        // The one with the most names here; of several such, the first.
        let best = equal.into_iter().max_by_key(|(first, names)| (names.len(), std::cmp::Reverse(*first)));
        if let Some((first, names)) = best {
            let first = first.clone();
            self.claimed.insert(first);
            return Donor::AsItIs(names);
        }
        let best = similar.into_iter().max_by_key(|(first, set)| (set.len(), std::cmp::Reverse(*first)));
        match best {
            Some((first, set)) => {
                let (first, set) = (first.clone(), set.to_vec());
                self.claimed.insert(first);
                Donor::Changed(set)
            }
            None => Donor::None,
        }
    }
}

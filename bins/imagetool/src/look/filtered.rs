//! What a filter leaves alone in a directory: to be looked at, and to be kept before a machine is made anew.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::filter::Filter;
use dominator_core::image::ImageName;
use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::View;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::export;
use dominator_fs::import::{self, Nowhere, TreeSource};
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::seam::Kernel;
use dominator_fs::store::ports::PortStream;
use serde::Serialize;
use tokio::runtime::Handle;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Filtered {
    image: String,
    directory: String,
    paths: Vec<Found>,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Found {
    path: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl Show for Filtered {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.paths.iter().try_for_each(|found| writeln!(out, "{}", found.path))
    }
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Copied {
    from: String,
    to: String,
    paths: u64,
    bytes: u64,
    left_out: Vec<Remark>,
}

impl Show for Copied {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.left_out.iter().try_for_each(|left| writeln!(out, "left out: {left}"))?;
        writeln!(out, "{} paths of {} from {} in {}", self.paths, HumanBytes(self.bytes), self.from, self.to)
    }
}

/// Lists what `filter` matches in `directory`, with what lies below it.
///
/// # Errors
/// [`Failure`] when the directory can't be read as a whole.
pub(super) async fn scan(name: &ImageName, filter: Filter, directory: PathBuf) -> Result<Filtered, Failure> {
    let shown = directory.display().to_string();
    let work = move || Ok::<_, Failure>(matching(&look(&directory)?.1, &filter));
    let found = tokio::task::spawn_blocking(work).await.during(|| "the scan was broken off".into())??;
    let bytes = found.iter().filter_map(|(_, inode)| inode.object()).map(|(_, size)| size).sum();
    let entry = |(path, inode): (ImagePath, Inode)| Found {
        path: path.to_string(),
        kind: inode.kind_name(),
        size: inode.object().map(|(_, size)| size),
    };
    let paths = found.into_iter().map(entry).collect();
    Ok(Filtered { image: name.to_string(), directory: shown, paths, bytes })
}

/// Copies that to the empty directory `to`, with the directories that lead there.
///
/// # Errors
/// [`Failure`]; what was written before stays.
pub(super) async fn copy(
    name: &ImageName,
    filter: Filter,
    from: PathBuf,
    to: PathBuf,
) -> Result<Copied, Failure> {
    let (runtime, during) = (Handle::current(), format!("can't copy what {name} leaves alone"));
    let work = move || copy_blocking(&filter, &from, &to, runtime).during(|| during);
    tokio::task::spawn_blocking(work).await.during(|| "copying was broken off".into())?
}

fn copy_blocking(filter: &Filter, from: &Path, to: &Path, runtime: Handle) -> Result<Copied, Failure> {
    let (root, tree) = look(from)?;
    let part = part(&tree, &matching(&tree, filter));
    let during = || format!("can't write to {}", to.display());
    match fs::create_dir(to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).during(during),
        _ => {}
    }
    let target = Root::open(to).during(during)?;
    let mut objects = PortStream::new(Arc::new(TreeSource::new(root, tree)), runtime);
    let exported = export::directory(&part, &target, &mut objects, &Kernel).during(during)?;
    let (mut paths, mut bytes) = (0, 0);
    part.walk(|path, inode| {
        paths += u64::from(filter.matches(path));
        bytes += inode.object().map_or(0, |(_, size)| size);
    });
    let left = exported.left_out.into_iter().map(|left| Remark::new(&left.path, left.what));
    let [from, to] = [from, to].map(|path| path.display().to_string());
    Ok(Copied { from, to, paths, bytes, left_out: left.collect() })
}

/// All of a directory.
fn look(directory: &Path) -> Result<(Root, Snapshot), Failure> {
    let during = || format!("can't look at {}", directory.display());
    let root = Root::open(directory).during(during)?;
    let imported = import::directory(&root, &Filter::Empty, &Cancel::default(), &mut Nowhere);
    Ok((root, imported.during(during)?.snapshot))
}

/// What the filter matches, and what lies below that, which is left alone with it.
fn matching(tree: &Snapshot, filter: &Filter) -> Vec<(ImagePath, Inode)> {
    let mut found: Vec<(ImagePath, Inode)> = Vec::new();
    // Directories come before what is in them, so that only the last one can lie above.
    let mut above: Option<ImagePath> = None;
    tree.walk(|path, inode| {
        let below = above.as_ref().is_some_and(|above| {
            std::iter::successors(path.parent(), ImagePath::parent).any(|parent| parent == *above)
        });
        if !below && !filter.matches(path) {
            return;
        }
        if !below {
            above = Some(path.clone());
        }
        found.push((path.clone(), inode.clone()));
    });
    found
}

/// A tree of these paths, with the directories on the way to them.
fn part(tree: &Snapshot, paths: &[(ImagePath, Inode)]) -> Snapshot {
    let mut builder =
        Builder::new(tree.tree.root.clone()).expect("invariant: the root of a tree is a directory");
    for (path, inode) in paths {
        let mut missing: Vec<ImagePath> = Vec::new();
        let mut parents = std::iter::successors(path.parent(), ImagePath::parent);
        while let Some(parent) = parents.next().filter(|parent| !builder.contains(parent)) {
            missing.push(parent);
        }
        for parent in missing.iter().rev() {
            let inode = tree.inode(parent).expect("invariant: what is in a directory comes after it");
            builder.insert(parent, inode).expect("invariant: it had its place in the tree");
        }
        builder.insert(path, inode.clone()).expect("invariant: it had its place in the tree");
    }
    for set in tree.links.iter() {
        let mut here = set.iter().filter(|path| builder.contains(path));
        let Some(first) = here.next() else { continue };
        let others: Vec<_> = here.cloned().collect();
        for other in others {
            builder.link(&other, first).expect("invariant: both are here, and no directories");
        }
    }
    builder.finish(View::everything().id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_match_belongs_to_it_and_hard_links_stay_together() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("var/log/app")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        for file in ["var/log/app/x", "var/logs", "etc/passwd"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        fs::hard_link(dir.path().join("var/log/app/x"), dir.path().join("var/log/y")).unwrap();
        let (_, tree) = look(dir.path()).unwrap();
        let found = matching(&tree, &Filter::parse("/var/log$\n").unwrap());
        let names: Vec<_> = found.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(names, ["/var/log", "/var/log/app", "/var/log/app/x", "/var/log/y"]);
        let part = part(&tree, &found);
        let mut all = Vec::new();
        part.walk(|path, _| all.push(path.to_string()));
        assert_eq!(all, ["/", "/var", "/var/log", "/var/log/app", "/var/log/app/x", "/var/log/y"]);
        assert_eq!(part.links.iter().count(), 1);
    }
}

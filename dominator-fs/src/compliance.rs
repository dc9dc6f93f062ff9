//! The embedder's front door: is what is below a root what an image says? Nothing is changed.
//!
//! ```
//! use dominator_core::filter::Filter;
//! use dominator_core::view::View;
//! use dominator_fs::compliance::{self, Options, Verdict};
//! use dominator_fs::root::Root;
//! use dominator_fs::scan::{Cancel, Scanner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let root = Root::open(path)?;
//! let golden = Scanner::new(root.clone(), View::everything().into()).scan(&Cancel::default())?.snapshot;
//! std::fs::write(path.join("backdoor"), "")?;
//! let report = compliance::check(&root, &golden, &Filter::Empty, &Options::default())?;
//! assert_eq!(report.verdict(), Verdict::Deviant);
//! assert_eq!(report.deviations[0].to_string(), "/backdoor: file, must not be there");
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::filter::Filter;
use dominator_core::inode::{Aspect, Inode, Kind, Timestamp};
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, DiffError, Plan};
use dominator_core::port::MachineTraits;
use dominator_core::tree::{Snapshot, TreeId};
use dominator_core::view::{View, XattrPolicy};
use thiserror::Error;

use crate::root::Root;
use crate::scan::{Cancel, Counts, Fact, Progress, Scan, ScanError, Scanner};
use crate::traits::traits_of;

/// Compares what is below `root` with `image`, whose filter is `filter`, as far as this process can look: without
/// privileges owners don't count. Of a computed file only metadata are compared.
///
/// It reads every file in view, and takes as long.
///
/// # Errors
/// [`CheckError`] when there is nothing to compare. What can't be read is not one: see [`Report::unknown`].
pub fn check(
    root: &Root,
    image: &Snapshot,
    filter: &Filter,
    options: &Options,
) -> Result<Report, CheckError> {
    image
        .verify(Options::MAX_INODES)
        .map_err(|malformed| CheckError::Image { source: Box::new(malformed) })?;
    let traits = options.traits.clone().unwrap_or_else(|| traits_of(root));
    let view = Arc::new(view(image, filter, options.xattrs, traits));
    let mut scanner = Scanner::new(root.clone(), Arc::clone(&view)).progress(Arc::clone(&options.progress));
    if let Some(threads) = options.threads {
        scanner = scanner.threads(threads);
    }
    let scan = scanner.scan(&options.cancel)?;
    Ok(report(&view.apply(image), scan)?)
}

/// How to check. The default is what nearly everybody wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// The extended attributes the image vouches for.
    pub xattrs: XattrPolicy,
    /// The machine's part in the view; what this process can do below the root, if not given.
    pub traits: Option<MachineTraits>,
    /// How many threads read; one a core, if not given.
    pub threads: Option<NonZeroUsize>,
    /// Ends it early.
    pub cancel: Cancel,
    /// Counts what is done.
    pub progress: Arc<Progress>,
}

impl Options {
    /// How many inodes an image may have.
    const MAX_INODES: u64 = 100_000_000;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            xattrs: XattrPolicy::ALL,
            traits: None,
            threads: None,
            cancel: Cancel::default(),
            progress: Arc::default(),
        }
    }
}

/// What came of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is not as it must be, in order of the paths.
    pub deviations: Vec<Deviation>,
    /// Directories that must not be there but hold what is not in view: an update leaves them, too.
    pub kept: BTreeSet<ImagePath>,
    /// What could not be looked at.
    pub unknown: Vec<Fact>,
    /// The tree that must be there, as far as it is in view.
    pub required: TreeId,
    /// The tree that is there.
    pub actual: TreeId,
    /// How many names of each kind are there.
    pub counts: Counts,
    /// How much was read, in bytes.
    pub bytes_hashed: u64,
    /// How long that took.
    pub elapsed: Duration,
}

impl Report {
    /// The short of it.
    pub fn verdict(&self) -> Verdict {
        match (self.deviations.is_empty(), self.unknown.is_empty()) {
            (false, _) => Verdict::Deviant,
            (true, false) => Verdict::CouldNotLook,
            (true, true) => Verdict::Compliant,
        }
    }
}

/// The short of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Everything in view is as it must be.
    Compliant,
    /// Something is not, whatever could not be looked at.
    Deviant,
    /// Nothing that could be looked at deviates, but not everything could be.
    CouldNotLook,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Where.
    pub path: ImagePath,
    /// In what.
    pub what: What,
    /// How it is and must be, for a human.
    pub detail: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)
    }
}

/// In what something deviates; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum What {
    /// It is not there.
    Missing,
    /// It is there.
    Unexpected,
    /// It is a directory and must be a file, and so on.
    Kind,
    /// Other bytes, another target, another device; maybe other metadata, too.
    Contents,
    /// Mode, owner, time or extended attributes.
    Metadata,
    /// It is a hard link of something it must not be, or is not of something it must be.
    Links,
}

/// Why there is no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The image is no tree a machine could have. Whoever made it is at fault.
    #[error("the image is no tree a machine could have; make or get it again")]
    Image {
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine could not be scanned at all.
    #[error("the machine could not be scanned")]
    Scan(#[from] ScanError),
    /// The trees can't be compared.
    #[error("the machine can't be compared with the image")]
    Comparison(#[from] DiffError),
}

fn view(image: &Snapshot, filter: &Filter, xattrs: XattrPolicy, traits: MachineTraits) -> View {
    let only = (*filter == Filter::Sparse).then(|| {
        let mut paths = BTreeSet::new();
        image.walk(|path, _| paths.extend([path.clone()]));
        paths
    });
    let filters = [filter.clone(), traits.exclusions];
    View {
        filters: filters.into_iter().filter(|filter| matches!(filter, Filter::Lines(_))).collect(),
        protected: traits.protected,
        only,
        xattrs: traits.xattrs.and(xattrs),
        ownership: traits.ownership,
        mtime: traits.mtime,
    }
}

fn report(required: &Snapshot, scan: Scan) -> Result<Report, DiffError> {
    let actual = &scan.snapshot;
    let plan = if required.id() == actual.id() {
        Plan::default()
    } else {
        let (tree, links) = (&actual.tree, Some(&actual.links));
        Comparison { required, actual: tree, links, directories: &actual.directories }.plan()?.plan
    };
    let sides = Sides { required, actual };
    let (plan, kept) = plan.without_kept(&scan.held);
    let mut deviations = BTreeMap::new();
    for path in plan.paths() {
        if let Some((what, detail)) = sides.deviation(path) {
            deviations.insert(path.clone(), Deviation { path: path.clone(), what, detail });
        }
    }
    Ok(Report {
        deviations: deviations.into_values().collect(),
        kept: kept.into_iter().collect(),
        required: required.id(),
        actual: actual.id(),
        unknown: scan.facts,
        counts: scan.counts,
        bytes_hashed: scan.bytes_hashed,
        elapsed: scan.elapsed,
    })
}

struct Sides<'a> {
    required: &'a Snapshot,
    actual: &'a Snapshot,
}

impl Sides<'_> {
    /// How a path the plan touches deviates.
    fn deviation(&self, path: &ImagePath) -> Option<(What, String)> {
        match (self.actual.inode(path), self.required.inode(path)) {
            (None, None) => None,
            (None, Some(must)) => Some((What::Missing, format!("missing, must be a {}", must.kind_name()))),
            (Some(is), None) => Some((What::Unexpected, format!("{}, must not be there", is.kind_name()))),
            (Some(is), Some(must)) => self.difference(path, &is, &must),
        }
    }

    fn difference(&self, path: &ImagePath, is: &Inode, must: &Inode) -> Option<(What, String)> {
        let computed = matches!((&is.kind, &must.kind), (Kind::Regular { .. }, Kind::Computed { .. }));
        let (mut what, mut details) = (What::Metadata, Vec::new());
        for aspect in is.differences(must) {
            if let Aspect::Kind(is, must) = aspect {
                if computed {
                    continue;
                }
                return Some((What::Kind, format!("{is}, must be a {must}")));
            }
            if aspect.is_contents() {
                what = What::Contents;
            }
            details.push(detail(&aspect));
        }
        if details.is_empty() {
            return self.links(path).map(|detail| (What::Links, detail));
        }
        Some((what, details.join("; ")))
    }

    /// Equal inodes that the plan touches all the same are shared with others than they must be.
    fn links(&self, path: &ImagePath) -> Option<String> {
        let (is, must) = (self.actual.links.set_of(path), self.required.links.set_of(path));
        let named = |set: Option<&[ImagePath]>| {
            let others = set.into_iter().flatten().filter(|other| *other != path);
            let names: Vec<_> = others.map(ToString::to_string).collect();
            if names.is_empty() {
                "no hard link".to_owned()
            } else {
                format!("hard link of {}", names.join(", "))
            }
        };
        (is != must).then(|| format!("{}, must be {}", named(is), named(must)))
    }
}

/// How it is and must be.
fn detail(aspect: &Aspect<'_>) -> String {
    match aspect {
        Aspect::Contents((_, is), (_, must)) if is != must => format!("{is} bytes, must be {must} bytes"),
        Aspect::Contents((is, _), (must, _)) => format!("contents {is}, must be {must}"),
        Aspect::Target(is, must) => {
            format!("points to \"{}\", must point to \"{}\"", is.escape_ascii(), must.escape_ascii())
        }
        Aspect::Device(is, must) => {
            format!("device {}:{}, must be {}:{}", is.major, is.minor, must.major, must.minor)
        }
        Aspect::Mode(is, must) => format!("mode {is}, must be {must}"),
        Aspect::Owner(is, must) => format!("owner {}:{}, must be {}:{}", is.0, is.1, must.0, must.1),
        Aspect::Modified(is, must) => format!("modified at {}, must be {}", shown(*is), shown(*must)),
        Aspect::Xattr(name, is, must) => {
            let detail = match (is, must) {
                (None, _) => "missing",
                (_, None) => "must not be there",
                (Some(_), Some(_)) => "has another value",
            };
            format!("attribute {} {detail}", name.escape_ascii())
        }
        Aspect::Kind(..) | Aspect::Source(..) | Aspect::Reason(..) | _ => "other contents".into(),
    }
}

fn shown(time: Timestamp) -> String {
    format!("{}.{:09}", time.seconds(), time.nanos())
}

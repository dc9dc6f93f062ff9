//! Trees to make images of: a directory, or an archive, compressed or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dominator_core::object::ObjectId;
use dominator_core::port::ObjectSource;
use dominator_daemon::report::remark;
use dominator_daemon::{During, Failure};
use dominator_fs::import::{self, Imported, Selection, UnpackLimits, Watched};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, CacheError, Cancel, Progress};
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::LocalObjects;

use crate::progress::Watching;
use crate::source::Offers;

/// Where scans are remembered.
#[derive(Clone, Debug, Args)]
pub struct CacheOptions {
    /// Remember in this directory what was read, so that adding the same tree again reads only what changed; not given,
    /// it is $XDG_CACHE_HOME/imagetool, or ~/.cache/imagetool
    #[arg(long, value_name = "DIR")]
    pub scan_cache: Option<PathBuf>,
    /// Read everything, and remember nothing
    #[arg(long, conflicts_with = "scan_cache")]
    pub no_scan_cache: bool,
}

impl CacheOptions {
    /// The directory, if there is to be one.
    pub(crate) fn place(&self) -> Option<PathBuf> {
        if self.no_scan_cache {
            return None;
        }
        let from = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let usual = || {
            let caches = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("imagetool"))
        };
        self.scan_cache.clone().or_else(usual)
    }
}

/// A tree that was read, and where its objects are.
pub(crate) struct Tree {
    pub(crate) imported: Imported,
    pub(crate) offers: BTreeMap<ObjectId, u64>,
    pub(crate) source: Arc<dyn ObjectSource>,
    /// Removed when dropped.
    pub(crate) spool: Option<tempfile::TempDir>,
    /// How many bytes were read to be hashed.
    pub(crate) hashed: Option<u64>,
}

/// Reads a directory, an archive, or an archive from standard input, which is `-`. What is read of a directory is
/// remembered in `cache`.
///
/// # Errors
/// [`Failure`]; a tree can't be had in part.
pub(crate) fn read(source: &Path, selection: Selection<'_>, cache: Option<&Path>) -> Result<Tree, Failure> {
    if source == Path::new("-") {
        return archive(source, io::stdin().lock(), selection);
    }
    if source.is_dir() {
        return directory(source, selection, cache);
    }
    archive(source, File::open(source).during(|| format!("can't open {}", source.display()))?, selection)
}

fn directory(path: &Path, selection: Selection<'_>, place: Option<&Path>) -> Result<Tree, Failure> {
    let root = Root::open(path).during(|| format!("can't open {}", path.display()))?;
    let mut offers = Offers::default();
    let kept = place.and_then(|place| Kept::open(place, path, &root));
    let mut cache = kept.as_ref().map(Kept::load).unwrap_or_default();
    let before = cache.clone();
    let (cancel, progress) = (Cancel::default(), Arc::new(Progress::default()));
    let imported = {
        let _watching = Watching::scan("reading", Arc::clone(&progress));
        let watched = Watched { progress, ..Watched::new(&cancel) };
        import::directory_again(&root, selection, &mut cache, watched, &mut offers)
    };
    // What was read counts next time also when this time came to nothing.
    if let Some(kept) = kept.filter(|_| !cache.is_unchanged_since(&before)) {
        kept.save(&cache);
    }
    let (imported, hashed) = imported.during(|| format!("can't make an image of {}", path.display()))?;
    let source = import::TreeSource::new(root, imported.snapshot.clone());
    Ok(Tree { imported, offers: offers.0, source: Arc::new(source), spool: None, hashed: Some(hashed) })
}

/// An archive can be read only once, so that its objects are kept in a temporary store until the server has said which
/// it wants.
fn archive(path: &Path, from: impl Read, selection: Selection<'_>) -> Result<Tree, Failure> {
    let spool = tempfile::tempdir().during(|| "can't make a temporary directory".into())?;
    let store = ObjectStore::open(spool.path()).during(|| "can't make a temporary store".into())?;
    let mut batch = store.batch();
    let during = || format!("can't make an image of {}", path.display());
    let space = store.spool().during(during)?;
    let imported = {
        let _watching = Watching::work("reading");
        let unpacked = import::unpacked(from, UnpackLimits::default()).during(during)?;
        import::tar(unpacked, selection, space, &mut batch).during(during)?
    };
    drop(batch.finish().during(during)?);
    let mut offers: BTreeMap<ObjectId, u64> = imported.snapshot.objects();
    let links = imported.snapshot.links.encode().len() as u64;
    offers.insert(imported.snapshot.tree.links.0, links);
    offers.extend(
        imported.snapshot.directories.iter().map(|(id, directory)| (id.0, directory.encoded().len() as u64)),
    );
    let source = Arc::new(LocalObjects::new(store));
    Ok(Tree { imported, offers, source, spool: Some(spool), hashed: None })
}

/// The file in which scans of one directory are remembered. Without it everything works, only slower: whatever is wrong
/// with it is told and no failure.
struct Kept<'r> {
    root: &'r Root,
    home: File,
    name: String,
    /// One process at a time writes it; the lock ends with this.
    _lock: File,
}

impl<'r> Kept<'r> {
    /// The file for `root`, which is at `path`, in the directory `place`; nothing when another process has it, which
    /// remembers for both.
    fn open(place: &Path, path: &Path, root: &'r Root) -> Option<Self> {
        let open = || -> io::Result<(File, String, File)> {
            // It tells names and digests of files that may be nobody else's concern.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(place)?;
            let metadata = path.metadata()?;
            let name = format!("scan-{}-{}", metadata.dev(), metadata.ino());
            let lock = File::options().create(true).append(true).open(place.join(format!("{name}.lock")))?;
            Ok((File::open(place)?, name, lock))
        };
        let opened = open().map_err(|error| {
            remark("imagetool", &format!("scans are not remembered in {}: {error}", place.display()));
        });
        let (home, name, lock) = opened.ok()?;
        lock.try_lock().ok()?;
        Some(Self { root, home, name, _lock: lock })
    }

    fn load(&self) -> Cache {
        match Cache::load(self.home.as_fd(), self.name.as_bytes(), self.root) {
            Ok(cache) => cache,
            Err(CacheError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Cache::new(),
            Err(error) => {
                remark("imagetool", &error.to_string());
                Cache::new()
            }
        }
    }

    fn save(&self, cache: &Cache) {
        if let Err(error) = cache.save(self.home.as_fd(), self.name.as_bytes()) {
            remark("imagetool", &error.to_string());
        }
    }
}

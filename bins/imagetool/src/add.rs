//! Adding an image: look at the tree, offer its objects, send what is wanted, then the manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dominator_core::filter::Filter;
use dominator_core::health::{HealthChecks, Probe};
use dominator_core::image::{Image, ImageName};
use dominator_core::inode::Kind;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{ImageStore as _, ObjectSource};
use dominator_core::tree::Snapshot;
use dominator_daemon::report::{Show, byte_bar, remark};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure, input};
use dominator_fs::import::{self, Imported, Selection};
use dominator_fs::root::Root;
use dominator_fs::scan::Cancel;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::LocalObjects;
use dominator_rpc::client::{RemoteImages, RemoteObjects};
use dominator_rpc::transport::Tls;
use serde::Serialize;

use crate::options::AddOptions;
use crate::source::{Offers, Shown};
use crate::{lint, required};

/// What was added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Added {
    image: String,
    tree: String,
    /// Objects of the image: file contents, directories and hard links.
    objects: u64,
    bytes: u64,
    /// Those the server lacked.
    sent_objects: u64,
    sent_bytes: u64,
    seconds: f64,
}

impl Show for Added {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { image, objects, sent_objects, seconds, .. } = self;
        let [bytes, sent_bytes] = [self.bytes, self.sent_bytes].map(HumanBytes);
        writeln!(
            out,
            "{image}: {objects} objects of {bytes}, {sent_objects} of {sent_bytes} sent, {seconds:.1} s"
        )
    }
}

/// Adds the image that `options` describe.
///
/// # Errors
/// [`Failure`]; then there is no such image. Objects that were sent stay on the server.
pub(crate) async fn add(tls: &Tls, server: &str, options: AddOptions) -> Result<Added, Failure> {
    let began = Instant::now();
    let name = options.name.clone();
    let during = || format!("can't add {name}");
    let images = RemoteImages::connect(tls, server).await.during(during)?;
    if images.exists(&name).await.during(during)? {
        return Err(Failure::new(format!("there is an image {name}; choose another name")));
    }
    let objects = RemoteObjects::connect(tls, server).await.during(during)?;
    let prepared = tokio::task::spawn_blocking(move || Prepared::of(&options)).await;
    let Prepared { image, offers, source, spool } =
        prepared.during(|| "the import was broken off".into())??;
    let tree = image.tree_id();
    let bar = byte_bar("sending", 0);
    let shown = Shown { source, sizes: offers.clone(), bar: bar.clone() };
    let offered: Vec<_> = offers.iter().map(|(id, size)| (*id, *size)).collect();
    let sent = objects.push(&offered, &shown).await.during(|| format!("can't send objects to {server}"))?;
    bar.finish_and_clear();
    images.add(&name, image).await.during(during)?;
    drop(spool);
    Ok(Added {
        image: name.to_string(),
        tree: tree.to_string(),
        objects: offers.len() as u64,
        bytes: offers.values().sum(),
        sent_objects: sent.len() as u64,
        sent_bytes: sent.iter().map(dominator_core::port::Verified::size).sum(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// An image that is ready to be sent.
struct Prepared {
    image: Image,
    offers: BTreeMap<ObjectId, u64>,
    source: Arc<dyn ObjectSource>,
    /// Where an archive's objects lie; removed when dropped.
    spool: Option<tempfile::TempDir>,
}

impl Prepared {
    fn of(options: &AddOptions) -> Result<Self, Failure> {
        let filter = input::filter(&options.filter)?;
        lint::warn(&options.filter)?;
        let triggers = input::triggers(&options.triggers)?;
        let health = options.health.as_deref().map(input::health).transpose()?.unwrap_or_default();
        let selection = Selection { filter: &filter, xattrs: options.xattrs.xattrs.policy() };
        let (imported, offers, source, spool) = read_tree(&options.source, selection)?;
        if imported.attributes_dropped > 0 {
            let count = imported.attributes_dropped;
            remark(
                "imagetool",
                &format!("{count} extended attributes of other kinds are not part of the image"),
            );
        }
        if filter != Filter::Sparse && !options.no_required_paths {
            refuse_incomplete(&options.name, &imported)?;
        }
        warn_of_health(&health, &imported);
        let image = Image::new(imported.snapshot.tree, filter, triggers, imported.xattrs);
        let image = Image { health, ..image };
        Ok(Self { image, offers, source, spool })
    }
}

/// A check whose program is not part of the image fails on every machine, unless it lies where the image does not reach.
fn warn_of_health(health: &HealthChecks, imported: &Imported) {
    for check in health.iter() {
        let Probe::Command(words) = &check.probe else { continue };
        let program = words.first().and_then(|program| ImagePath::parse(program.as_bytes()).ok());
        if program.is_none_or(|program| !reaches(&imported.snapshot, &program)) {
            let words = words.join(" ");
            remark(
                "imagetool",
                &format!("health check {}: {words}: no such program in the image", check.name),
            );
        }
    }
}

/// Whether the path is there, or leads through a symbolic link, which may lead anywhere.
fn reaches(tree: &Snapshot, path: &ImagePath) -> bool {
    let is_link =
        |path: &ImagePath| tree.inode(path).is_some_and(|inode| matches!(inode.kind, Kind::Symlink { .. }));
    tree.inode(path).is_some()
        || std::iter::successors(path.parent(), ImagePath::parent).any(|parent| is_link(&parent))
}

type Tree = (Imported, BTreeMap<ObjectId, u64>, Arc<dyn ObjectSource>, Option<tempfile::TempDir>);

fn read_tree(source: &Path, selection: Selection<'_>) -> Result<Tree, Failure> {
    if source.is_dir() { read_directory(source, selection) } else { read_tar(source, selection) }
}

fn read_directory(path: &Path, selection: Selection<'_>) -> Result<Tree, Failure> {
    let root = Root::open(path).during(|| format!("can't open {}", path.display()))?;
    let mut offers = Offers::default();
    let imported = import::directory(&root, selection, &Cancel::default(), &mut offers)
        .during(|| format!("can't make an image of {}", path.display()))?;
    let source = import::TreeSource::new(root, imported.snapshot.clone());
    Ok((imported, offers.0, Arc::new(source), None))
}

/// An archive can be read only once, so that its objects are kept in a temporary store until the server has said which
/// it wants.
fn read_tar(path: &Path, selection: Selection<'_>) -> Result<Tree, Failure> {
    let file = File::open(path).during(|| format!("can't open {}", path.display()))?;
    let spool = tempfile::tempdir().during(|| "can't make a temporary directory".into())?;
    let store = ObjectStore::open(spool.path()).during(|| "can't make a temporary store".into())?;
    let mut batch = store.batch();
    let during = || format!("can't make an image of {}", path.display());
    let space = store.spool().during(during)?;
    let imported = import::tar(BufReader::new(file), selection, space, &mut batch).during(during)?;
    drop(batch.finish().during(during)?);
    let mut offers: BTreeMap<ObjectId, u64> = imported.snapshot.objects();
    let links = imported.snapshot.links.encode().len() as u64;
    offers.insert(imported.snapshot.tree.links.0, links);
    offers.extend(
        imported.snapshot.directories.iter().map(|(id, directory)| (id.0, directory.encoded().len() as u64)),
    );
    Ok((imported, offers, Arc::new(LocalObjects::new(store)), Some(spool)))
}

fn refuse_incomplete(name: &ImageName, imported: &Imported) -> Result<(), Failure> {
    let lacking = required::lacking(&imported.snapshot);
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{name} lacks {}, which every machine needs; if that is meant, say --no-required-paths",
        lacking.join(", ")
    )))
}

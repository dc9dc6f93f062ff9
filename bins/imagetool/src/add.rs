//! Adding an image: look at the tree, offer its objects, send what is wanted, then the manifest.

use std::collections::BTreeMap;
use std::io::{self, Write};
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
use dominator_fs::import::{Imported, Selection};
use serde::Serialize;

pub(crate) use crate::tree::{Tree, read as read_tree};

use crate::about::Texts;
use crate::catalog::from_now;
use crate::options::AddOptions;
use crate::source::{Shown, WithTree};
use crate::{Server, lint, required};

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
    /// How much was read here to be hashed; nothing, where the tree was known from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    hashed_bytes: Option<u64>,
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
pub(crate) async fn add(server: &Server, options: AddOptions) -> Result<Added, Failure> {
    let began = Instant::now();
    let name = options.name.clone();
    refuse_taken(server, &name).await?;
    let prepared = tokio::task::spawn_blocking(move || prepare(&options)).await;
    let (image, ready) = prepared.during(|| "the import was broken off".into())??;
    send(server, &name, image, ready, began).await
}

/// Says early what the server would say late.
///
/// # Errors
/// [`Failure`] when there is an image of that name, or that can't be found out.
pub(crate) async fn refuse_taken(server: &Server, name: &ImageName) -> Result<(), Failure> {
    let during = || format!("can't add {name}");
    if server.images().await.during(during)?.exists(name).await.during(during)? {
        return Err(Failure::new(format!("there is an image {name}; choose another name")));
    }
    Ok(())
}

/// A tree whose objects can be sent.
pub(crate) struct Ready {
    offers: BTreeMap<ObjectId, u64>,
    source: Arc<dyn ObjectSource>,
    hashed: Option<u64>,
    /// What is kept with the image besides its tree.
    texts: Texts,
    /// Where an archive's objects lie; removed when dropped.
    _spool: Option<tempfile::TempDir>,
}

impl Ready {
    /// A tree whose directories and hard links are here, and whose file contents `contents` has.
    pub(crate) fn of(tree: Snapshot, contents: Arc<dyn ObjectSource>) -> Self {
        let mut offers = tree.objects();
        offers.insert(tree.tree.links.0, tree.links.encode().len() as u64);
        let directories = tree.directories.iter();
        offers.extend(directories.map(|(id, directory)| (id.0, directory.encoded().len() as u64)));
        let source = Arc::new(WithTree::new(tree, contents));
        Self { offers, source, hashed: None, texts: Texts::default(), _spool: None }
    }
}

/// Sends what the server lacks, then the manifest.
///
/// # Errors
/// [`Failure`]; then there is no such image.
pub(crate) async fn send(
    server: &Server,
    name: &ImageName,
    image: Image,
    ready: Ready,
    began: Instant,
) -> Result<Added, Failure> {
    let during = || format!("can't add {name}");
    let Ready { offers, source, hashed, texts, _spool } = ready;
    let objects = server.object_server().await.during(during)?;
    let tree = image.tree_id();
    let bar = byte_bar("sending", 0);
    let shown = Shown { source, sizes: offers.clone(), bar: bar.clone() };
    let offered: Vec<_> = offers.iter().map(|(id, size)| (*id, *size)).collect();
    let sent = objects.push(&offered, &shown).await;
    let sent = sent.during(|| format!("can't send objects to {}", server.address))?;
    bar.finish_and_clear();
    let sent_texts = texts.send(&objects).await;
    sent_texts.during(|| format!("can't send release notes and build log to {}", server.address))?;
    server.images().await.during(during)?.add(name, image).await.during(during)?;
    Ok(Added {
        image: name.to_string(),
        tree: tree.to_string(),
        objects: offers.len() as u64,
        bytes: offers.values().sum(),
        sent_objects: sent.len() as u64,
        sent_bytes: sent.iter().map(dominator_core::port::Verified::size).sum(),
        hashed_bytes: hashed,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn prepare(options: &AddOptions) -> Result<(Image, Ready), Failure> {
    let filter = input::filter(&options.filter)?;
    lint::warn(&options.filter)?;
    let triggers = input::triggers(&options.triggers)?;
    let health = options.health.as_deref().map(input::health).transpose()?.unwrap_or_default();
    let selection = Selection { filter: &filter, xattrs: options.xattrs.xattrs.policy() };
    let cache = options.cache.place();
    let Tree { imported, offers, source, spool, hashed } =
        read_tree(&options.source, selection, cache.as_deref())?;
    if imported.attributes_dropped > 0 {
        let count = imported.attributes_dropped;
        remark("imagetool", &format!("{count} extended attributes of other kinds are not part of the image"));
    }
    if filter != Filter::Sparse && !options.no_required_paths {
        required::refuse(&options.name, &imported.snapshot)?;
    }
    warn_of_health(&health, &imported);
    let image = Image::new(imported.snapshot.tree, filter, triggers, imported.xattrs);
    let expires_at = options.expires_in.map(from_now);
    let (image, texts) = options.about.describe(Image { health, expires_at, ..image })?;
    Ok((image, Ready { offers, source, hashed, texts, _spool: spool }))
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

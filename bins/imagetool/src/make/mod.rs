//! Images out of what is not a tree at hand: other images, and machines.

mod bulk;
mod edit;
mod layer;
mod machine;

pub(crate) use edit::filtered;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Subcommand;
use dominator_core::image::{Image, ImageName, Provenance};
use dominator_core::port::ObjectSource;
use dominator_core::tree::Snapshot;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure, input};

use crate::Server;
use crate::add::{self, Added};
use crate::lint;
use crate::options::path_or_nothing;

/// How an image can be made of another, or of a machine.
#[derive(Clone, Debug, Subcommand)]
pub enum Make {
    /// Add an image of what a machine is, as its agent sees it
    ///
    /// Paths that match the filter are not taken in, nor what the agent leaves alone now. A file of more than 64 MiB can't be
    /// got from an agent: filter it out, or add the image from a directory or an archive.
    Adds {
        /// Its name, as in web/2026-11-22
        name: ImageName,
        /// The machine's agent
        #[arg(value_name = "HOST:PORT")]
        sub: HostPort,
        /// The filter, a line each; "" makes the image sparse
        #[arg(value_name = "FILTERFILE", value_parser = path_or_nothing())]
        filter: PathBuf,
        /// The triggers, as JSON; "" for none
        #[arg(value_name = "TRIGGERFILE", value_parser = path_or_nothing())]
        triggers: PathBuf,
        /// Accept a tree without /etc, /etc/passwd, /usr and /usr/bin, which every machine needs
        #[arg(long)]
        no_required_paths: bool,
    },
    /// Add an image of the tree of another one, with another filter and other triggers
    ///
    /// Paths that match the filter are not taken in. Health checks stay.
    Addi {
        /// Its name, as in web/2026-11-22
        name: ImageName,
        /// Whose tree it has
        image: ImageName,
        /// The filter, a line each; "" makes the image sparse
        #[arg(value_name = "FILTERFILE", value_parser = path_or_nothing())]
        filter: PathBuf,
        /// The triggers, as JSON; "" for none
        #[arg(value_name = "TRIGGERFILE", value_parser = path_or_nothing())]
        triggers: PathBuf,
    },
    /// Add an image that is another one with some of its files replaced
    ///
    /// Everything but directories in each layer must be a path of the image already: a misspelt one is refused.
    Addrep {
        /// Its name, as in web/2026-11-22
        name: ImageName,
        /// The other image
        image: ImageName,
        /// Directories or tar archives of files to replace
        #[arg(value_name = "DIR|TAR", required = true)]
        layers: Vec<PathBuf>,
    },
    /// Replace files in the newest image of every directory: for each that has all of them, one image more is added
    BulkAddrep {
        /// What the new names end in, after the old ones, as in .1
        suffix: String,
        /// Directories or tar archives of files to replace
        #[arg(value_name = "DIR|TAR", required = true)]
        layers: Vec<PathBuf>,
        /// Only in this directory of images and those below; may be repeated
        #[arg(long = "in", value_name = "DIR")]
        within: Vec<String>,
        /// Only tell which images would be added
        #[arg(long)]
        dry_run: bool,
    },
    /// Add an image again under another name
    Copy {
        /// The new name
        name: ImageName,
        /// Which image
        image: ImageName,
    },
}

impl Make {
    /// Does it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be done.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        match self {
            Self::Adds { name, sub, filter, triggers, no_required_paths } => {
                let order = machine::Order { name, sub, filter, triggers, no_required_paths };
                server.done(&machine::add(server, order).await?)
            }
            Self::Addi { name, image, filter, triggers } => {
                server.done(&addi(server, &name, &image, (filter, triggers)).await?)
            }
            Self::Addrep { name, image, layers } => {
                add::refuse_taken(server, &name).await?;
                let layers = layer::read(layers).await?;
                server.done(&replaced(server, &name, &image, &layers).await?)
            }
            Self::BulkAddrep { suffix, layers, within, dry_run } => {
                let layers = layer::read(layers).await?;
                server.done(&bulk::add(server, &bulk::Order { suffix, within, dry_run }, &layers).await?)
            }
            Self::Copy { name, image } => server.done(&copy(server, &name, &image).await?),
        }
    }
}

async fn addi(
    server: &Server,
    name: &ImageName,
    of: &ImageName,
    (filter, triggers): (PathBuf, PathBuf),
) -> Result<Added, Failure> {
    let began = Instant::now();
    add::refuse_taken(server, name).await?;
    lint::warn(&filter)?;
    let (filter, triggers) = (input::filter(&filter)?, input::triggers(&triggers)?);
    let (image, tree) = (server.manifest(of).await?, server.tree(of).await?);
    let tree = edit::filtered(&tree, &filter);
    let image = Image { tree: tree.tree.clone(), filter, triggers, ..made_of(&image, of) };
    let sent = add::Ready::of(tree, server.objects().await?);
    add::send(server, name, image, sent, began).await
}

/// Adds image `of` with the files of the layers in it.
async fn replaced(
    server: &Server,
    name: &ImageName,
    of: &ImageName,
    layers: &layer::Layers,
) -> Result<Added, Failure> {
    let began = Instant::now();
    let (image, tree) = (server.manifest(of).await?, server.tree(of).await?);
    let tree = layers.over(of, &tree)?;
    let image = Image { tree: tree.tree.clone(), ..made_of(&image, of) };
    let sent = add::Ready::of(tree, layers.source(server.objects().await?));
    add::send(server, name, image, sent, began).await
}

async fn copy(server: &Server, name: &ImageName, of: &ImageName) -> Result<Added, Failure> {
    let began = Instant::now();
    add::refuse_taken(server, name).await?;
    let (image, tree) = (server.manifest(of).await?, server.tree(of).await?);
    let sent = add::Ready::of(Snapshot::clone(&tree), server.objects().await?);
    add::send(server, name, made_of(&image, of), sent, began).await
}

/// What an image of image `of` begins with. For whom that one was made has no say in this one.
fn made_of(image: &Image, of: &ImageName) -> Image {
    let provenance =
        Provenance { created_for: String::new(), source_image: Some(of.clone()), ..image.provenance.clone() };
    Image { provenance, ..image.clone() }
}

impl Server {
    /// The server's own objects.
    async fn objects(&self) -> Result<Arc<dyn ObjectSource>, Failure> {
        let objects = self.object_server().await;
        Ok(Arc::new(objects.during(|| format!("can't reach the objects of {}", self.address))?))
    }
}

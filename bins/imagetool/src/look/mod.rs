//! What an image holds, looked at path by path.

mod filtered;
mod history;
mod inode;
mod matched;
mod patch;
mod saved;
mod text;
mod usage;

pub(crate) use matched::lines as trigger_lines;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use dominator_core::image::{Image, ImageName};
use dominator_core::path::ImagePath;
use dominator_core::port::ImageStore as _;
use dominator_core::tree::Snapshot;
use dominator_daemon::report::{Show, show};
use dominator_daemon::{During, Failure};

use crate::Server;
use crate::options::{image_path, path_or_nothing};

/// What of an image can be looked at.
#[derive(Clone, Debug, Subcommand)]
pub enum Look {
    /// Print the filter of an image as a filter file
    ShowFilter {
        /// Which image
        name: ImageName,
    },
    /// Print the triggers of an image as a file of triggers
    ShowTriggers {
        /// Which image
        name: ImageName,
    },
    /// Show what an image says of itself, without looking into its tree
    ShowMetadata {
        /// Which image
        name: ImageName,
    },
    /// Show what an image says of one path
    ShowInode {
        /// Which image
        name: ImageName,
        /// Which path, as in /etc/passwd
        #[arg(value_parser = image_path())]
        path: ImagePath,
    },
    /// Estimate how much room an image takes on a machine
    EstimateUsage {
        /// Which image
        name: ImageName,
        /// The blocks of the machine's file-system, in bytes
        #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
        block_size: u64,
    },
    /// Tell in which images of the same directory, up to this one, a path came, changed and went
    TraceInodeHistory {
        /// Up to which image
        name: ImageName,
        /// Which path, as in /etc/passwd
        #[arg(value_parser = image_path())]
        path: ImagePath,
    },
    /// Tell which paths of an image each trigger line matches; exit with 0 if each matches something, with 1 if not
    MatchTriggers {
        /// Which image
        name: ImageName,
        /// Other triggers than the image's own, as JSON
        #[arg(value_name = "TRIGGERFILE", value_parser = path_or_nothing())]
        triggers: Option<PathBuf>,
    },
}

/// What of an image can be written, and held against a directory.
#[derive(Clone, Debug, Subcommand)]
pub enum Save {
    /// Get one file of an image
    GetFileInImage {
        /// Which image
        name: ImageName,
        /// Which path, as in /etc/passwd
        #[arg(value_parser = image_path())]
        path: ImagePath,
        /// Where to; standard output, if not given
        file: Option<PathBuf>,
    },
    /// Write an image's tree as a tar archive (pax), with all attributes; the same tree is the same bytes
    Tar {
        /// Which image
        name: ImageName,
        /// Where to; standard output, if not given
        file: Option<PathBuf>,
    },
    /// List what of a directory the filter of an image leaves alone
    ScanFilteredFiles {
        /// Which image
        name: ImageName,
        /// Which directory, as the root of a machine
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Copy what of a directory the filter of an image leaves alone to another one, which must be empty or not exist
    CopyFilteredFiles {
        /// Which image
        name: ImageName,
        /// Which directory, as the root of a machine
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// Where to
        #[arg(value_name = "TO")]
        to: PathBuf,
    },
    /// Make a directory what an image says, as an agent would: paths its filter matches stay as they are. Exits with 1 if
    /// not everything could be done
    PatchDirectory {
        /// Which image
        name: ImageName,
        /// Which directory, as the root of a machine; not that of this one
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Only tell what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

impl Look {
    /// Does it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be done.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        match self {
            Self::ShowFilter { name } => {
                server.done(&text::FilterShown::of(&name, &*server.manifest(&name).await?))
            }
            Self::ShowTriggers { name } => {
                server.done(&text::TriggersShown::of(&name, &*server.manifest(&name).await?)?)
            }
            Self::ShowMetadata { name } => {
                server.done(&text::Metadata::of(&name, &*server.manifest(&name).await?))
            }
            Self::ShowInode { name, path } => {
                server.done(&inode::InodeShown::of(&name, &*server.tree(&name).await?, &path)?)
            }
            Self::EstimateUsage { name, block_size } => {
                server.done(&usage::Usage::of(&name, &*server.tree(&name).await?, block_size))
            }
            Self::TraceInodeHistory { name, path } => server
                .done(&history::trace(&server.images().await.during(during(&name))?, &name, path).await?),
            Self::MatchTriggers { name, triggers } => {
                let (image, tree) = (server.manifest(&name).await?, server.tree(&name).await?);
                let matched = matched::Matched::of(&name, &image, &tree, triggers.as_deref())?;
                server.done(&matched)?;
                Ok(if matched.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

impl Save {
    /// Does it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be done.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        match self {
            Self::GetFileInImage { name, path, file } => {
                server.done_if(saved::file(server, &name, path, file).await?.as_ref())
            }
            Self::Tar { name, file } => server.done_if(saved::archive(server, &name, file).await?.as_ref()),
            Self::ScanFilteredFiles { name, directory } => {
                let filter = server.manifest(&name).await?.filter.clone();
                server.done(&filtered::scan(&name, filter, directory).await?)
            }
            Self::CopyFilteredFiles { name, from, to } => {
                let filter = server.manifest(&name).await?.filter.clone();
                server.done(&filtered::copy(&name, filter, from, to).await?)
            }
            Self::PatchDirectory { name, directory, dry_run } => {
                let patched = patch::patch(server, &name, directory, dry_run).await?;
                server.done(&patched)?;
                Ok(if patched.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

fn during(name: &ImageName) -> impl Fn() -> String + '_ {
    move || format!("can't get {name}")
}

impl Server {
    /// The manifest of an image.
    pub(crate) async fn manifest(&self, name: &ImageName) -> Result<Arc<Image>, Failure> {
        self.images().await.during(during(name))?.image(name).await.during(during(name))
    }

    /// The tree of an image.
    pub(crate) async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, Failure> {
        self.images().await.during(during(name))?.tree(name).await.during(during(name))
    }

    /// Shows what came of something that was done.
    pub(crate) fn done(&self, result: &impl Show) -> Result<ExitCode, Failure> {
        show(result, self.format).map(|()| ExitCode::SUCCESS)
    }

    /// The same, unless the result itself went to standard output.
    fn done_if(&self, result: Option<&impl Show>) -> Result<ExitCode, Failure> {
        result.map_or(Ok(ExitCode::SUCCESS), |result| self.done(result))
    }
}

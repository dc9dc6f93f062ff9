//! Adds, shows, gets, compares and deletes images on an image server.
#![forbid(unsafe_code)]

mod about;
mod add;
mod build;
mod catalog;
mod compress;
mod diff;
mod directories;
mod garbage;
mod get;
mod lint;
mod list;
mod look;
mod make;
mod merge;
mod options;
mod origin;
mod progress;
mod replication;
mod required;
mod show;
mod source;
mod text;
mod tree;

pub use about::AboutOptions;
pub use build::Built;
pub use catalog::Catalog;
pub use directories::{ChownOptions, Directory, MkdirOptions, Owner};
pub use look::{Look, Save};
pub use make::Make;
pub use options::{AddOptions, Command, Options};
pub use text::{LintOptions, Text};
pub use tree::CacheOptions;

use std::process::ExitCode;

use dominator_core::image::ImageName;
use dominator_core::port::{ImageError, ImageStore as _, Share, StoreError};
use dominator_daemon::process::answer;
use dominator_daemon::report::{Format, show};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{Compression, RemoteImages, RemoteObjects};
use dominator_rpc::transport::Tls;

use crate::diff::Differences;
use crate::list::{Deleted, Existence};
use crate::show::Summary;

const NAME: &str = "imagetool";

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Options { image_server, compress, command, output, tls } = options;
    if let Command::Text(text) = &command {
        return text.run(output.format());
    }
    let tls = tls.tool()?;
    let compression = compress.with(&image_server);
    let server = Server { tls, address: image_server.to_string(), compression, format: output.format() };
    match command {
        Command::Add(options) => {
            show(&add::add(&server, *options).await?, server.format)?;
        }
        Command::Show { name } => server.show(&name).await?,
        Command::Get { name, directory } => {
            show(&get::get(&server, &name, directory).await?, server.format)?;
        }
        Command::Check { name } => return Ok(answer(NAME, server.check(&name).await)),
        Command::Diff { left, right } => return Ok(answer(NAME, server.diff(&left, &right).await)),
        Command::Delete { name } => server.delete(&name).await?,
        Command::Directory(directory) => return directory.run(&server).await,
        Command::Built(built) => return built.run(&server).await,
        Command::Catalog(catalog) => return catalog.run(&server).await,
        Command::Look(look) => return look.run(&server).await,
        Command::Make(make) => return make.run(&server).await,
        Command::Save(save) => return save.run(&server).await,
        Command::Text(_) => {}
        Command::ListUnreferenced => server.list_unreferenced().await?,
        Command::ShowUnreferenced => server.show_unreferenced().await?,
        Command::DeleteUnreferenced { percent, bytes } => {
            server.delete_unreferenced(Share { percent, bytes }).await?;
        }
        Command::Statistics { names } => server.statistics(names).await?,
        Command::GetReplicationMaster => server.replication_master().await?,
        Command::AcceptDeletions { names } => server.accept_deletions(&names).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The image server and how to show what it says.
pub(crate) struct Server {
    pub(crate) tls: Tls,
    pub(crate) address: String,
    pub(crate) compression: Compression,
    pub(crate) format: Format,
}

impl Server {
    /// Its objects, compressed on their way where that was asked for.
    pub(crate) async fn object_server(&self) -> Result<RemoteObjects, StoreError> {
        let objects = RemoteObjects::connect(&self.tls, &self.address).await?;
        Ok(objects.compressing(self.compression))
    }

    pub(crate) async fn images(&self) -> Result<RemoteImages, ImageError> {
        RemoteImages::connect(&self.tls, &self.address).await
    }

    async fn show(&self, name: &ImageName) -> Result<(), Failure> {
        let during = || format!("can't show {name}");
        let images = self.images().await.during(during)?;
        let image = images.image(name).await.during(during)?;
        let tree = images.tree(name).await.during(during)?;
        show(&Summary::of(name, &image, &tree), self.format)
    }

    async fn check(&self, name: &ImageName) -> Result<bool, Failure> {
        let during = || format!("can't ask for {name}");
        let exists = self.images().await.during(during)?.exists(name).await.during(during)?;
        show(&Existence { image: name.to_string(), exists }, self.format)?;
        Ok(exists)
    }

    /// Whether they are the same.
    async fn diff(&self, left: &ImageName, right: &ImageName) -> Result<bool, Failure> {
        let images = self.images().await.during(|| "can't compare".into())?;
        let before = images.tree(left).await.during(|| format!("can't get {left}"))?;
        let after = images.tree(right).await.during(|| format!("can't get {right}"))?;
        let differences = Differences::between((left, &before), (right, &after));
        show(&differences, self.format)?;
        Ok(differences.is_empty())
    }

    async fn delete(&self, name: &ImageName) -> Result<(), Failure> {
        let during = || format!("can't delete {name}");
        self.images().await.during(during)?.delete(name).await.during(during)?;
        show(&Deleted { image: name.to_string(), deleted: true }, self.format)
    }
}

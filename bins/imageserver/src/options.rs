use std::path::PathBuf;

use clap::Parser;
use dominator_core::replica::{ArchivedExpiry, Mode, Policy};
use dominator_daemon::value::{Duration, HostPort};
use dominator_daemon::{Daemon, DaemonOptions, Failure, input};

use crate::garbage::GarbageOptions;

/// What this daemon is called and where it lives.
pub const DAEMON: Daemon =
    Daemon { name: "imageserver", listen: "0.0.0.0:6971", state_dir: "/var/lib/imageserver" };

/// Keeps images and serves them.
///
/// An image is what a machine must be: a tree of files, a filter and triggers, under a name that is never used again.
/// File contents are kept once, however many images hold them. Images are added with imagetool.
#[derive(Clone, Debug, Parser)]
#[command(name = "imageserver", version, after_help = EXAMPLE)]
pub struct Options {
    /// Keep manifests in this directory [default: STATE-DIR/images]
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Keep file contents in this directory [default: STATE-DIR/objects]
    #[arg(long, value_name = "DIR")]
    pub object_dir: Option<PathBuf>,
    /// Let each address send and get so many bytes of file contents a second, however many calls it makes [default: as
    /// many as there can be]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(65_536..))]
    pub client_bytes_per_second: Option<u64>,
    /// Be a replica of this image server: take over what it has and what it deletes, and add here what it has added first
    ///
    /// Only what the master says was deleted is deleted here. What it merely does not have, as it has lost it, is kept and told
    /// of: see imagetool get-replication-master. Replicas may have replicas; they must not follow each other in a circle.
    #[arg(long, value_name = "HOST:PORT", help_heading = REPLICA)]
    pub image_server: Option<HostPort>,
    /// Take over only images whose names match a line of this filter from their beginning
    #[arg(long, value_name = "FILE", requires = "image_server", help_heading = REPLICA)]
    pub include: Option<PathBuf>,
    /// Take over no images whose names match a line of this filter from their beginning
    #[arg(long, value_name = "FILE", requires = "image_server", help_heading = REPLICA)]
    pub exclude: Option<PathBuf>,
    /// Keep what the master deletes, and leave out images that expire
    #[arg(long, requires = "image_server", help_heading = REPLICA)]
    pub archive_mode: bool,
    /// In archive mode, take over images that expire as well, until they do
    #[arg(long, requires = "archive_mode", help_heading = REPLICA)]
    pub archive_expiring_images: bool,
    /// What becomes of objects that no image needs.
    #[command(flatten)]
    pub garbage: GarbageOptions,
    /// Let who owns an image put its expiry off until so long from now
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub max_expiration: Duration,
    /// Let those whose certificate lists ImageServer.ChangeImageExpiration put it off until so long from now
    #[arg(long, value_name = "TIME", default_value = "730h")]
    pub max_expiration_privileged: Duration,
    /// What every daemon has. Last, as its headings would stand above what follows.
    #[command(flatten)]
    pub common: DaemonOptions,
}

const REPLICA: &str = "Replica";

const EXAMPLE: &str = "\
Example:
  imageserver --state-dir /srv/images --listen 10.0.0.5:6971
  imageserver --image-server images.example.org:6971   # a replica";

impl Options {
    /// Which images of its master a replica has.
    ///
    /// # Errors
    /// [`Failure`], naming the file, when a filter can't be read.
    pub fn policy(&self) -> Result<Policy, Failure> {
        let mode = match (self.archive_mode, self.archive_expiring_images) {
            (false, _) => Mode::Mirror,
            (true, false) => Mode::Archive(ArchivedExpiry::LeftOut),
            (true, true) => Mode::Archive(ArchivedExpiry::TakenIn),
        };
        let filter = |path: &Option<PathBuf>| path.as_deref().map(input::filter).transpose();
        Ok(Policy { include: filter(&self.include)?, exclude: filter(&self.exclude)?, mode })
    }

    /// Where manifests are kept.
    pub fn image_dir(&self) -> PathBuf {
        self.image_dir.clone().unwrap_or_else(|| self.common.state_dir.join("images"))
    }

    /// Where file contents are kept.
    pub fn object_dir(&self) -> PathBuf {
        self.object_dir.clone().unwrap_or_else(|| self.common.state_dir.join("objects"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    #[test]
    fn the_example_configuration_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("imageserver.toml");
        dominator_daemon::config::check::<Options>(&path).unwrap();
        Options::command().debug_assert();
    }

    #[test]
    fn stores_lie_below_the_state_directory_unless_told_otherwise() {
        let arguments = ["imageserver", "--state-dir=/s", "--object-dir=/o"].map(Into::into);
        let options: Options = dominator_daemon::config::parse(|c| DAEMON.adjust(c), arguments).unwrap();
        assert_eq!(
            (options.image_dir(), options.object_dir()),
            (Path::new("/s/images").into(), Path::new("/o").into())
        );
    }
}

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use dominator_core::image::ImageName;
use dominator_core::path::ImagePath;
use dominator_daemon::process::EXIT_STATUS_OF_ANSWERS;
use dominator_daemon::report::OutputOptions;
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::{Duration, HostPort};
use dominator_daemon::xattrs::XattrOptions;

use crate::about::AboutOptions;
use crate::build::Built;
use crate::catalog::Catalog;
use crate::compress::Compress;
use crate::directories::Directory;
use crate::look::{Look, Save};
use crate::make::Make;
use crate::text::Text;
use crate::tree::CacheOptions;

/// Adds, shows, gets, compares and deletes images.
///
/// An image is a tree of files with a filter (which paths of a machine are left alone) and triggers (which services are
/// restarted when which paths change), under a name that is never used twice.
#[derive(Clone, Debug, Parser)]
#[command(name = "imagetool", version, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS_OF_ANSWERS}"))]
pub struct Options {
    /// Talk to this image server
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971", global = true)]
    pub image_server: HostPort,
    /// Compress file contents on their way where that is worth it
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Compress::Auto, global = true)]
    pub compress: Compress,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
    /// Whom to be and whom to believe.
    #[command(flatten)]
    pub tls: TlsOptions,
}

const EXAMPLES: &str = r#"Examples:
  imagetool add web/2026-11-22 /srv/web-root filter.txt triggers.json --health health.json
  zcat web.tar.gz | imagetool add web/4 - filter.txt triggers.json
  imagetool addrep web/5 web/4 fixes/      # the same with some files replaced
  imagetool add keys/3 keys.tar "" ""        # sparse: adds and repairs its own paths, never deletes
  imagetool diff web/2026-11-20 web/2026-11-22
  imagetool lint filter.txt triggers.json --tree /srv/web-root
  imagetool lint filter.txt --explain /var/log/syslog"#;

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Add an image made of a directory or a tar archive
    ///
    /// Only objects the server lacks are sent. Paths that match the filter are not taken in.
    Add(Box<AddOptions>),
    /// Find images, and follow which there are.
    #[command(flatten)]
    Catalog(Catalog),
    /// Show what an image says and how much it holds
    Show {
        /// Which image
        name: ImageName,
    },
    /// Write an image's tree to a directory, which must be empty or not exist
    Get {
        /// Which image
        name: ImageName,
        /// Where to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Exit with 0 if there is an image of that name, with 1 if not, with 2 if that could not be found out
    Check {
        /// Which image
        name: ImageName,
    },
    /// Name every path in which two images differ; exit with 0 if there is none, with 1 if there are, with 2 if that could
    /// not be found out
    Diff {
        /// One image
        left: ImageName,
        /// The other
        right: ImageName,
    },
    /// Look at files of filters and triggers.
    #[command(flatten)]
    Text(Text),
    /// Look into an image.
    #[command(flatten)]
    Look(Look),
    /// Write what is in an image.
    #[command(flatten)]
    Save(Save),
    /// Make an image of something else than a tree.
    #[command(flatten)]
    Make(Make),
    /// Delete an image; its name is never free again
    ///
    /// Whoever added it may, for whom it was made, its owners, the group that owns its directory, and who has the power.
    Delete {
        /// Which image
        name: ImageName,
    },
    /// Delete objects that no image needs, those first that have waited longest: the larger of a share and a number of bytes
    ///
    /// What is being uploaded or read stays, and what was added, offered or needed within the last hour, unless the server
    /// was told otherwise. Nothing is deleted while an image can't be read.
    #[command(name = "delunrefobj")]
    DeleteUnreferenced {
        /// That much of the bytes there are, in percent
        #[arg(value_parser = clap::value_parser!(u8).range(..=100))]
        percent: u8,
        /// So many bytes
        bytes: u64,
    },
    /// List all objects that no image needs, with their lengths, those first that have waited longest
    #[command(name = "listunrefobj")]
    ListUnreferenced,
    /// Show how many objects no image needs
    #[command(name = "showunrefobj")]
    ShowUnreferenced,
    /// Show how much some images take together, and how much of it would be free without them
    #[command(name = "get-object-statistics-for-images")]
    Statistics {
        /// Which images
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ImageName>,
    },
    /// Name the image server that this one is a replica of, how it stands to that, and what it holds
    ///
    /// Held is what the master does not have as it is on the replica, and does not say was deleted: because it has lost it, or is
    /// another server altogether.
    GetReplicationMaster,
    /// Have a replica delete images that its master has lost
    ///
    /// They are deleted when the master, asked once more, still does not have them. Their names are never free again there.
    AcceptDeletions {
        /// Which images; get-replication-master names those that are held
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ImageName>,
    },
    /// What is done with directories of images.
    #[command(flatten)]
    Directory(Directory),
    /// What is known of how an image was built.
    #[command(flatten)]
    Built(Built),
}

/// What to add.
#[derive(Clone, Debug, clap::Args)]
pub struct AddOptions {
    /// Its name, as in web/2026-11-22
    pub name: ImageName,
    /// The tree: a directory or a tar archive, plain or compressed with gzip, xz or zstd; - is an archive on standard input
    #[arg(value_name = "DIR|TAR|-")]
    pub source: PathBuf,
    /// The filter, a line each; "" makes the image sparse
    #[arg(value_name = "FILTERFILE", value_parser = path_or_nothing())]
    pub filter: PathBuf,
    /// The triggers, as JSON; "" for none
    #[arg(value_name = "TRIGGERFILE", value_parser = path_or_nothing())]
    pub triggers: PathBuf,
    /// The health checks, as JSON: what must be true of a machine for the image to stay on it
    #[arg(long, value_name = "FILE")]
    pub health: Option<PathBuf>,
    /// Have it expire in this time from now, as in 12h or 30d; it then vanishes, and its name is free again
    #[arg(long, value_name = "TIME")]
    pub expires_in: Option<Duration>,
    /// Accept a tree without /etc, /etc/passwd, /usr and /usr/bin, which every machine needs
    #[arg(long)]
    pub no_required_paths: bool,
    /// Which extended attributes the image has.
    #[command(flatten)]
    pub xattrs: XattrOptions,
    /// What is remembered of the tree.
    #[command(flatten)]
    pub cache: CacheOptions,
    /// What is said of it besides.
    #[command(flatten)]
    pub about: AboutOptions,
}

/// An absolute path of an image; names are bytes.
pub(crate) fn image_path() -> impl TypedValueParser<Value = ImagePath> {
    OsStringValueParser::new().try_map(|path| ImagePath::parse(path.as_bytes()))
}

/// A path, or the empty string, which a path proper can't be.
pub(crate) fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_filter_and_no_triggers_are_written_as_empty_strings() {
        Options::command().debug_assert();
        let options = Options::try_parse_from(["imagetool", "add", "a/1", "/tree", "", ""]).unwrap();
        let Command::Add(add) = options.command else { panic!("{options:?}") };
        assert_eq!((add.filter, add.triggers), (PathBuf::new(), PathBuf::new()));
    }
}

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use dominator_core::object::ObjectId;
use dominator_daemon::process::EXIT_STATUS_OF_ANSWERS;
use dominator_daemon::report::OutputOptions;
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::{Duration, HostPort};

/// Adds, checks and gets single objects.
///
/// An object is contents named by their digest: what `sha256sum` prints of a file is the name of its contents.
#[derive(Clone, Debug, Parser)]
#[command(name = "objecttool", version, after_help = EXIT_STATUS_OF_ANSWERS)]
pub struct Options {
    /// Talk to this image server
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971", global = true)]
    pub object_server: HostPort,
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

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Add the contents of files; only what the server lacks is sent
    ///
    /// What no image needs is collected after a while.
    Add {
        /// Which files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Exit with 0 if all of these are there, with 1 if not, with 2 if that could not be found out
    Check {
        /// Which objects
        #[arg(value_name = "OBJECT", required = true)]
        objects: Vec<ObjectId>,
    },
    /// Get an object; it is verified
    Get {
        /// Which object
        #[arg(value_name = "OBJECT")]
        object: ObjectId,
        /// Where to; standard output, if not given
        file: Option<PathBuf>,
    },
    /// Get all objects in a list, each to a file named by its digest; they are verified
    Mget {
        /// A file with a digest on each line
        #[arg(value_name = "LISTFILE")]
        list: PathBuf,
        /// Where to: a directory, which is made if need be
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Get objects over and over, keep nothing, and tell how fast they come
    TestBandwidth {
        /// Which objects; large ones tell most
        #[arg(value_name = "OBJECT", required = true)]
        objects: Vec<ObjectId>,
        /// For how long
        #[arg(long, value_name = "TIME", default_value = "10s")]
        duration: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn an_object_is_named_by_its_digest_and_by_nothing_else() {
        Options::command().debug_assert();
        let id = ObjectId::of(b"x").to_string();
        assert!(Options::try_parse_from(["objecttool", "get", &id]).is_ok());
        for bad in ["", "x", &id[1..], &format!("{id}0"), &format!("g{}", &id[1..])] {
            assert!(Options::try_parse_from(["objecttool", "get", bad]).is_err(), "{bad:?}");
        }
    }
}

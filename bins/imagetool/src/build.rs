//! What is known of how an image was built: its log and its packages.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use clap::Subcommand;
use dominator_core::image::{Document, ImageName, Package};
use dominator_core::object::ObjectId;
use dominator_core::port::{ImageStore as _, ObjectSource as _, Piece, StoreError};
use dominator_daemon::report::{Show, show};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{RemoteObjects, verified};
use futures_util::TryStreamExt as _;
use serde::Serialize;

use crate::Server;
use crate::about::MAX_TEXT;

/// What is known of how an image was built.
#[derive(Clone, Debug, Subcommand)]
pub enum Built {
    /// Print what was said while an image was built, or where that can be read
    GetBuildLog {
        /// Which image
        name: ImageName,
    },
    /// List the packages in an image: name, version, installed size in bytes
    GetPackageList {
        /// Which image
        name: ImageName,
    },
}

impl Built {
    /// Shows it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be found out.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        match self {
            Self::GetBuildLog { name } => log(server, &name).await?,
            Self::GetPackageList { name } => packages(server, &name).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What was said while an image was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BuildLog {
    image: String,
    /// Where it is, if it is not kept with the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

impl Show for BuildLog {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(url) = &self.url {
            writeln!(out, "{url}")?;
        }
        let Some(log) = &self.log else { return Ok(()) };
        if io::stdout().is_terminal() {
            // Whoever built the image must not write to the terminal of who reads of it.
            let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            return write!(out, "{}", log.replace(odd, "\u{fffd}"));
        }
        write!(out, "{log}")
    }
}

/// The packages in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Packages {
    image: String,
    packages: Vec<PackageText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PackageText {
    name: String,
    version: String,
    size: u64,
}

impl Show for Packages {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let printable = |text: &str| text.replace(char::is_control, "\u{fffd}");
        self.packages.iter().try_for_each(|PackageText { name, version, size }| {
            writeln!(out, "{} {} {size}", printable(name), printable(version))
        })
    }
}

/// Shows the build log of an image.
///
/// # Errors
/// [`Failure`], also when there is none.
async fn log(server: &Server, name: &ImageName) -> Result<(), Failure> {
    let during = || format!("can't get the build log of {name}");
    let images = server.images().await.during(during)?;
    let image = images.image(name).await.during(during)?;
    let mut shown = BuildLog { image: name.to_string(), url: None, log: None };
    match &image.provenance.build_log {
        None => return Err(Failure::new(format!("{name} has no build log"))),
        Some(Document::Url(url)) => shown.url = Some(url.to_string()),
        Some(Document::Object(id)) => {
            let objects = server.object_server().await.during(during)?;
            let text = fetch(&objects, *id).await.during(during)?;
            shown.log = Some(String::from_utf8_lossy(&text).into_owned());
        }
    }
    show(&shown, server.format)
}

/// Shows the packages in an image.
///
/// # Errors
/// [`Failure`].
async fn packages(server: &Server, name: &ImageName) -> Result<(), Failure> {
    let during = || format!("can't get the packages of {name}");
    let image = server.images().await.during(during)?.image(name).await.during(during)?;
    let text = |package: &Package| PackageText {
        name: package.name.clone(),
        version: package.version.clone(),
        size: package.size,
    };
    let packages = image.provenance.packages.iter().map(text).collect();
    show(&Packages { image: name.to_string(), packages }, server.format)
}

async fn fetch(objects: &RemoteObjects, id: ObjectId) -> Result<Vec<u8>, StoreError> {
    let mut pieces = verified(objects.objects(vec![id]).await?);
    let mut text = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        if let Piece::Data(data) = piece {
            if text.len() as u64 + data.len() as u64 > MAX_TEXT {
                return Err(StoreError::Protocol(format!("a text of more than {MAX_TEXT} bytes")));
            }
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

//! Directories of images: making, giving away, deleting and listing them.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dominator_core::namespace::{BadGroupName, DirectoryName, GroupName, ImageDirectory};
use dominator_core::port::{ImageError, ImageStore as _, Parents};
use dominator_daemon::process::answer;
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteImages;
use serde::Serialize;

use crate::{NAME, Server};

/// What is done with directories of images.
#[derive(Clone, Debug, Subcommand)]
pub enum Directory {
    /// Make a directory of images; it belongs to the group of the one it is in
    Mkdir(MkdirOptions),
    /// Delete a directory of images in which there is nothing, not even the name of a deleted image
    Rmdir {
        /// Which directory
        #[arg(value_name = "DIR")]
        name: DirectoryName,
    },
    /// Give a directory of images to a group, whose members then change what is in it
    Chown(ChownOptions),
    /// List all directories of images, each with the group it belongs to
    Listdirs,
    /// Exit with 0 if there is a directory of images of that name, with 1 if not, with 2 if that could not be found out
    CheckDirectory {
        /// Which directory
        #[arg(value_name = "DIR")]
        name: DirectoryName,
    },
}

impl Directory {
    /// Does it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be done.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        let format = server.format;
        let images = server.images().await.during(|| format!("can't reach {}", server.address));
        if let Self::CheckDirectory { name } = &self {
            let found = match images {
                Ok(images) => check(&images, name, format).await,
                Err(error) => Err(error),
            };
            return Ok(answer(NAME, found));
        }
        let images = images?;
        match self {
            Self::Mkdir(options) => make(&images, options, format).await?,
            Self::Rmdir { name } => delete(&images, &name, format).await?,
            Self::Chown(options) => chown(&images, options, format).await?,
            Self::Listdirs => list(&images, format).await?,
            Self::CheckDirectory { .. } => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What to make.
#[derive(Clone, Debug, Args)]
pub struct MkdirOptions {
    /// Its name, as in web/front
    #[arg(value_name = "DIR")]
    pub name: DirectoryName,
    /// Make those above it, too, where they are missing; fine if all are there
    #[arg(short, long)]
    pub parents: bool,
}

/// Whom to give it to.
#[derive(Clone, Debug, Args)]
pub struct ChownOptions {
    /// The group it is to belong to; "" for none
    #[arg(value_name = "GROUP", value_parser = group_or_none)]
    pub group: Owner,
    /// Its name; a dot for the root
    #[arg(value_name = "DIR")]
    pub name: DirectoryName,
}

/// A group, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(pub Option<GroupName>);

fn group_or_none(text: &str) -> Result<Owner, BadGroupName> {
    if text.is_empty() { Ok(Owner(None)) } else { text.parse().map(|group| Owner(Some(group))) }
}

/// A directory of images as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DirectoryText {
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_group: Option<String>,
}

impl DirectoryText {
    fn of(directory: &ImageDirectory) -> Self {
        let owner_group = directory.owner_group.as_ref().map(ToString::to_string);
        Self { directory: directory.name.to_string(), owner_group }
    }
}

impl Show for DirectoryText {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.owner_group {
            Some(group) => writeln!(out, "{} {group}", self.directory),
            None => writeln!(out, "{}", self.directory),
        }
    }
}

/// All directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Directories {
    directories: Vec<DirectoryText>,
}

impl Show for Directories {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| directory.text(out))
    }
}

/// Whether there is a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DirectoryExistence {
    directory: String,
    exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_group: Option<String>,
}

impl Show for DirectoryExistence {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match (self.exists, &self.owner_group) {
            (false, _) => writeln!(out, "{} does not exist", self.directory),
            (true, None) => writeln!(out, "{} exists", self.directory),
            (true, Some(group)) => writeln!(out, "{} exists and belongs to {group}", self.directory),
        }
    }
}

/// A directory that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DirectoryDeleted {
    directory: String,
    deleted: bool,
}

impl Show for DirectoryDeleted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is deleted", self.directory)
    }
}

/// Makes a directory and shows it.
///
/// # Errors
/// [`Failure`]; those above it may have been made.
async fn make(images: &RemoteImages, options: MkdirOptions, format: Format) -> Result<(), Failure> {
    let during = || format!("can't make directory {}", options.name);
    let parents = if options.parents { Parents::Made } else { Parents::Required };
    images.make_directory(&options.name, parents).await.during(during)?;
    let made = images.directory(&options.name).await.during(during)?;
    show(&DirectoryText::of(&made), format)
}

/// Gives a directory to a group and shows it.
///
/// # Errors
/// [`Failure`].
async fn chown(images: &RemoteImages, options: ChownOptions, format: Format) -> Result<(), Failure> {
    let during = || format!("can't give directory {} to a group", options.name);
    images.chown_directory(&options.name, options.group.0).await.during(during)?;
    let given = images.directory(&options.name).await.during(during)?;
    show(&DirectoryText::of(&given), format)
}

/// Deletes a directory.
///
/// # Errors
/// [`Failure`].
async fn delete(images: &RemoteImages, name: &DirectoryName, format: Format) -> Result<(), Failure> {
    images.delete_directory(name).await.during(|| format!("can't delete directory {name}"))?;
    show(&DirectoryDeleted { directory: name.to_string(), deleted: true }, format)
}

/// Shows all directories.
///
/// # Errors
/// [`Failure`].
async fn list(images: &RemoteImages, format: Format) -> Result<(), Failure> {
    let all = images.directories().await.during(|| "can't list the directories".into())?;
    show(&Directories { directories: all.iter().map(DirectoryText::of).collect() }, format)
}

/// Whether there is a directory.
///
/// # Errors
/// [`Failure`], when that could not be found out.
async fn check(images: &RemoteImages, name: &DirectoryName, format: Format) -> Result<bool, Failure> {
    let found = match images.directory(name).await {
        Ok(found) => Some(found),
        Err(ImageError::NoDirectory { .. }) => None,
        Err(error) => return Err(error).during(|| format!("can't ask for directory {name}")),
    };
    let owner_group = found.as_ref().and_then(|it| it.owner_group.as_ref()).map(ToString::to_string);
    show(&DirectoryExistence { directory: name.to_string(), exists: found.is_some(), owner_group }, format)?;
    Ok(found.is_some())
}

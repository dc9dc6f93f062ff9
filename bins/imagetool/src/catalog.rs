//! Which images there are, how that changes, and when they end.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use dominator_core::backoff::{Backoff, Spread};
use dominator_core::catalog::{
    Change, Entry, Epoch, ExpiryChange, ExpiryLimits, ImageUpdate, Latest, Position, Removal, Selection,
    TagMatches,
};
use dominator_core::image::ImageName;
use dominator_core::port::{ImageError, ImageStore as _};
use dominator_daemon::process::answer;
use dominator_daemon::report::{Format, Show, show, show_line};
use dominator_daemon::value::{self, rfc3339_at};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteImages;
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::list::{Existence, Names};
use crate::{NAME, Server};

/// The pauses between two attempts to follow a server that went away: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Which images there are, how that changes, and when they end.
#[derive(Clone, Debug, Subcommand)]
pub enum Catalog {
    /// List the names of all images, or of some
    List(SelectionOptions),
    /// Name the image of a directory that was added last; exit with 0 if there is one, with 1 if there is none, with 2 if that
    /// could not be found out
    FindLatestImage(LatestOptions),
    /// Wait until there is an image of that name; exit with 0 when there is, with 1 when the time is over, with 2 if that
    /// could not be found out
    Wait {
        /// Which image
        name: ImageName,
        /// Wait so long at most, as in 90s, 10m
        #[arg(long, value_name = "TIME", default_value = "10m")]
        timeout: value::Duration,
    },
    /// Show which images there are, and then every change as it happens, each in a line
    ///
    /// Where the connection breaks, it goes on from there. `begin` says that all there is is told (anew).
    GetImageUpdates(UpdatesOptions),
    /// Show when an image expires
    GetImageExpiration {
        /// Which image
        name: ImageName,
    },
    /// Put off when an image expires, or have it stay for ever
    ///
    /// An expiry is never made sooner, nor given to an image that has none. Who may change the image may put it off until a
    /// day from now, and those whose certificate lists ImageServer.ChangeImageExpiration until 730 hours from now, unless the
    /// server was given other limits.
    ChangeImageExpiration(ExpiryOptions),
}

impl Catalog {
    /// Asks the server.
    ///
    /// # Errors
    /// [`Failure`], when it could not be asked or could not do it.
    pub(crate) async fn run(self, server: &Server) -> Result<ExitCode, Failure> {
        let format = server.format;
        let during = || format!("can't ask the image server {}", server.address);
        let images = server.images().await.during(during)?;
        match self {
            Self::List(options) => list(&images, &options, format).await?,
            Self::FindLatestImage(options) => {
                return Ok(answer(NAME, find_latest(&images, &options, format).await));
            }
            Self::Wait { name, timeout } => {
                return Ok(answer(NAME, wait(&images, &name, timeout.get(), format).await));
            }
            Self::GetImageUpdates(options) => follow(&images, &options, format).await?,
            Self::GetImageExpiration { name } => expiry(&images, &name, format).await?,
            Self::ChangeImageExpiration(options) => change_expiry(&images, &options, format).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Which images.
#[derive(Clone, Debug, Args)]
pub struct SelectionOptions {
    /// Only images in this directory and all below; with a slash at the end, only those in it itself
    #[arg(value_name = "DIR", default_value = "")]
    pub directory: String,
    /// Which tags they must have.
    #[command(flatten)]
    pub chosen: ChosenOptions,
}

/// Which tags images must have, and whether they may end.
#[derive(Clone, Debug, Args)]
pub struct ChosenOptions {
    /// Only images with this tag; of several with one key, any will do
    #[arg(long = "with-tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub with_tags: Vec<(String, String)>,
    /// Only images that do not expire
    #[arg(long)]
    pub ignore_expiring: bool,
}

/// Which image is looked for.
#[derive(Clone, Debug, Args)]
pub struct LatestOptions {
    /// In this directory itself; a dot for images in none
    #[arg(value_name = "DIR")]
    pub directory: String,
    /// Only images built from this commit or branch
    #[arg(long, value_name = "COMMIT|BRANCH")]
    pub built_from: Option<String>,
    /// Which tags it must have.
    #[command(flatten)]
    pub chosen: ChosenOptions,
}

/// What is followed.
#[derive(Clone, Debug, Args)]
pub struct UpdatesOptions {
    /// Which images.
    #[command(flatten)]
    pub selection: SelectionOptions,
    /// Go on from there, as an earlier run has shown it; all there is is told first where that is not known any more
    #[arg(long, value_name = "POSITION", value_parser = position)]
    pub from: Option<Position>,
    /// End as soon as all there is was told
    #[arg(long)]
    pub until_current: bool,
}

/// When an image is to end.
#[derive(Clone, Debug, Args)]
pub struct ExpiryOptions {
    /// Which image
    pub name: ImageName,
    /// When to end.
    #[command(flatten)]
    pub when: When,
}

/// When to end.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct When {
    /// In this time from now, as in 12h or 30d: not sooner than so far
    #[arg(long, value_name = "TIME")]
    pub expires_in: Option<value::Duration>,
    /// Never; only for those whose certificate lists ImageServer.ChangeImageExpiration
    #[arg(long)]
    pub never: bool,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.into(), value.into())).ok_or_else(|| "write it as KEY=VALUE".into())
}

fn position(text: &str) -> Result<Position, String> {
    let parsed = text.split_once(':').and_then(|(epoch, sequence)| {
        let epoch = Epoch(u64::from_str_radix(epoch, 16).ok()?);
        Some(Position { epoch, sequence: sequence.parse().ok()? })
    });
    parsed.ok_or_else(|| "a position is two numbers with a colon between".into())
}

impl SelectionOptions {
    fn selection(&self) -> Selection {
        let Ok(within) = self.directory.parse();
        Selection { within, tags: self.chosen.tags(), ignore_expiring: self.chosen.ignore_expiring }
    }
}

impl ChosenOptions {
    fn tags(&self) -> TagMatches {
        self.with_tags.iter().cloned().collect()
    }
}

/// So much time from now, in seconds since 1970.
pub(crate) fn from_now(time: value::Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(time.get()).as_secs()
}

async fn list(images: &RemoteImages, options: &SelectionOptions, format: Format) -> Result<(), Failure> {
    let during = || "can't list the images".into();
    let selection = options.selection();
    let names = match selection == Selection::default() {
        true => images.list().await,
        false => images.select(&selection).await,
    };
    show(&Names::of(&names.during(during)?), format)
}

/// Whether there is any.
async fn find_latest(
    images: &RemoteImages,
    options: &LatestOptions,
    format: Format,
) -> Result<bool, Failure> {
    let wanted = Latest {
        directory: options.directory.clone(),
        commit_or_branch: options.built_from.clone(),
        tags: options.chosen.tags(),
        ignore_expiring: options.chosen.ignore_expiring,
    };
    let found = images.latest(&wanted).await.during(|| "can't look for the latest image".into())?;
    show(&Found { image: found.as_ref().map(ToString::to_string) }, format)?;
    Ok(found.is_some())
}

/// Whether it appeared in time.
async fn wait(
    images: &RemoteImages,
    name: &ImageName,
    time: Duration,
    format: Format,
) -> Result<bool, Failure> {
    let end = Instant::now() + time;
    let exists = loop {
        let left = end.saturating_duration_since(Instant::now());
        let began = Instant::now();
        match images.image_within(name, left).await {
            Ok(_) => break true,
            Err(ImageError::NotFound { .. }) if Instant::now() >= end => break false,
            // A server that waits for less than it is asked to; one that does not wait at all is not asked all the time.
            Err(ImageError::NotFound { .. }) => sleep(RETRY.0.saturating_sub(began.elapsed())).await,
            Err(error) => return Err(error).during(|| format!("can't wait for {name}")),
        }
    };
    show(&Existence { image: name.to_string(), exists }, format)?;
    Ok(exists)
}

async fn expiry(images: &RemoteImages, name: &ImageName, format: Format) -> Result<(), Failure> {
    let end = images.expires_at(name).await.during(|| format!("can't ask when {name} expires"))?;
    show(&Expiry { image: name.to_string(), expires_at: end.map(rfc3339_at) }, format)
}

async fn change_expiry(
    images: &RemoteImages,
    options: &ExpiryOptions,
    format: Format,
) -> Result<(), Failure> {
    let ExpiryOptions { name, when } = options;
    let to = when.expires_in.map(from_now);
    // The server judges by its own clock and limits.
    let change = ExpiryChange { to, now: 0, privileged: false, limits: ExpiryLimits::default() };
    images.change_expiry(name, &change).await.during(|| format!("can't change when {name} expires"))?;
    show(&Expiry { image: name.to_string(), expires_at: to.map(rfc3339_at) }, format)
}

/// Shows what is told, and goes on from there when the server went away.
async fn follow(images: &RemoteImages, options: &UpdatesOptions, format: Format) -> Result<(), Failure> {
    let during = || "can't follow the images".to_owned();
    let (selection, mut position) = (options.selection.selection(), options.from);
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, Spread::drawn(u64::from(std::process::id())));
    loop {
        let broken = match images.updates(&selection, position).await {
            Ok(mut updates) => loop {
                match updates.next().await {
                    Some(Ok(update)) => {
                        backoff.succeeded();
                        // In the midst of a list there is nowhere to go on from.
                        position = known_after(&update);
                        show_line(&Event::of(&update), format)?;
                        if options.until_current && matches!(update, ImageUpdate::Current(_)) {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        match broken {
            None | Some(ImageError::Unreachable(_)) => sleep(backoff.pause()).await,
            Some(error) => return Err(error).during(during),
        }
    }
}

fn known_after(update: &ImageUpdate) -> Option<Position> {
    match update {
        ImageUpdate::Current(position) | ImageUpdate::Change { position, .. } => Some(*position),
        ImageUpdate::Begin | ImageUpdate::Directory(_) | ImageUpdate::Image { .. } | _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
}

impl Show for Found {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.image {
            Some(image) => writeln!(out, "{image}"),
            None => writeln!(out, "there is none"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Expiry {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl Show for Expiry {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.expires_at {
            Some(end) => writeln!(out, "{} expires at {end}", self.image),
            None => writeln!(out, "{} does not expire", self.image),
        }
    }
}

/// What happened, in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Event {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

impl Event {
    fn of(update: &ImageUpdate) -> Self {
        let position = known_after(update).map(|position| position.to_string());
        let told = match update {
            ImageUpdate::Begin => Self { event: "begin", ..Self::default() },
            ImageUpdate::Directory(it) => Self::of_directory("directory", it),
            ImageUpdate::Image { name, entry } => Self::of_image("image", name, entry),
            ImageUpdate::Current(_) => Self { event: "current", ..Self::default() },
            ImageUpdate::Change { change, .. } => Self::of_change(change),
            _ => Self { event: "other", ..Self::default() },
        };
        Self { position, ..told }
    }

    fn of_change(change: &Change) -> Self {
        match change {
            Change::Added { name, entry } => Self::of_image("added", name, entry),
            Change::Altered { name, entry } => Self::of_image("altered", name, entry),
            Change::Removed { name, entry, why: Removal::Expired } => Self::of_image("expired", name, entry),
            Change::Removed { name, entry, .. } => Self::of_image("deleted", name, entry),
            Change::Directory(it) => Self::of_directory("directory", it),
            Change::DirectoryRemoved(name) => {
                Self { event: "directory-deleted", name: Some(name.to_string()), ..Self::default() }
            }
            _ => Self { event: "other", ..Self::default() },
        }
    }

    fn of_image(event: &'static str, name: &ImageName, entry: &Entry) -> Self {
        Self {
            event,
            name: Some(name.to_string()),
            created_on: Some(rfc3339_at(entry.created_on)),
            expires_at: entry.expires_at.map(rfc3339_at),
            ..Self::default()
        }
    }

    fn of_directory(event: &'static str, it: &dominator_core::namespace::ImageDirectory) -> Self {
        let owner_group = it.owner_group.as_ref().map(ToString::to_string);
        Self { event, name: Some(it.name.to_string()), owner_group, ..Self::default() }
    }
}

impl Show for Event {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{}", self.event)?;
        let words = [&self.name, &self.owner_group, &self.position];
        words.into_iter().flatten().try_for_each(|word| write!(out, " {word}"))?;
        writeln!(out)
    }
}

//! Files replaced in many images at once.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::port::ImageStore as _;
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use super::layer::Layers;
use super::replaced;
use crate::Server;

/// In which images.
pub(super) struct Order {
    pub(super) suffix: String,
    /// Directories of images; all, if there are none.
    pub(super) within: Vec<String>,
    pub(super) dry_run: bool,
}

/// What was added, and what was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Bulk {
    added: Vec<Pair>,
    passed_over: Vec<Passed>,
    dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Pair {
    image: String,
    of: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Passed {
    image: String,
    why: String,
}

impl Show for Bulk {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let word = if self.dry_run { "would be added" } else { "added" };
        self.added.iter().try_for_each(|pair| writeln!(out, "{} {word}, of {}", pair.image, pair.of))?;
        self.passed_over
            .iter()
            .try_for_each(|passed| writeln!(out, "{} passed over: {}", passed.image, passed.why))
    }
}

/// Adds an image for the newest one of each directory that has all the files of the layers.
///
/// # Errors
/// [`Failure`] when one can't be got or added; those before it stay.
pub(super) async fn add(server: &Server, order: &Order, layers: &Layers) -> Result<Bulk, Failure> {
    let images = server.images().await.during(|| "can't list the images".into())?;
    let names = images.list().await.during(|| "can't list the images".into())?;
    let within = |name: &ImageName| {
        let below = |dir: &String| {
            let dir = dir.trim_end_matches('/');
            name.stream().is_some_and(|stream| {
                stream == dir || stream.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        order.within.is_empty() || order.within.iter().any(below)
    };
    let mut newest: BTreeMap<Option<String>, (u64, ImageName)> = BTreeMap::new();
    for name in names.iter().filter(|name| within(name)) {
        let created = server.manifest(name).await?.created_on;
        let place = newest.entry(name.stream().map(str::to_owned)).or_insert_with(|| (created, name.clone()));
        if (created, name) > (place.0, &place.1) {
            *place = (created, name.clone());
        }
    }
    let mut bulk = Bulk { added: Vec::new(), passed_over: Vec::new(), dry_run: order.dry_run };
    for (_, old) in newest.into_values() {
        let text = format!("{old}{}", order.suffix);
        let name: ImageName =
            text.parse().during(|| format!("{old} can't have {} after it", order.suffix))?;
        let strangers = layers.strangers(&*server.tree(&old).await?);
        let why = match strangers.first() {
            Some(first) => Some(format!("it has no file {first}")),
            None => names.contains(&name).then(|| format!("there is an image {name}")),
        };
        if let Some(why) = why {
            bulk.passed_over.push(Passed { image: old.to_string(), why });
            continue;
        }
        if !order.dry_run {
            replaced(server, &name, &old, layers).await?;
        }
        bulk.added.push(Pair { image: name.to_string(), of: old.to_string() });
    }
    Ok(bulk)
}

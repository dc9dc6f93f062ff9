//! What an image says, as the files it was made of.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::image::{Image, ImageName};
use dominator_daemon::report::{Show, remark};
use dominator_daemon::value::rfc3339_at;
use dominator_daemon::{During, Failure};
use serde::Serialize;
use serde_json::Value;

use crate::show::FilterText;

/// The filter of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FilterShown {
    image: String,
    #[serde(flatten)]
    filter: FilterText,
}

impl FilterShown {
    pub(super) fn of(name: &ImageName, image: &Image) -> Self {
        Self { image: name.to_string(), filter: FilterText::of(&image.filter) }
    }
}

impl Show for FilterShown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.filter.lines.is_empty() {
            // Nothing on standard output is both; only one of them is an empty filter file.
            remark("imagetool", &format!("the filter of {} is {}", self.image, self.filter.kind));
        }
        self.filter.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// The triggers of an image, as they stand in files of triggers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TriggersShown {
    image: String,
    triggers: Value,
}

impl TriggersShown {
    pub(super) fn of(name: &ImageName, image: &Image) -> Result<Self, Failure> {
        let triggers = serde_json::from_str(&image.triggers.to_json());
        let triggers = triggers.during(|| format!("the triggers of {name} make no sense"))?;
        Ok(Self { image: name.to_string(), triggers })
    }
}

impl Show for TriggersShown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &self.triggers)?;
        writeln!(out)
    }
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Metadata {
    image: String,
    id: String,
    tree: String,
    created_by: String,
    created_on: String,
    /// The image it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    owner_users: Vec<String>,
    owner_groups: Vec<String>,
    annotations: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    filter: &'static str,
    filter_lines: u64,
    triggers: u64,
    health_checks: u64,
}

impl Metadata {
    pub(super) fn of(name: &ImageName, image: &Image) -> Self {
        let filter = FilterText::of(&image.filter);
        Self {
            image: name.to_string(),
            id: image.id().to_string(),
            tree: image.tree_id().to_string(),
            created_by: image.created_by.clone(),
            created_on: rfc3339_at(image.created_on),
            source_image: image.provenance.source_image.as_ref().map(ToString::to_string),
            expires_at: image.expires_at.map(rfc3339_at),
            owner_users: image.owner_users.clone(),
            owner_groups: image.owner_groups.clone(),
            annotations: image.annotations.clone(),
            tags: image.tags.clone(),
            filter: filter.kind,
            filter_lines: filter.lines.len() as u64,
            triggers: image.triggers.iter().count() as u64,
            health_checks: image.health.iter().count() as u64,
        }
    }
}

impl Show for Metadata {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { image, id, tree, created_by, created_on, filter, filter_lines, .. } = self;
        writeln!(out, "image    {image}\nid       {id}\ntree     {tree}")?;
        writeln!(out, "created  by {created_by} on {created_on}")?;
        if let Some(source) = &self.source_image {
            writeln!(out, "made of  {source}")?;
        }
        if let Some(end) = &self.expires_at {
            writeln!(out, "expires  {end}")?;
        }
        for (title, owners) in [("users", &self.owner_users), ("groups", &self.owner_groups)] {
            if !owners.is_empty() {
                writeln!(out, "{title:<8} {}", owners.join(", "))?;
            }
        }
        for (title, map) in [("note", &self.annotations), ("tag", &self.tags)] {
            map.iter().try_for_each(|(key, value)| writeln!(out, "{title:<8} {key} = {value}"))?;
        }
        writeln!(out, "filter   {filter}, {filter_lines} lines")?;
        writeln!(out, "also     {} triggers, {} health checks", self.triggers, self.health_checks)
    }
}

//! What an image says and how much it holds.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageName};
use dominator_core::tree::Snapshot;
use dominator_core::view::XattrClass;
use dominator_daemon::report::Show;
use serde::Serialize;

/// An image as `imagetool show` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    name: String,
    id: String,
    tree: String,
    filter: FilterText,
    triggers: Vec<TriggerText>,
    xattrs: Vec<&'static str>,
    created_by: String,
    created_on: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    annotations: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    counts: Counts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct FilterText {
    kind: &'static str,
    lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TriggerText {
    service: String,
    lines: Vec<String>,
}

/// How much a tree holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// By kind, as `find -type` users know them.
    kinds: BTreeMap<&'static str, u64>,
    hard_link_sets: u64,
    /// Different contents.
    objects: u64,
    /// Length of all different contents.
    bytes: u64,
}

impl Summary {
    /// Sums up an image.
    pub(crate) fn of(name: &ImageName, image: &Image, tree: &Snapshot) -> Self {
        let trigger = |trigger: &dominator_core::trigger::Trigger| TriggerText {
            service: trigger.service.clone(),
            lines: trigger.match_lines.clone(),
        };
        Self {
            name: name.to_string(),
            id: image.id().to_string(),
            tree: image.tree_id().to_string(),
            filter: FilterText::of(&image.filter),
            triggers: image.triggers.iter().map(trigger).collect(),
            xattrs: XattrClass::ALL.into_iter().filter_map(|class| class_name(image, class)).collect(),
            created_by: image.created_by.clone(),
            created_on: image.created_on,
            expires_at: image.expires_at,
            annotations: image.annotations.clone(),
            tags: image.tags.clone(),
            counts: Counts::of(tree),
        }
    }
}

impl FilterText {
    fn of(filter: &Filter) -> Self {
        match filter {
            Filter::Sparse => Self { kind: "sparse", lines: Vec::new() },
            Filter::Empty => Self { kind: "empty", lines: Vec::new() },
            Filter::Lines(lines) => Self { kind: "lines", lines: lines.lines().to_vec() },
        }
    }
}

impl Counts {
    fn of(tree: &Snapshot) -> Self {
        let mut kinds = BTreeMap::new();
        tree.walk(|_, inode| *kinds.entry(inode.kind_name()).or_default() += 1);
        let objects = tree.objects();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Self {
            kinds,
            hard_link_sets: count(tree.links.iter().count()),
            objects: count(objects.len()),
            bytes: objects.values().sum(),
        }
    }
}

impl Show for Summary {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "image    {}", self.name)?;
        writeln!(out, "id       {}", self.id)?;
        writeln!(out, "tree     {}", self.tree)?;
        writeln!(out, "created  by {} at {} s after 1970", self.created_by, self.created_on)?;
        if let Some(end) = self.expires_at {
            writeln!(out, "expires  at {end} s after 1970")?;
        }
        for (title, map) in [("note", &self.annotations), ("tag", &self.tags)] {
            map.iter().try_for_each(|(key, value)| writeln!(out, "{title:<8} {key} = {value}"))?;
        }
        for (kind, count) in &self.counts.kinds {
            writeln!(out, "holds    {count} × {kind}")?;
        }
        let Counts { hard_link_sets, objects, bytes, .. } = &self.counts;
        writeln!(
            out,
            "in all   {objects} objects, {bytes} bytes, {hard_link_sets} inodes with several names"
        )?;
        writeln!(
            out,
            "xattrs   {}",
            if self.xattrs.is_empty() { "none".into() } else { self.xattrs.join(", ") }
        )?;
        writeln!(out, "filter   {}", self.filter.kind)?;
        self.filter.lines.iter().try_for_each(|line| writeln!(out, "         {line}"))?;
        for TriggerText { service, lines } in &self.triggers {
            writeln!(out, "trigger  {service}")?;
            lines.iter().try_for_each(|line| writeln!(out, "         {line}"))?;
        }
        Ok(())
    }
}

/// The word for a class of extended attributes, if the image carries it.
fn class_name(image: &Image, class: XattrClass) -> Option<&'static str> {
    let (name, example): (_, &[u8]) = match class {
        XattrClass::Capability => ("capability", b"security.capability"),
        XattrClass::Selinux => ("selinux", b"security.selinux"),
        XattrClass::PosixAcl => ("posix-acl", b"system.posix_acl_access"),
        XattrClass::User => ("user", b"user.x"),
    };
    image.xattrs.covers(example).then_some(name)
}

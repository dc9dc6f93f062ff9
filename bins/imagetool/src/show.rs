//! What an image says and how much it holds.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::filter::Filter;
use dominator_core::health::{HealthCheck, HealthChecks};
use dominator_core::image::{Image, ImageName};
use dominator_core::inode::Kind;
use dominator_core::tree::Snapshot;
use dominator_core::view::XattrClass;
use dominator_daemon::report::Show;
use dominator_daemon::value::{HumanBytes, rfc3339_at};
use serde::Serialize;

use crate::origin::Origin;

/// An image as `imagetool show` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    image: String,
    id: String,
    tree: String,
    filter: FilterText,
    triggers: Vec<TriggerText>,
    health: HealthText,
    xattrs: Vec<&'static str>,
    created_by: String,
    created_on: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    annotations: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    /// Whose it is and where it comes from.
    #[serde(flatten)]
    origin: Origin,
    /// How many names of each kind there are.
    counts: Counts,
    /// Inodes with several names.
    hard_link_sets: u64,
    /// Different contents.
    objects: u64,
    /// Length of all different contents.
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FilterText {
    pub(crate) kind: &'static str,
    pub(crate) lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TriggerText {
    service: String,
    lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct HealthText {
    /// In seconds.
    deadline: f64,
    checks: Vec<CheckText>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct CheckText {
    name: String,
    check: String,
    /// In seconds.
    timeout: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    /// In seconds.
    delay: f64,
}

impl HealthText {
    fn of(health: &HealthChecks) -> Self {
        let check = |check: &HealthCheck| CheckText {
            name: check.name.clone(),
            check: check.probe.to_string(),
            timeout: check.timeout.as_secs_f64(),
            retries: check.retries,
            delay: check.delay.as_secs_f64(),
        };
        Self { deadline: health.deadline().as_secs_f64(), checks: health.iter().map(check).collect() }
    }
}

/// How many names of each kind there are; the root is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    directories: u64,
    files: u64,
    computed: u64,
    symlinks: u64,
    special: u64,
}

impl Summary {
    /// Sums up an image.
    pub(crate) fn of(name: &ImageName, image: &Image, tree: &Snapshot) -> Self {
        let trigger = |trigger: &dominator_core::trigger::Trigger| TriggerText {
            service: trigger.service.clone(),
            lines: trigger.match_lines.clone(),
        };
        let objects = tree.objects();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Self {
            image: name.to_string(),
            id: image.id().to_string(),
            tree: image.tree_id().to_string(),
            filter: FilterText::of(&image.filter),
            triggers: image.triggers.iter().map(trigger).collect(),
            health: HealthText::of(&image.health),
            xattrs: XattrClass::ALL.into_iter().filter_map(|class| class_name(image, class)).collect(),
            created_by: image.created_by.clone(),
            created_on: rfc3339_at(image.created_on),
            expires_at: image.expires_at.map(rfc3339_at),
            annotations: image.annotations.clone(),
            tags: image.tags.clone(),
            origin: Origin::of(image),
            counts: Counts::of(tree),
            hard_link_sets: count(tree.links.iter().count()),
            objects: count(objects.len()),
            bytes: objects.values().sum(),
        }
    }
}

impl FilterText {
    /// The lines with the word for the kind of filter they are.
    pub(crate) fn of(filter: &Filter) -> Self {
        match filter {
            Filter::Sparse => Self { kind: "sparse", lines: Vec::new() },
            Filter::Empty => Self { kind: "empty", lines: Vec::new() },
            Filter::Lines(lines) => Self { kind: "lines", lines: lines.lines().to_vec() },
        }
    }
}

impl Counts {
    fn of(tree: &Snapshot) -> Self {
        let mut counts = Self::default();
        tree.walk(|_, inode| {
            *match inode.kind {
                Kind::Directory { .. } => &mut counts.directories,
                Kind::Regular { .. } => &mut counts.files,
                Kind::Computed { .. } => &mut counts.computed,
                Kind::Symlink { .. } => &mut counts.symlinks,
                Kind::BlockDevice { .. }
                | Kind::CharDevice { .. }
                | Kind::Fifo { .. }
                | Kind::Unknown { .. }
                | _ => &mut counts.special,
            } += 1;
        });
        counts
    }
}

impl Show for Summary {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "image    {}", self.image)?;
        writeln!(out, "id       {}", self.id)?;
        writeln!(out, "tree     {}", self.tree)?;
        writeln!(out, "created  by {} on {}", self.created_by, self.created_on)?;
        if let Some(end) = &self.expires_at {
            writeln!(out, "expires  {end}")?;
        }
        for (title, map) in [("note", &self.annotations), ("tag", &self.tags)] {
            map.iter().try_for_each(|(key, value)| writeln!(out, "{title:<8} {key} = {value}"))?;
        }
        self.origin.text(out)?;
        let Counts { directories, files, computed, symlinks, special } = &self.counts;
        writeln!(
            out,
            "holds    {directories} directories, {files} files, {computed} computed files, {symlinks} symlinks, \
             {special} devices and pipes"
        )?;
        let Self { objects, hard_link_sets, bytes, .. } = self;
        writeln!(
            out,
            "in all   {objects} objects of {}, {hard_link_sets} inodes with several names",
            HumanBytes(*bytes)
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
        if !self.health.checks.is_empty() {
            writeln!(out, "health   within {} s", self.health.deadline)?;
        }
        self.health
            .checks
            .iter()
            .try_for_each(|check| writeln!(out, "         {}: {}", check.name, check.check))
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

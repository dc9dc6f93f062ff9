//! One path of an image.

use std::collections::BTreeMap;
use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::path::ImagePath;
use dominator_core::tree::{Directories as _, Snapshot};
use dominator_daemon::Failure;
use dominator_daemon::report::Show;
use dominator_daemon::value::{HumanBytes, rfc3339_at};
use serde::Serialize;

/// What an image says of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct InodeShown {
    image: String,
    path: String,
    kind: &'static str,
    /// Octal, as `chmod` takes it.
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// How many names a directory holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    xattrs: BTreeMap<String, String>,
    /// Other names of the same inode.
    links: Vec<String>,
}

/// The inode at `path`.
///
/// # Errors
/// [`Failure`] when there is none.
pub(super) fn at(name: &ImageName, tree: &Snapshot, path: &ImagePath) -> Result<Inode, Failure> {
    tree.inode(path).ok_or_else(|| Failure::new(format!("there is no {path} in {name}")))
}

impl InodeShown {
    pub(super) fn of(name: &ImageName, tree: &Snapshot, path: &ImagePath) -> Result<Self, Failure> {
        let inode = at(name, tree, path)?;
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let mut shown = Self {
            image: name.to_string(),
            path: path.to_string(),
            kind: inode.kind_name(),
            mode: format!("{:04o}", inode.mode.bits()),
            uid: inode.uid,
            gid: inode.gid,
            modified: inode.modified().map(time),
            size: inode.object().map(|(_, size)| size),
            object: inode.object().map(|(id, _)| id.to_string()),
            target: None,
            source: None,
            device: None,
            entries: None,
            xattrs: inode.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect(),
            links: other_names(tree, path),
        };
        match &inode.kind {
            Kind::Symlink { target } => shown.target = Some(text(target)),
            Kind::Computed { source } => shown.source = Some(source.to_string()),
            Kind::BlockDevice { device, .. } | Kind::CharDevice { device, .. } => {
                shown.device = Some(format!("{}:{}", device.major, device.minor));
            }
            Kind::Directory { id } => {
                let directory = tree.directories.directory(id);
                shown.entries = directory.map(|directory| directory.iter().count() as u64);
            }
            Kind::Regular { .. } | Kind::Fifo { .. } | Kind::Unknown { .. } | _ => {}
        }
        Ok(shown)
    }
}

fn other_names(tree: &Snapshot, path: &ImagePath) -> Vec<String> {
    let mut sets = tree.links.iter();
    let set = sets.find(|set| set.contains(path));
    set.into_iter().flatten().filter(|name| *name != path).map(ToString::to_string).collect()
}

/// As everybody writes it; before 1970, as seconds.
fn time(time: Timestamp) -> String {
    let nanos = time.nanos();
    match u64::try_from(time.seconds()) {
        Ok(seconds) if nanos == 0 => rfc3339_at(seconds),
        Ok(seconds) => rfc3339_at(seconds).replace('Z', &format!(".{nanos:09}Z")),
        Err(_) => format!("{} s and {nanos} ns after 1970", time.seconds()),
    }
}

impl Show for InodeShown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, kind, mode, uid, gid, .. } = self;
        writeln!(out, "{path}: {kind}, mode {mode}, owner {uid}:{gid}")?;
        let line = |out: &mut dyn Write, title: &str, value: &Option<String>| match value {
            Some(value) => writeln!(out, "{title:<9} {value}"),
            None => Ok(()),
        };
        line(out, "modified", &self.modified)?;
        line(out, "size", &self.size.map(|size| format!("{size} bytes ({})", HumanBytes(size))))?;
        line(out, "object", &self.object)?;
        line(out, "target", &self.target)?;
        line(out, "computed", &self.source.as_ref().map(|source| format!("by {source}")))?;
        line(out, "device", &self.device)?;
        line(out, "holds", &self.entries.map(|entries| format!("{entries} names")))?;
        for (name, value) in &self.xattrs {
            writeln!(out, "xattr     {name} = {value}")?;
        }
        self.links.iter().try_for_each(|link| writeln!(out, "link      {link}"))
    }
}

//! Files and archives out of an image.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::image::ImageName;
use dominator_core::inode::Kind;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Show, byte_bar, remark};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::export::{self, ExportError, Exported, ObjectStream as _};
use dominator_fs::store::ports::PortStream;
use serde::Serialize;
use tokio::runtime::Handle;

use super::inode;
use crate::Server;
use crate::source::Shown;

/// A file that was got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Got {
    image: String,
    path: String,
    bytes: u64,
    to: String,
}

impl Show for Got {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} of {}: {} in {}", self.path, self.image, HumanBytes(self.bytes), self.to)
    }
}

/// Gets one file. Without a place, it goes to standard output, and there is nothing to show.
///
/// # Errors
/// [`Failure`], also when the path is no file; what was written is removed then.
pub(super) async fn file(
    server: &Server,
    name: &ImageName,
    path: ImagePath,
    to: Option<PathBuf>,
) -> Result<Option<Got>, Failure> {
    let tree = server.tree(name).await?;
    let inode = inode::at(name, &tree, &path)?;
    let Some((id, size)) = inode.object() else {
        let more = match &inode.kind {
            Kind::Symlink { target } => format!(" to {}", target.escape_ascii()),
            Kind::Computed { source } => format!(", which {source} makes for each machine"),
            Kind::Regular { .. } | Kind::BlockDevice { .. } | Kind::CharDevice { .. } | Kind::Fifo { .. } => {
                String::new()
            }
            Kind::Directory { .. } | Kind::Unknown { .. } | _ => String::new(),
        };
        return Err(Failure::new(format!("{path} of {name} is no file, but a {}{more}", inode.kind_name())));
    };
    let mut objects = server.stream(Arc::clone(&tree), "getting").await?;
    let shown = to.as_ref().map(|to| to.display().to_string());
    let work = move || write_to(to.as_deref(), &mut |out| one(&mut objects, id, out));
    tokio::task::spawn_blocking(work).await.during(|| "getting was broken off".into())??;
    Ok(shown.map(|to| Got { image: name.to_string(), path: path.to_string(), bytes: size, to }))
}

fn one(objects: &mut PortStream, id: ObjectId, out: &mut dyn Write) -> Result<(), ExportError> {
    objects.stream(&[id], &mut |_, contents| io::copy(contents, out).map(drop).map_err(ExportError::Output))
}

/// An archive that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Archived {
    image: String,
    to: String,
    bytes: u64,
    left_out: Vec<Remark>,
}

impl Show for Archived {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.left_out.iter().try_for_each(|left| writeln!(out, "left out: {left}"))?;
        writeln!(out, "{} in {}: {}", self.image, self.to, HumanBytes(self.bytes))
    }
}

/// Writes an image as an archive. Without a place, it goes to standard output, and there is nothing to show.
///
/// # Errors
/// [`Failure`]; what was written is removed then.
pub(super) async fn archive(
    server: &Server,
    name: &ImageName,
    to: Option<PathBuf>,
) -> Result<Option<Archived>, Failure> {
    if to.is_none() && io::stdout().is_terminal() {
        return Err(Failure::new("an archive is nothing for a terminal; name a file"));
    }
    let tree = server.tree(name).await?;
    let mut objects = server.stream(Arc::clone(&tree), "getting").await?;
    let place = to.clone();
    let work = move || {
        let mut exported = Exported::default();
        write_to(place.as_deref(), &mut |out| {
            exported = export::tar(&tree, out, &mut objects)?;
            Ok(())
        })?;
        Ok::<_, Failure>(exported)
    };
    let exported =
        tokio::task::spawn_blocking(work).await.during(|| "the archive was broken off".into())??;
    let left = exported.left_out.into_iter().map(|left| Remark::new(&left.path, left.what));
    let left_out: Vec<Remark> = left.collect();
    let Some(to) = to else {
        left_out.iter().for_each(|left| remark("imagetool", &format!("left out: {left}")));
        return Ok(None);
    };
    let bytes = fs::metadata(&to).during(|| format!("can't look at {}", to.display()))?.len();
    Ok(Some(Archived { image: name.to_string(), to: to.display().to_string(), bytes, left_out }))
}

/// Has `fill` write to a file, or to standard output. A file that is not whole is removed.
fn write_to(
    path: Option<&Path>,
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let Some(path) = path else {
        let mut out = BufWriter::new(io::stdout().lock());
        let filled = fill(&mut out).and_then(|()| out.flush().map_err(ExportError::Output));
        return match filled {
            // A reader that has seen enough is no failure.
            Err(ExportError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            filled => filled.during(|| "can't write to standard output".into()),
        };
    };
    let during = || format!("can't write {}", path.display());
    let mut out = BufWriter::new(File::create(path).during(during)?);
    let filled = fill(&mut out).and_then(|()| out.flush().map_err(ExportError::Output));
    if filled.is_err() {
        // The failure that counts is the other one.
        drop(fs::remove_file(path));
    }
    filled.during(during)
}

impl Server {
    /// The objects of a tree, with their progress shown.
    pub(crate) async fn stream(
        &self,
        tree: Arc<Snapshot>,
        label: &'static str,
    ) -> Result<PortStream, Failure> {
        let objects = self.object_server().await;
        let objects = objects.during(|| format!("can't get objects from {}", self.address))?;
        let source = Shown { source: Arc::new(objects), sizes: tree.objects(), bar: byte_bar(label, 0) };
        Ok(PortStream::new(Arc::new(source), Handle::current()))
    }
}

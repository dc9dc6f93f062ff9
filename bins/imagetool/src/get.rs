//! Writing an image's tree to a directory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dominator_core::image::ImageName;
use dominator_core::port::ImageStore as _;
use dominator_core::tree::Snapshot;
use dominator_daemon::report::{Show, byte_bar};
use dominator_daemon::{During, Failure};
use dominator_fs::export;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::store::ports::PortStream;
use dominator_rpc::client::{RemoteImages, RemoteObjects};
use dominator_rpc::transport::Tls;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::source::Shown;

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Written {
    name: String,
    directory: String,
    objects: u64,
    bytes: u64,
    /// What this process may not make or set.
    left_out: Vec<LeftOut>,
    seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct LeftOut {
    path: String,
    what: String,
}

impl Show for Written {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { name, directory, objects, bytes, left_out, seconds } = self;
        left_out.iter().try_for_each(|LeftOut { path, what }| writeln!(out, "left out: {path}: {what}"))?;
        writeln!(out, "{name} in {directory}: {objects} objects of {bytes} bytes, {seconds:.1} s")
    }
}

/// Writes image `name` to `directory`, which is made if it is not there.
///
/// # Errors
/// [`Failure`]; what was written before stays.
pub(crate) async fn get(
    tls: &Tls,
    server: &str,
    name: &ImageName,
    directory: PathBuf,
) -> Result<Written, Failure> {
    let began = Instant::now();
    let images = RemoteImages::connect(tls, server).await.during(|| format!("can't reach {server}"))?;
    let tree = images.tree(name).await.during(|| format!("can't get {name}"))?;
    let objects = RemoteObjects::connect(tls, server).await.during(|| format!("can't reach {server}"))?;
    let sizes = tree.objects();
    let (count, bytes) = (sizes.len() as u64, sizes.values().sum());
    let bar = byte_bar("getting", 0);
    let source = Shown { source: Arc::new(objects), sizes, bar: bar.clone() };
    let remote = PortStream::new(Arc::new(source), Handle::current());
    let shown = directory.display().to_string();
    let exported = tokio::task::spawn_blocking(move || write(&tree, &directory, remote)).await;
    let exported = exported.during(|| "the export was broken off".into())??;
    bar.finish_and_clear();
    let left_out = |left: export::LeftOut| LeftOut { path: left.path.to_string(), what: left.what };
    Ok(Written {
        name: name.to_string(),
        directory: shown,
        objects: count,
        bytes,
        left_out: exported.left_out.into_iter().map(left_out).collect(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn write(tree: &Snapshot, directory: &Path, mut objects: PortStream) -> Result<export::Exported, Failure> {
    let during = || format!("can't write to {}", directory.display());
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).during(during),
        _ => {}
    }
    let target = Root::open(directory).during(during)?;
    export::directory(tree, &target, &mut objects, &Kernel).during(during)
}

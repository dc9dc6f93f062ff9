//! Writing an image's tree to a directory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dominator_core::image::ImageName;
use dominator_core::port::ImageStore as _;
use dominator_core::tree::Snapshot;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Show, byte_bar};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_fs::export;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::store::ports::PortStream;
use dominator_rpc::client::RemoteImages;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::Server;
use crate::source::Shown;

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Written {
    image: String,
    directory: String,
    objects: u64,
    bytes: u64,
    /// What this process may not make or set.
    left_out: Vec<Remark>,
    seconds: f64,
}

impl Show for Written {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { image, directory, objects, bytes, left_out, seconds } = self;
        left_out.iter().try_for_each(|left| writeln!(out, "left out: {left}"))?;
        writeln!(out, "{image} in {directory}: {objects} objects of {}, {seconds:.1} s", HumanBytes(*bytes))
    }
}

/// Writes image `name` to `directory`, which is made if it is not there.
///
/// # Errors
/// [`Failure`]; what was written before stays.
pub(crate) async fn get(server: &Server, name: &ImageName, directory: PathBuf) -> Result<Written, Failure> {
    let began = Instant::now();
    let during = || format!("can't get {name}");
    let images = RemoteImages::connect(&server.tls, &server.address).await.during(during)?;
    let tree = images.tree(name).await.during(during)?;
    let objects = server.object_server().await.during(during)?;
    let sizes = tree.objects();
    let (count, bytes) = (sizes.len() as u64, sizes.values().sum());
    let bar = byte_bar("getting", 0);
    let source = Shown { source: Arc::new(objects), sizes, bar: bar.clone() };
    let remote = PortStream::new(Arc::new(source), Handle::current());
    let shown = directory.display().to_string();
    let exported = tokio::task::spawn_blocking(move || write(&tree, &directory, remote)).await;
    let exported = exported.during(|| "the export was broken off".into())??;
    bar.finish_and_clear();
    let left_out = |left: export::LeftOut| Remark::new(&left.path, left.what);
    Ok(Written {
        image: name.to_string(),
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

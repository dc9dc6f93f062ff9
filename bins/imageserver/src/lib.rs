//! The image server's daemon: joins an object store and an image store on this disk to the network.
#![forbid(unsafe_code)]

mod garbage;
mod options;

pub use garbage::GarbageOptions;
pub use options::{DAEMON, Options};

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use dominator_core::catalog::ExpiryLimits;
use dominator_core::port;
use dominator_daemon::process::{ensure_directory, warn_if_root};
use dominator_daemon::{During, Failure, Shutdown};
use dominator_fs::audit::{AuditFile, Rotation};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::store::ports::{LocalImages, LocalObjects};
use dominator_rpc::replica::{Here, Master, replicate};
use dominator_rpc::server::{Services, expire_images};
use tokio::task::JoinSet;

/// Runs the daemon until it is to end.
///
/// # Errors
/// [`Failure`] when it can't start or can't listen.
pub async fn serve(options: Options, shutdown: Shutdown) -> Result<(), Failure> {
    warn_if_root(DAEMON.name);
    let thresholds = options.garbage.thresholds()?;
    let tls = options.common.tls.daemon(DAEMON.name)?;
    let (image_dir, object_dir) = (options.image_dir(), options.object_dir());
    let stores = options.common.vitals.readiness.condition("stores", "they are being opened");
    let opened = tokio::task::spawn_blocking(move || open(&image_dir, &object_dir)).await;
    let (images, objects) = opened.during(|| "can't open the stores".into())??;
    stores.met();
    let kept = LocalImages::new(images).keeping(options.garbage.keep_objects.get());
    let audit = options.common.audit(|path, size, kept| AuditFile::open(path, Rotation { size, kept }))?;
    let limits = ExpiryLimits {
        ordinary: options.max_expiration.get(),
        privileged: options.max_expiration_privileged.get(),
    };
    let objects: Arc<dyn port::ObjectStore> = Arc::new(LocalObjects::new(objects));
    // Ended with this function.
    let mut tasks = JoinSet::new();
    let mut images: Arc<dyn port::ImageStore> = Arc::new(kept.clone());
    if let Some(master) = &options.image_server {
        let master = Master::new(&tls.tls, &master.to_string());
        let here = Here { images, objects: Arc::clone(&objects), clock: SystemTime::now };
        let (replica, replicator) = replicate(master, here, options.policy()?);
        let vitals = &options.common.vitals;
        let condition = vitals.readiness.condition("replica", "its master was not reached yet");
        tasks.spawn(replicator.telling(vitals.metrics.clone(), condition).run());
        images = Arc::new(replica);
    }
    let services = Services::new(env!("CARGO_PKG_VERSION")).audited(audit);
    let services = match options.client_bytes_per_second.and_then(NonZeroU64::new) {
        Some(rate) => services.transfer_rate(rate),
        None => services,
    };
    let services = services.objects(objects).images_within(images, SystemTime::now, limits);
    tokio::select! {
        done = dominator_daemon::serve(&options.common, tls, services, shutdown) => done,
        never = expire_images(Arc::new(kept.clone()), SystemTime::now) => match never {},
        never = garbage::collect(kept, thresholds) => match never {},
    }
}

fn open(image_dir: &Path, object_dir: &Path) -> Result<(ImageStore, ObjectStore), Failure> {
    ensure_directory(image_dir)?;
    ensure_directory(object_dir)?;
    let objects = ObjectStore::open(object_dir)
        .during(|| format!("can't use the object store {}", object_dir.display()))?;
    let images = ImageStore::open(image_dir, objects.clone())
        .during(|| format!("can't use the image store {}", image_dir.display()))?;
    Ok((images, objects))
}

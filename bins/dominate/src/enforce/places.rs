use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dominator_core::filter::Filter;
use dominator_core::path::ImagePath;
use dominator_daemon::{During, Failure};

use crate::EnforceOptions;

/// Whether the root is that of the running system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It is: services are stopped and started.
    Live,
    /// It is any other directory: services are only named.
    Other,
}

/// Refuses a root and an image that would end in a disaster.
pub(super) fn check(options: &EnforceOptions, filter: &Filter) -> Result<Liveness, Failure> {
    let (image, root) = (real(&options.image.image)?, real(&options.image.root)?);
    let device = device(&root)?;
    let live = device == self::device(Path::new("/"))?;
    if live && !options.allow_live_root {
        return Err(Failure::new(format!(
            "{} is the root of the running system; add --allow-live-root if that is what you mean",
            options.image.root.display()
        )));
    }
    let endangered = match image.strip_prefix(&root) {
        Ok(within) => !is_spared(&image, within, device.0, filter),
        Err(_) => root.starts_with(&image),
    };
    if endangered {
        return Err(Failure::new(format!(
            "the image {} and the root {} lie within each other, and one would change the other; move the image \
             elsewhere, or match it with the filter",
            image.display(),
            root.display()
        )));
    }
    Ok(if live { Liveness::Live } else { Liveness::Other })
}

/// Whether an update of the root never touches the image that lies `within` it: the filter matches it or a directory it
/// is in, or it is on another file-system.
fn is_spared(image: &Path, within: &Path, device: u64, filter: &Filter) -> bool {
    let elsewhere = self::device(image).is_ok_and(|(other, _)| other != device);
    let matched = within.ancestors().any(|part| {
        let path = [b"/", part.as_os_str().as_bytes()].concat();
        ImagePath::parse(&path).is_ok_and(|path| !path.is_root() && filter.matches(&path))
    });
    elsewhere || matched
}

fn real(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().during(|| format!("can't find {}", path.display()))
}

/// Device and inode.
fn device(path: &Path) -> Result<(u64, u64), Failure> {
    let metadata = std::fs::metadata(path).during(|| format!("can't look at {}", path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

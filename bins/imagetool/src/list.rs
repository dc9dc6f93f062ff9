//! Small results.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_daemon::report::Show;
use serde::Serialize;

/// The names of all images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Names {
    images: Vec<String>,
}

impl Names {
    pub(crate) fn of(names: &[ImageName]) -> Self {
        Self { images: names.iter().map(ToString::to_string).collect() }
    }
}

impl Show for Names {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.images.iter().try_for_each(|name| writeln!(out, "{name}"))
    }
}

/// Whether there is an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Existence {
    pub(crate) image: String,
    pub(crate) exists: bool,
}

impl Show for Existence {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} {}", self.image, if self.exists { "exists" } else { "does not exist" })
    }
}

/// An image that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Deleted {
    pub(crate) image: String,
    pub(crate) deleted: bool,
}

impl Show for Deleted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is deleted; its name is never free again", self.image)
    }
}

//! What the server keeps for nobody, and what images take.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::port::{Amount, Collected, ImageStore as _, ObjectStatistics, Share, Unreferenced};
use dominator_daemon::report::{Show, show};
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::Server;

impl Server {
    pub(crate) async fn list_unreferenced(&self) -> Result<(), Failure> {
        let during = || "can't list what no image needs".into();
        let found = self.images().await.during(during)?.unreferenced().await.during(during)?;
        show(&Garbage::of(&found), self.format)
    }

    pub(crate) async fn show_unreferenced(&self) -> Result<(), Failure> {
        let during = || "can't sum up what no image needs".into();
        let found = self.images().await.during(during)?.unreferenced().await.during(during)?;
        let sum = found.iter().fold(Amount::default(), |sum, object| sum.and(object.size));
        show(&Sum { objects: sum.objects, bytes: sum.bytes }, self.format)
    }

    pub(crate) async fn delete_unreferenced(&self, share: Share) -> Result<(), Failure> {
        let during = || "can't delete what no image needs".into();
        let collected = self.images().await.during(during)?.collect(share).await.during(during)?;
        show(&Removed::of(collected), self.format)
    }

    pub(crate) async fn statistics(&self, names: Vec<ImageName>) -> Result<(), Failure> {
        let during = || "can't find out what the images take".into();
        let statistics = self.images().await.during(during)?.statistics(names).await.during(during)?;
        show(&Taken::of(statistics), self.format)
    }
}

/// Objects that no image needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Garbage {
    objects: Vec<Object>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Object {
    object: String,
    bytes: u64,
    since: u64,
}

impl Garbage {
    fn of(found: &[Unreferenced]) -> Self {
        let object = |object: &Unreferenced| Object {
            object: object.id.to_string(),
            bytes: object.size,
            since: object.since,
        };
        Self { objects: found.iter().map(object).collect() }
    }
}

impl Show for Garbage {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = self.objects.iter();
        lines.try_for_each(|object| writeln!(out, "{} {:>15}", object.object, object.bytes))
    }
}

/// How much of it there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Sum {
    objects: u64,
    bytes: u64,
}

impl Show for Sum {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} objects, {} bytes", self.objects, self.bytes)
    }
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Removed {
    removed_objects: u64,
    removed_bytes: u64,
    left_objects: u64,
    left_bytes: u64,
}

impl Removed {
    fn of(collected: Collected) -> Self {
        Self {
            removed_objects: collected.removed.objects,
            removed_bytes: collected.removed.bytes,
            left_objects: collected.left.objects,
            left_bytes: collected.left.bytes,
        }
    }
}

impl Show for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "removed {} objects, {} bytes", self.removed_objects, self.removed_bytes)?;
        writeln!(out, "left    {} objects, {} bytes", self.left_objects, self.left_bytes)
    }
}

/// What images take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Taken {
    needed_objects: u64,
    needed_bytes: u64,
    alone_objects: u64,
    alone_bytes: u64,
}

impl Taken {
    fn of(statistics: ObjectStatistics) -> Self {
        Self {
            needed_objects: statistics.needed.objects,
            needed_bytes: statistics.needed.bytes,
            alone_objects: statistics.alone.objects,
            alone_bytes: statistics.alone.bytes,
        }
    }
}

impl Show for Taken {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "needed  {} objects, {} bytes", self.needed_objects, self.needed_bytes)?;
        writeln!(
            out,
            "alone   {} objects, {} bytes, which no other image needs",
            self.alone_objects, self.alone_bytes
        )
    }
}

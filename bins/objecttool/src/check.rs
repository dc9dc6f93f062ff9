//! Whether objects are there.

use std::io::{self, Write};

use dominator_core::object::ObjectId;
use dominator_core::port::ObjectStore as _;
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;
use serde::Serialize;

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    objects: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Known {
    object: String,
    exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Checked {
    pub(crate) fn all_exist(&self) -> bool {
        self.objects.iter().all(|object| object.exists)
    }
}

impl Show for Checked {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.objects.iter().try_for_each(|Known { object, bytes, .. }| match bytes {
            Some(bytes) => writeln!(out, "{object} exists, {}", HumanBytes(*bytes)),
            None => writeln!(out, "{object} does not exist"),
        })
    }
}

/// Looks for objects.
///
/// # Errors
/// [`Failure`] when that can't be found out.
pub(crate) async fn check(objects: &RemoteObjects, ids: &[ObjectId]) -> Result<Checked, Failure> {
    let sizes = objects.sizes(ids).await.during(|| "can't look for objects".into())?;
    let known = |(id, bytes): (&ObjectId, Option<u64>)| Known {
        object: id.to_string(),
        exists: bytes.is_some(),
        bytes,
    };
    Ok(Checked { objects: ids.iter().zip(sizes).map(known).collect() })
}

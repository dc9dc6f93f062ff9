//! How fast objects come.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource as _, Piece};
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;
use futures_util::TryStreamExt;
use serde::Serialize;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Bandwidth {
    objects: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
}

impl Show for Bandwidth {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { objects, bytes, seconds, bytes_per_second } = self;
        writeln!(
            out,
            "{objects} objects of {} in {seconds:.1} s: {:.1} MB/s",
            HumanBytes(*bytes),
            bytes_per_second / 1e6
        )
    }
}

/// Gets the objects over and over, at least once, and drops them; they are not hashed here.
///
/// # Errors
/// [`Failure`] when one can't be had.
pub(crate) async fn test(
    objects: &RemoteObjects,
    ids: &[ObjectId],
    duration: Duration,
) -> Result<Bandwidth, Failure> {
    let during = || "can't get objects".to_owned();
    let (began, mut count, mut bytes) = (Instant::now(), 0, 0);
    loop {
        let mut pieces = objects.objects(ids.to_vec()).await.during(during)?;
        while let Some(piece) = pieces.try_next().await.during(during)? {
            match piece {
                Piece::Begin { .. } => count += 1,
                Piece::Data(data) => bytes += data.len() as u64,
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        if began.elapsed() >= duration {
            let bytes_per_second = bytes as f64 / seconds.max(f64::MIN_POSITIVE);
            return Ok(Bandwidth { objects: count, bytes, seconds, bytes_per_second });
        }
    }
}

use std::collections::{BTreeMap, BTreeSet};

use dominator_core::object::ObjectId;
use dominator_core::port::{FetchReport, Piece, StoreError};
use tokio::sync::mpsc;

use crate::update::{Intake, ObjectCache, Resumed};

/// What becomes of a fetch on the disk. Blocking.
pub(super) struct Writer {
    cache: ObjectCache,
    intake: Intake,
    /// What has not come yet, with the lengths.
    missing: BTreeMap<ObjectId, u64>,
    /// What must not be gone on with: whole, it was wrong.
    whole: BTreeSet<ObjectId>,
    /// What the disk lost once already.
    lost: BTreeSet<ObjectId>,
    report: FetchReport,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All that was asked for came.
    Well,
    /// An object that was gone on with is wrong as a whole, and nobody knows which part: it must be asked for anew.
    NotTheRest,
    /// Its source did something wrong, in this object.
    Badly(Option<ObjectId>, StoreError),
    /// This machine could not take it.
    Here(StoreError),
}

impl Writer {
    pub(super) fn new(cache: ObjectCache, missing: BTreeMap<ObjectId, u64>) -> Self {
        let intake = cache.intake();
        let (whole, lost) = (BTreeSet::new(), BTreeSet::new());
        Self { cache, intake, missing, whole, lost, report: FetchReport::default() }
    }

    /// What came, and how much did not.
    pub(super) fn end(self) -> (FetchReport, usize) {
        (self.report, self.missing.len())
    }

    /// The lengths of what has not come yet.
    pub(super) fn sizes(&self) -> BTreeMap<ObjectId, u64> {
        self.missing.clone()
    }

    /// What has not come yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = ObjectId> {
        self.missing.keys().copied()
    }

    /// Begins with an object of which there is a beginning, none of `but`, and says where to go on; nothing, when there is
    /// none.
    pub(super) fn resume(&mut self, but: &BTreeSet<ObjectId>) -> Result<Option<(ObjectId, u64)>, StoreError> {
        for (id, size) in &self.missing {
            if !self.whole.contains(id)
                && !but.contains(id)
                && self.cache.partial(id).is_ok_and(|partial| partial.is_some())
                && let Some(offset) = self.intake.resume(*id, *size)?
            {
                return Ok(Some((*id, offset)));
            }
        }
        Ok(None)
    }

    /// Gives up what has come of the last object, for now.
    pub(super) fn break_off(&mut self) {
        self.intake.break_off();
    }

    /// Makes durable what came, whatever comes next. What the disk did not keep is missing again.
    pub(super) fn settle(&mut self, sizes: &BTreeMap<ObjectId, u64>) -> Result<(), StoreError> {
        for error in self.intake.settle()?.lost {
            let StoreError::Corrupt { id, .. } = &error else { return Err(error) };
            if !self.lost.insert(*id) {
                return Err(StoreError::Failed {
                    what: format!("the disk does not keep object {id}, which was written twice"),
                    cause: dominator_core::port::Cause::new(error),
                });
            }
            self.missing.extend(sizes.get_key_value(id));
        }
        Ok(())
    }

    /// Writes what comes. With `rest`, the stream is that of the object begun with [`Writer::resume`] alone.
    pub(super) fn write(
        &mut self,
        mut batches: mpsc::Receiver<Vec<Result<Piece, StoreError>>>,
        rest: Option<ObjectId>,
    ) -> Ended {
        let mut rest_begins = rest;
        for piece in std::iter::from_fn(|| batches.blocking_recv()).flatten() {
            let outcome = match piece {
                Ok(Piece::Begin { id, size }) if rest_begins.take() == Some(id) => self.check(id, size),
                Ok(Piece::Begin { id, size }) => self.begin(id, size, rest),
                Ok(Piece::Data(bytes)) => self.data(&bytes),
                Err(error) => Err(self.broke(error)),
            };
            if let Err(ended) = outcome {
                return ended;
            }
        }
        match (self.intake.incomplete(), rest) {
            (Some((_, left)), _) => self.badly(format!("it ended {left} bytes too early")),
            (None, Some(_)) => Ended::Well,
            (None, None) => match self.missing.keys().next() {
                None => Ended::Well,
                Some(id) => self.badly(format!("it ended before object {id}")),
            },
        }
    }

    fn check(&self, id: ObjectId, size: u64) -> Result<(), Ended> {
        match self.missing.get(&id) {
            Some(expected) if *expected == size => Ok(()),
            Some(expected) => {
                Err(self.badly(format!("object {id} was announced with {size} bytes, it has {expected}")))
            }
            None => Err(self.badly(format!("object {id} came, which nobody asked for"))),
        }
    }

    fn begin(&mut self, id: ObjectId, size: u64, rest: Option<ObjectId>) -> Result<(), Ended> {
        if let Some((before, left)) = self.intake.incomplete() {
            return Err(self.badly(format!("object {before} is {left} bytes shorter than announced")));
        }
        if rest.is_some() {
            return Err(self.badly(format!("object {id} came, which nobody asked for")));
        }
        self.check(id, size)?;
        self.intake.begin(id, size).map_err(Ended::Here)?;
        // The empty object is whole at once.
        if size == 0 { self.whole(id) } else { Ok(()) }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if !(1..=Piece::MAX_DATA).contains(&bytes.len()) {
            return Err(self.badly(format!("a piece of {} bytes", bytes.len())));
        }
        let Some((id, left)) = self.intake.incomplete() else {
            return Err(self.badly("more data than was announced".to_owned()));
        };
        if bytes.len() as u64 > left {
            return Err(self.badly(format!("object {id} is longer than announced")));
        }
        self.intake.data(bytes).map_err(Ended::Here)?;
        self.report.bytes += bytes.len() as u64;
        if bytes.len() as u64 == left { self.whole(id) } else { Ok(()) }
    }

    /// All of an object has come.
    fn whole(&mut self, id: ObjectId) -> Result<(), Ended> {
        let resumed = self.intake.resumed();
        match (self.intake.end(), resumed) {
            (Ok(_), _) => {
                self.missing.remove(&id);
                self.report.objects += 1;
                Ok(())
            }
            (Err(StoreError::Corrupt { .. }), Resumed::Yes) => {
                self.whole.insert(id);
                Err(Ended::NotTheRest)
            }
            (Err(error @ StoreError::Corrupt { .. }), Resumed::No) => Err(Ended::Badly(Some(id), error)),
            (Err(error), _) => Err(Ended::Here(error)),
        }
    }

    fn broke(&self, error: StoreError) -> Ended {
        Ended::Badly(self.intake.incomplete().map(|(id, _)| id), error)
    }

    fn badly(&self, what: String) -> Ended {
        self.broke(StoreError::Protocol(what))
    }
}

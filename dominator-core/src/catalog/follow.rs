use std::collections::VecDeque;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Catalog, Entries, ImageUpdate, Position, Selection};
use crate::image::ImageName;
use crate::namespace::ImageDirectory;

/// A [`Catalog`] as it changes: a stream that never ends. Nothing is kept for it but its position, and, while it is told of
/// all there is, that; where it falls behind further than the log reaches, it begins anew.
#[derive(Debug)]
pub struct Followed {
    catalog: Catalog,
    selection: Selection,
    stage: Stage,
    number: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    /// Has said nothing yet.
    New { from: Option<Position> },
    /// Tells what there is at `position`, and has told all up to `told`.
    Listing {
        directories: VecDeque<ImageDirectory>,
        images: Arc<Entries>,
        position: Position,
        told: Option<ImageName>,
    },
    /// Has told everything up to there.
    Following(Position),
}

impl Followed {
    pub(super) fn new(catalog: Catalog, selection: Selection, from: Option<Position>) -> Self {
        Self { catalog, selection, stage: Stage::New { from }, number: None }
    }

    /// What comes next; nothing, when that is yet to happen, of which the waker is told then.
    fn next(&mut self, context: &Context<'_>) -> Option<ImageUpdate> {
        match &mut self.stage {
            Stage::New { from } => {
                let from = from.filter(|from| self.catalog.state().log.reaches_back_to(*from));
                let Some(position) = from else { return Some(self.begin()) };
                self.stage = Stage::Following(position);
                Some(ImageUpdate::Current(position))
            }
            Stage::Listing { directories, images, position, told } => {
                if let Some(directory) = directories.pop_front() {
                    return Some(ImageUpdate::Directory(directory));
                }
                let rest = told.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let Some((name, entry)) = images.range((rest, Bound::Unbounded)).next() else {
                    let position = *position;
                    self.stage = Stage::Following(position);
                    return Some(ImageUpdate::Current(position));
                };
                let update = ImageUpdate::Image { name: name.clone(), entry: Arc::clone(entry) };
                *told = Some(name.clone());
                Some(update)
            }
            Stage::Following(position) => {
                let mut state = self.catalog.state();
                if !state.log.reaches_back_to(*position) {
                    drop(state);
                    return Some(self.begin());
                }
                let Some((next, change)) = state.log.after(*position) else {
                    state.wait(&mut self.number, context.waker());
                    return None;
                };
                *position = next;
                Some(ImageUpdate::Change { position: next, change: change.clone() })
            }
        }
    }

    fn begin(&mut self) -> ImageUpdate {
        let state = self.catalog.state();
        let (images, position) = (Arc::clone(&state.images), state.log.end());
        let directories = state.directories().collect();
        drop(state);
        self.stage = Stage::Listing { directories, images, position, told: None };
        ImageUpdate::Begin
    }
}

impl Stream for Followed {
    type Item = ImageUpdate;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ImageUpdate>> {
        let this = self.get_mut();
        while let Some(update) = this.next(context) {
            if let Some(update) = this.selection.update(update) {
                return Poll::Ready(Some(update));
            }
        }
        Poll::Pending
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        forget(&self.catalog, self.number);
    }
}

/// Waits for an image.
pub(super) struct Appears<'a> {
    catalog: &'a Catalog,
    name: &'a ImageName,
    number: Option<u64>,
}

impl<'a> Appears<'a> {
    pub(super) fn new(catalog: &'a Catalog, name: &'a ImageName) -> Self {
        Self { catalog, name, number: None }
    }
}

impl Future for Appears<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut state = this.catalog.state();
        if state.images.contains_key(this.name) {
            return Poll::Ready(());
        }
        state.wait(&mut this.number, context.waker());
        Poll::Pending
    }
}

impl Drop for Appears<'_> {
    fn drop(&mut self) {
        forget(self.catalog, self.number);
    }
}

fn forget(catalog: &Catalog, number: Option<u64>) {
    if let Some(number) = number {
        catalog.state().waiting.remove(&number);
    }
}

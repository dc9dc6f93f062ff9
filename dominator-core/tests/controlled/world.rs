use std::sync::Arc;
use std::time::Duration;

use dominator_core::filter::Filter;
use dominator_core::herd::{Action, Event, Moment, Required, Settings, Sub, Updates, Wanted};
use dominator_core::image::{Image, ImageName};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_core::view::XattrPolicy;

use super::machine::{Machine, Spec};
use crate::model::{Model, model};

/// A controller of one machine, in virtual time.
pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) sub: Sub,
    pub(crate) machine: Machine,
    pub(crate) image: (ImageName, Arc<Image>, Snapshot),
    pub(crate) updates: Updates,
}

impl World {
    pub(crate) fn new(machine: &Spec<'_>, image: &Spec<'_>, filter: &str) -> Self {
        let filter = if filter == "sparse" { Filter::Sparse } else { Filter::parse(filter).unwrap() };
        let (settings, image) = (Settings::default(), Self::image("test/1", model(image), filter));
        Self {
            now: Moment::default(),
            sub: Sub::new(settings),
            machine: Machine::new(model(machine)),
            image,
            updates: Updates::Enabled,
        }
    }

    pub(crate) fn image(name: &str, tree: Model, filter: Filter) -> (ImageName, Arc<Image>, Snapshot) {
        let tree = tree.snapshot();
        let image = Image::new(tree.tree.clone(), filter, Triggers::default(), XattrPolicy::ALL);
        (name.parse().unwrap(), Arc::new(image), tree)
    }

    pub(crate) fn want(&self) -> Event {
        Event::Wanted(Wanted::Ready(self.image.0.clone(), Arc::clone(&self.image.1)), self.updates)
    }

    /// Tells the machine's controller of the wish and lets `time` pass.
    pub(crate) fn run(&mut self, event: Event, time: Duration) {
        self.watch(event, time, |_| ());
    }

    /// The same, and shows after every step how the machine stands.
    pub(crate) fn watch(&mut self, event: Event, time: Duration, mut seen: impl FnMut(&Sub)) {
        let end = self.now.after(time);
        let mut actions = Vec::new();
        self.sub.step(self.now, event, &mut actions);
        for _ in 0..10_000 {
            seen(&self.sub);
            assert!(actions.len() <= 1, "one call at a time: {actions:?}");
            let action = actions.pop().expect("there is always a next thing to do");
            let event = match &action {
                Action::WakeAt(moment) => {
                    if *moment > end {
                        self.now = end;
                        return;
                    }
                    self.now = (*moment).max(self.now);
                    Event::Wake
                }
                Action::Require(name, image, traits) => {
                    let required =
                        Required::new(name.clone(), Arc::clone(image), &self.image.2, traits.clone());
                    Event::Required(Ok(Arc::new(required)))
                }
                Action::Poll(request) if !request.wait.is_zero() => {
                    // Nothing changes while the agent waits, but for a scan that is due.
                    self.now = if self.machine.scanned { self.now.after(request.wait) } else { self.now };
                    if self.now > end {
                        return;
                    }
                    self.machine.perform(&action).unwrap()
                }
                _ => self.machine.perform(&action).unwrap(),
            };
            self.sub.step(self.now, event, &mut actions);
        }
        panic!("the controller spins: {:?}", &self.machine.calls[self.machine.calls.len() - 20..]);
    }

    /// Tells of the wish and performs what is to be done, up to the action meant, which is left undone.
    pub(crate) fn drive_to(&mut self, meant: fn(&Action) -> bool) -> Action {
        self.drive_from(self.want(), meant)
    }

    /// The same, but tells of something else.
    pub(crate) fn drive_from(&mut self, event: Event, meant: fn(&Action) -> bool) -> Action {
        let mut actions = Vec::new();
        self.sub.step(self.now, event, &mut actions);
        loop {
            let action = actions.pop().unwrap();
            if meant(&action) {
                return action;
            }
            assert!(self.machine.calls.len() < 1000, "the controller spins");
            let event = match &action {
                Action::Require(name, image, traits) => Event::Required(Ok(Arc::new(Required::new(
                    name.clone(),
                    Arc::clone(image),
                    &self.image.2,
                    traits.clone(),
                )))),
                Action::WakeAt(moment) => {
                    self.now = *moment;
                    Event::Wake
                }
                _ => self.machine.perform(&action).unwrap(),
            };
            self.sub.step(self.now, event, &mut actions);
        }
    }

    pub(crate) fn settle(&mut self) {
        self.run(self.want(), Duration::from_secs(600));
    }

    pub(crate) fn is_as_required(&self) -> bool {
        let required = Required::new(
            self.image.0.clone(),
            Arc::clone(&self.image.1),
            &self.image.2,
            Arc::new(Machine::traits()),
        );
        self.machine.snapshot().unwrap().id() == required.tree_id
    }
}

/// What machines of these tests must be.
pub(crate) const IMAGE: &Spec<'_> = &[
    ("/etc", "", "/", 0o755),
    ("/etc/a", "1", "x", 0o644),
    ("/etc/b", "1", "x", 0o644),
    ("/etc/c", "2", "y", 0o600),
];

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Plan, PlanSummary};
use dominator_core::port::{Cause, ServiceOutcome, ServiceRunner, StoreError, UpdateReport};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_daemon::{During, Failure};
use dominator_fs::import::ObjectSink;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Fact, Progress, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::service::{self, Activation, Debt, NoServices, SystemServices};
use dominator_fs::store::images::ImageStore;
use dominator_fs::traits::{granularity_of, traits_of};
use dominator_fs::update::{Afterwards, Intake, Updater};

use super::places::{self, Liveness};
use super::report::Round;
use crate::progress::Watching;
use crate::source::Source;
use crate::{EnforceOptions, input};

/// Keeps one directory as an image says.
pub(super) struct Keeper {
    what: String,
    source: Source,
    filter: Filter,
    image: Snapshot,
    required: Snapshot,
    triggers: Triggers,
    view: Arc<View>,
    root: Root,
    services: Box<dyn ServiceRunner>,
    liveness: Liveness,
    opened: Option<Opened>,
    cancel: Cancel,
}

/// The work directory of the root.
struct Opened {
    updater: Updater,
    /// What is owed to services.
    afterwards: Afterwards,
}

/// What a look found.
struct Look {
    before: Snapshot,
    plan: Plan,
    /// Directories that have to go, but can't.
    kept: Vec<ImagePath>,
    unknown: Vec<Fact>,
}

impl Keeper {
    /// Reads the image, once. Nothing is written.
    pub(super) fn new(options: EnforceOptions, cancel: Cancel) -> Result<Self, Failure> {
        let what = format!("can't enforce the image on {}", options.image.root.display());
        let filter = input::filter(options.image.filter.as_deref())?;
        let triggers = input::triggers(options.triggers.as_deref())?;
        let liveness = places::check(&options, &filter)?;
        let root = Root::open(&options.image.root).during(|| what.clone())?;
        let source = Source::open(&options.image.image)?;
        let imported = {
            let _watching = Watching::work("reading the image");
            source.tree(&filter, &cancel)?
        };
        let tree = imported.snapshot;
        tree.verify(ImageStore::MAX_INODES).during(|| "the image can't be one".into())?;
        let xattrs = imported.xattrs.and(options.image.xattrs.xattrs.policy());
        let manifest = Image::new(tree.tree.clone(), filter.clone(), triggers.clone(), xattrs);
        let mut traits = traits_of(&root);
        traits.mtime = granularity_of(&root).unwrap_or(traits.mtime);
        let view = traits.view(&manifest, &tree);
        let services: Box<dyn ServiceRunner> = match liveness {
            Liveness::Live => Box::new(SystemServices::detect()),
            Liveness::Other => Box::new(NoServices),
        };
        let required = view.apply(&tree);
        let view = Arc::new(view);
        let opened = None;
        Ok(Self {
            what,
            source,
            filter,
            image: tree,
            required,
            triggers,
            view,
            root,
            services,
            liveness,
            opened,
            cancel,
        })
    }

    /// Looks, and says what would be done.
    pub(super) fn look_only(&mut self) -> Result<Round, Failure> {
        let began = Instant::now();
        let look = self.look()?;
        let done = UpdateReport { kept: look.kept.clone(), ..UpdateReport::default() };
        let summary = self.summary(&look);
        Ok(Round::of(&look.plan, &summary, &done, &look.unknown, self.liveness, began.elapsed()))
    }

    /// Looks, and does what has to be done.
    pub(super) fn round(&mut self) -> Result<Round, Failure> {
        let began = Instant::now();
        // What was cut off is brought to its end before anything is looked at: that changes the tree.
        let mut services = match Updater::has_worked_in(&self.root) {
            true => self.open()?,
            false => Vec::new(),
        };
        let look = self.look()?;
        let summary = self.summary(&look);
        let owes = self.opened.as_ref().is_some_and(|opened| !opened.afterwards.owed().is_empty());
        let mut done = match look.plan.is_empty() && !owes {
            true => UpdateReport::default(),
            false => {
                services.extend(self.open()?);
                self.update(&look.plan, &look.before)?
            }
        };
        services.append(&mut done.services);
        done.services = services;
        done.kept.extend(look.kept);
        Ok(Round::of(&look.plan, &summary, &done, &look.unknown, self.liveness, began.elapsed()))
    }

    /// The plan as people read it.
    fn summary(&self, look: &Look) -> PlanSummary {
        let owed = self.opened.as_ref().map(|opened| opened.afterwards.owed()).unwrap_or_default();
        let actions = self.activation(&look.plan, &look.before, owed).actions();
        PlanSummary::of(&look.plan).with_services(actions).with_paths(&look.kept, &self.view.protected)
    }

    fn activation(&self, plan: &Plan, before: &Snapshot, owed: Vec<Debt>) -> Activation {
        let changed = service::changed(plan, before);
        Activation::new(&Triggers::default(), &self.triggers, changed.iter().copied()).owing(owed)
    }

    /// Sees to it that the work directory is open, and to the services of an update that was cut off.
    fn open(&mut self) -> Result<Vec<ServiceOutcome>, Failure> {
        if self.opened.as_ref().is_some_and(|opened| !opened.updater.is_unfinished()) {
            return Ok(Vec::new());
        }
        // One process has it at a time, also this one.
        self.opened = None;
        let what = || self.what.clone();
        let (updater, found) = Updater::open(self.root.clone(), Arc::new(Kernel)).during(what)?;
        let afterwards = updater.afterwards().during(what)?;
        let services = afterwards.inherit(&found, &*self.services).during(what)?;
        self.opened = Some(Opened { updater, afterwards });
        Ok(services)
    }

    fn look(&self) -> Result<Look, Failure> {
        let progress = Arc::new(Progress::default());
        let scanner = Scanner::new(self.root.clone(), Arc::clone(&self.view)).progress(Arc::clone(&progress));
        let scan = {
            let _watching = Watching::scan("looking", progress);
            scanner.scan(&self.cancel).during(|| self.what.clone())?
        };
        let actual = &scan.snapshot;
        let comparison = Comparison {
            required: &self.required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        let (plan, kept) = comparison.plan().during(|| self.what.clone())?.plan.without_kept(&scan.held);
        Ok(Look { before: scan.snapshot, plan, kept, unknown: scan.facts })
    }

    /// Fetch, verify, stage, stop services, swap, start services.
    fn update(&mut self, plan: &Plan, before: &Snapshot) -> Result<UpdateReport, Failure> {
        let what = || self.what.clone();
        let mut opened = self.opened.take();
        let Some(Opened { updater, afterwards }) = &mut opened else {
            return Err(Failure::new(self.what.clone()));
        };
        self.fetch(plan, updater)?;
        let activation = self.activation(plan, before, afterwards.owed());
        let (services, note) = (&*self.services, Afterwards::note_of(&activation));
        let made = updater.activate(plan, &self.view, &note, &activation, services, afterwards);
        if !plan.is_empty() && !updater.is_unfinished() {
            afterwards.conclude(&note).during(what)?;
        }
        let mut report = made.during(what)?;
        if report.is_success() {
            report.services.extend(activation.conclude(services));
        }
        self.opened = opened;
        Ok(report)
    }

    fn fetch(&self, plan: &Plan, updater: &Updater) -> Result<(), Failure> {
        let cache = updater.objects();
        let mut missing = plan.objects();
        for (id, size) in plan.objects() {
            if cache.size(&id).during(|| self.what.clone())? == Some(size) {
                missing.remove(&id);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let room = cache.free_space().during(|| self.what.clone())?;
        let needed = room.needed(missing.values().copied());
        if needed > room.bytes {
            let error = StoreError::NoSpace { need: needed, free: room.bytes };
            return Err(Failure::caused(self.what.clone(), error));
        }
        let _watching = Watching::work("copying");
        let mut wanted = Wanted { missing, intake: cache.intake() };
        self.source.contents(&self.image, &self.filter, &self.cancel, &mut wanted)?;
        wanted.intake.finish().during(|| self.what.clone()).map(drop)
    }
}

/// A sink for the objects of a plan.
struct Wanted {
    missing: BTreeMap<ObjectId, u64>,
    intake: Intake,
}

impl Wanted {
    /// How much is copied at a time, in bytes.
    const BUFFER: usize = 128 * 1024;
}

impl ObjectSink for Wanted {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        Ok(offered.iter().map(|(id, _)| *id).filter(|id| self.missing.contains_key(id)).collect())
    }

    fn put(&mut self, id: ObjectId, size: u64, contents: &mut dyn Read) -> Result<(), StoreError> {
        self.intake.begin(id, size)?;
        let mut buffer = vec![0; Self::BUFFER];
        loop {
            match contents.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => self.intake.data(buffer.get(..read).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let what = format!("object {id} could not be read");
                    return Err(StoreError::Failed { what, cause: Cause::new(error) });
                }
            }
        }
        self.missing.remove(&id);
        Ok(())
    }
}

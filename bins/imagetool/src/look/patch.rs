//! Bringing a directory to what an image says, with the same scan, plan and journalled update as an agent.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::image::{Image, ImageName};
use dominator_core::plan::{Comparison, Plan, PlanSummary};
use dominator_core::port::{Cause, PathFailure, StoreError, UpdateReport};
use dominator_core::tree::Snapshot;
use dominator_daemon::plan::PlanShown;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use dominator_fs::export::{ExportError, ObjectStream as _};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::store::ports::PortStream;
use dominator_fs::traits::{granularity_of, traits_of};
use dominator_fs::update::{Intake, Updater};
use serde::Serialize;

use crate::Server;

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Patched {
    image: String,
    directory: String,
    plan: PlanShown,
    applied: u64,
    failures: Vec<Remark>,
    /// Paths that could not be looked at, and were left alone.
    unknown: Vec<Remark>,
    dry_run: bool,
}

impl Patched {
    /// Whether the directory is what the image says now, or nobody asked for that.
    pub(super) fn is_success(&self) -> bool {
        self.failures.is_empty() && self.unknown.is_empty()
    }
}

impl Show for Patched {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.plan.text_of_past(out)?;
        self.failures.iter().try_for_each(|failed| writeln!(out, "failed      {failed}"))?;
        self.unknown.iter().try_for_each(|unknown| writeln!(out, "left alone  {unknown}"))?;
        let Self { image, directory, applied, .. } = self;
        match self.dry_run {
            true => writeln!(out, "{directory} would be {image} after {} operations", self.plan.operations),
            false => writeln!(out, "{directory} is {image} after {applied} operations"),
        }
    }
}

/// Makes `directory` what image `name` says.
///
/// # Errors
/// [`Failure`]; what the update could not do for single paths is in the result instead.
pub(super) async fn patch(
    server: &Server,
    name: &ImageName,
    directory: PathBuf,
    dry_run: bool,
) -> Result<Patched, Failure> {
    refuse_live(&directory)?;
    let (image, tree) = (server.manifest(name).await?, server.tree(name).await?);
    let objects = server.stream(Arc::clone(&tree), "getting").await?;
    let name = name.clone();
    let during = format!("can't make {} what {name} says", directory.display());
    let work = move || Patch { name, image, tree, objects, directory, dry_run }.run().during(|| during);
    tokio::task::spawn_blocking(work).await.during(|| "the update was broken off".into())?
}

/// The machine itself needs its services stopped and its users asked: that is an agent's work.
fn refuse_live(directory: &Path) -> Result<(), Failure> {
    let key = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let during = || format!("can't look at {}", directory.display());
    if key(directory).during(during)? == key(Path::new("/")).during(|| "can't look at /".into())? {
        return Err(Failure::new(
            "this is the root of the running machine; dominate enforce sees to its services",
        ));
    }
    Ok(())
}

struct Patch {
    name: ImageName,
    image: Arc<Image>,
    tree: Arc<Snapshot>,
    objects: PortStream,
    directory: PathBuf,
    dry_run: bool,
}

impl Patch {
    fn run(mut self) -> Result<Patched, Failure> {
        let during = || "it can't be opened".to_owned();
        let root = Root::open(&self.directory).during(during)?;
        let mut traits = traits_of(&root);
        traits.mtime = granularity_of(&root).unwrap_or(traits.mtime);
        let view = Arc::new(traits.view(&self.image, &self.tree));
        let required = view.apply(&self.tree);
        // What an update before this one left unfinished changes the tree, and so comes before the look.
        let mut updater = match self.dry_run {
            true => None,
            false => Some(Updater::open(root.clone(), Arc::new(Kernel)).during(during)?.0),
        };
        let scan = Scanner::new(root, Arc::clone(&view)).scan(&Cancel::default());
        let scan = scan.during(|| "it can't be looked at".into())?;
        let actual = &scan.snapshot;
        let comparison = Comparison {
            required: &required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        let compared = comparison.plan().during(|| "it can't be compared".into())?;
        let (plan, kept) = compared.plan.without_kept(&scan.held);
        let summary = PlanSummary::of(&plan).with_paths(&kept, &view.protected);
        let done = match &mut updater {
            Some(updater) if !plan.is_empty() => {
                self.fetch(&plan, updater)?;
                let done = updater.apply(&plan, &view).during(|| "the update failed".into())?;
                // Nobody undoes it from here, and what that would take is as large as what was replaced.
                updater.clean_up().during(|| "what is left over can't be removed".into())?;
                done
            }
            _ => UpdateReport::default(),
        };
        let failed = |failed: &PathFailure| Remark::new(&failed.path, failed.reason.clone());
        Ok(Patched {
            image: self.name.to_string(),
            directory: self.directory.display().to_string(),
            plan: PlanShown::from(&summary),
            applied: done.applied,
            failures: done.failures.iter().map(failed).collect(),
            unknown: scan
                .facts
                .iter()
                .map(|fact| Remark::unknown(&fact.path, fact.why, &fact.detail))
                .collect(),
            dry_run: self.dry_run,
        })
    }

    /// Gets what the plan needs and is not there yet.
    fn fetch(&mut self, plan: &Plan, updater: &Updater) -> Result<(), Failure> {
        let during = || "objects can't be kept beside it".to_owned();
        let cache = updater.objects();
        let mut missing = plan.objects();
        for (id, size) in plan.objects() {
            if cache.size(&id).during(during)? == Some(size) {
                missing.remove(&id);
            }
        }
        let room = cache.free_space().during(during)?;
        let need = room.needed(missing.values().copied());
        if need > room.bytes {
            return Err(StoreError::NoSpace { need, free: room.bytes }).during(during);
        }
        let wanted: Vec<_> = missing.keys().copied().collect();
        let mut intake = cache.intake();
        let streamed = self.objects.stream(&wanted, &mut |id, contents| {
            let size = missing.get(&id).copied().unwrap_or_default();
            intake.begin(id, size).map_err(ExportError::Source)?;
            take(&mut intake, contents).map_err(ExportError::Source)
        });
        streamed.during(|| "objects can't be had".into())?;
        intake.finish().during(during).map(drop)
    }
}

fn take(intake: &mut Intake, contents: &mut dyn Read) -> Result<(), StoreError> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match contents.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => intake.data(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(StoreError::Failed {
                    what: "an object can't be read".into(),
                    cause: Cause::new(error),
                });
            }
        }
    }
}

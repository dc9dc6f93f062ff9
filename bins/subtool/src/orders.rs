//! Orders of one step, and what came of them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use dominator_core::image::ImageName;
use dominator_core::path::ImagePath;
use dominator_core::port::{Agent, Blame, ForgiveRequest, RemovedConflicts, RestartRequest, UndoRequest};
use dominator_core::trigger::ServiceName;
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::outcome::{Report, Service};

/// Takes the last update back.
pub(crate) async fn undo(agent: &dyn Agent, blame: Blame) -> Result<Report, Failure> {
    let report = agent.undo(UndoRequest { blame, lock: None }).await;
    Ok(Report::of_undoing(&report.during(|| "can't take the last update back".into())?))
}

/// Restarts a service.
pub(crate) async fn restart_service(agent: &dyn Agent, service: ServiceName) -> Result<Service, Failure> {
    let during = format!("can't restart {service}");
    let outcome = agent.restart_service(RestartRequest { service, lock: None }).await.during(|| during)?;
    Ok(Service::from(&outcome))
}

/// What was forgotten to be bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Forgiven {
    forgiven: Vec<String>,
}

/// Has images tried again: that one, or all that were found bad.
pub(crate) async fn forgive(agent: &dyn Agent, image: Option<ImageName>) -> Result<Forgiven, Failure> {
    let reply =
        agent.poll(dominator_core::port::PollRequest::default()).await.during(|| "can't poll".into())?;
    let bad = reply.details.bad_images.iter().map(|bad| &bad.image);
    let forgiven: Vec<_> = bad.filter(|bad| image.as_ref().is_none_or(|image| image == *bad)).collect();
    if let (Some(image), true) = (&image, forgiven.is_empty()) {
        return Err(Failure::new(format!(
            "{image} was not found bad on this machine; poll lists those that were"
        )));
    }
    let forgiven = forgiven.into_iter().map(ToString::to_string).collect();
    agent
        .forgive(ForgiveRequest { image, lock: None })
        .await
        .during(|| "can't have it tried again".into())?;
    Ok(Forgiven { forgiven })
}

/// That objects were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CleanedUp {
    free_bytes: u64,
}

/// Drops what was fetched.
pub(crate) async fn clean_up(agent: &dyn Agent) -> Result<CleanedUp, Failure> {
    agent.clean_up(None).await.during(|| "can't clean up".into())?;
    let reply =
        agent.poll(dominator_core::port::PollRequest::default()).await.during(|| "can't poll".into())?;
    Ok(CleanedUp { free_bytes: reply.status.free_space })
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    /// Some of it.
    removed: Vec<String>,
    removed_count: u64,
    bytes: u64,
}

/// Removes what undoing moved out of the way.
pub(crate) async fn remove_conflicts(agent: &dyn Agent) -> Result<Removed, Failure> {
    let removed = agent.remove_conflicts(None).await.during(|| "can't remove conflicts".into())?;
    let RemovedConflicts { paths, more, bytes } = removed;
    let removed_count = (paths.len() as u64).saturating_add(more);
    Ok(Removed { removed: paths.iter().map(ToString::to_string).collect(), removed_count, bytes })
}

/// A file that was got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Got {
    path: String,
    bytes: u64,
    to: String,
}

/// Gets a file of the machine. Without a place, it goes to standard output, and there is nothing to show.
pub(crate) async fn get_file(
    agent: &dyn Agent,
    path: ImagePath,
    to: Option<&Path>,
) -> Result<Option<Got>, Failure> {
    let during = format!("can't get {path}");
    let files = agent.files(vec![path.clone()]).await.during(|| during.clone())?;
    let file = files.into_iter().next().ok_or_else(|| Failure::new("the agent left the file out"))?;
    let contents = file.contents.map_err(Failure::new).during(|| during.clone())?;
    let Some(to) = to else {
        let mut out = io::stdout().lock();
        return match out.write_all(&contents).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::caused(during, error)),
            Ok(()) | Err(_) => Ok(None),
        };
    };
    fs::write(to, &contents).during(|| format!("can't write {}", to.display()))?;
    Ok(Some(Got { path: path.to_string(), bytes: contents.len() as u64, to: to.display().to_string() }))
}

impl Show for Forgiven {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.forgiven.iter().try_for_each(|image| writeln!(out, "{image} is tried again"))?;
        if self.forgiven.is_empty() { writeln!(out, "no image was found bad") } else { Ok(()) }
    }
}

impl Show for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.removed.iter().try_for_each(|path| writeln!(out, "removed     {path}"))?;
        let more = self.removed_count.saturating_sub(self.removed.len() as u64);
        if more > 0 {
            writeln!(out, "            and {more} more")?;
        }
        writeln!(out, "{} conflicts of {} are gone", self.removed_count, HumanBytes(self.bytes))
    }
}

impl Show for CleanedUp {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "cleaned up; {} are free", HumanBytes(self.free_bytes))
    }
}

impl Show for Got {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {} in {}", self.path, HumanBytes(self.bytes), self.to)
    }
}

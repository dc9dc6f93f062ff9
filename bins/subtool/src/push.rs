//! An image pushed to one machine by hand: what a controller does, once.

use std::io::{self, Write};
use std::process::ExitCode;

use dominator_core::image::ImageName;
use dominator_core::port::{Agent, Disruption, FetchRequest, ImageStore, LockToken, UpdateRequest};
use dominator_daemon::report::{Format, Show, remark, show};
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::compared::Visit;
use crate::lock::holding;
use crate::objects::Fetched;
use crate::outcome::Report;
use crate::request::Request;

/// How to push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    /// Only say what would be done.
    DryRun,
    /// Do it, unless something speaks against it.
    Guarded,
    /// Do it.
    Forced,
}

/// What pushing came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Pushed {
    image: String,
    fetched: Fetched,
    #[serde(flatten)]
    report: Report,
}

/// What is pushed, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    /// Which image.
    pub(crate) image: &'a ImageName,
    /// Who has objects.
    pub(crate) sources: Vec<String>,
    /// How it is done.
    pub(crate) push: Push,
    /// Whether users are asked.
    pub(crate) disruption: Disruption,
}

/// Makes the machine be the image: compares, fetches, updates.
///
/// # Errors
/// [`Failure`], when something can't be done, or speaks against it.
pub(crate) async fn push(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    order: Order<'_>,
    format: Format,
) -> Result<ExitCode, Failure> {
    if order.push == Push::DryRun {
        let visit = Visit::make(agent, images, order.image, None).await?;
        show(&Request::of(&visit, images).await, format)?;
        return check(&visit, Push::Guarded).map(|()| ExitCode::SUCCESS);
    }
    let pushed = holding(agent, async |lock| carry_out(agent, images, &order, lock).await).await?;
    show(&pushed, format)?;
    Ok(pushed.report.status())
}

async fn carry_out(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    order: &Order<'_>,
    lock: Option<LockToken>,
) -> Result<Pushed, Failure> {
    let visit = Visit::make(agent, images, order.image, lock).await?;
    check(&visit, order.push)?;
    let mut fetched = Fetched::default();
    let needs = visit.plan.needs();
    if !needs.objects.is_empty() {
        let request = FetchRequest { needs, sources: order.sources.clone(), lock };
        fetched = Fetched::from(&agent.fetch(request).await.during(|| "can't fetch the objects".into())?);
    }
    let required = &visit.required;
    let request = UpdateRequest {
        image: (!required.is_sparse()).then(|| required.name.clone()),
        sparse: required.is_sparse().then(|| required.name.clone()),
        triggers: required.image.triggers.clone(),
        health: required.image.health.clone(),
        disruption: order.disruption,
        lock,
        ..UpdateRequest::new(visit.actual.tree.id(), required.view_id, visit.plan)
    };
    let report = agent.update(request).await.during(|| "the update was not made".into())?;
    if let Err(error) = agent.clean_up(lock).await {
        remark("subtool", &format!("what was fetched is not cleaned up: {error}"));
    }
    Ok(Pushed { image: order.image.to_string(), fetched, report: Report::from(&report) })
}

/// Whether a controller would do this, too.
fn check(visit: &Visit, push: Push) -> Result<(), Failure> {
    let required = &visit.required;
    if let Some(path) = visit.plan.paths().find(|path| required.computed.contains(*path)) {
        return Err(Failure::new(format!("{path} is made for each machine, which only a controller can do")));
    }
    if push == Push::Forced {
        return Ok(());
    }
    let other = visit.details.last_image.as_ref().filter(|last| last.stream() != required.name.stream());
    if let (Some(last), false) = (other, required.is_sparse()) {
        return Err(Failure::new(format!(
            "the machine was {last}, which is no earlier {}; add --force if it is to become something else",
            required.name.stream().unwrap_or(required.name.as_str())
        )));
    }
    let danger = required.danger(visit.added, visit.deleted);
    danger.map_or(Ok(()), |danger| Err(Failure::new(format!("{danger}; add --force if that is meant"))))
}

impl Show for Pushed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.fetched.text(out)?;
        self.report.text(out)
    }
}

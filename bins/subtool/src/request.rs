//! What would be done to make a machine be an image: the controller's own decision, shown and not sent.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::port::{Agent, ImageStore};
use dominator_daemon::Failure;
use dominator_daemon::plan::PlanShown;
use dominator_daemon::remark::{Remark, Step};
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use serde::Serialize;

use crate::compared::Visit;

/// A plan, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Request {
    image: String,
    in_sync: bool,
    operations: Vec<Step>,
    plan: PlanShown,
    /// What the machine would have to fetch, at most: objects it has already are fetched no second time.
    objects: u64,
    bytes: u64,
    /// Paths of which nothing is known.
    unknown: Vec<Remark>,
    /// Why the agent would not do it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// Why a controller would not order it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsafe_update: Option<String>,
}

/// Asks the agent and compares.
///
/// # Errors
/// [`Failure`], when something can't be had.
pub(crate) async fn request(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    name: &ImageName,
) -> Result<Request, Failure> {
    let visit = Visit::make(agent, images, name, None).await?;
    Ok(Request::of(&visit, images).await)
}

impl Request {
    /// What the visit found.
    pub(crate) async fn of(visit: &Visit, images: &dyn ImageStore) -> Self {
        let objects = visit.plan.needs().objects;
        let name = &visit.required.name;
        let refused = (!visit.is_in_sync()).then(|| visit.details.refusal(Some(name))).flatten();
        Self {
            image: name.to_string(),
            in_sync: visit.is_in_sync(),
            operations: visit.plan.operations.iter().map(Step::from).collect(),
            plan: PlanShown::from(&visit.summary(images).await),
            objects: objects.len() as u64,
            bytes: objects.values().map(|need| need.size).sum(),
            unknown: visit.unknown.iter().map(|path| Remark::new(path, "")).collect(),
            refused: refused.map(|refusal| refusal.to_string()),
            unsafe_update: visit.required.danger(visit.added, visit.deleted),
        }
    }
}

impl Show for Request {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.operations.iter().try_for_each(|step| writeln!(out, "{step}"))?;
        self.unknown.iter().try_for_each(|path| writeln!(out, "unknown {path}"))?;
        if !self.in_sync {
            writeln!(out)?;
        }
        self.plan.text(out)?;
        let against = [("unsafe", &self.unsafe_update), ("refused", &self.refused)];
        for (title, words) in against.into_iter().filter_map(|(title, words)| Some((title, words.as_ref()?)))
        {
            writeln!(out, "{title:<11} {words}")?;
        }
        match self.in_sync {
            true => writeln!(out, "the machine is what {} says", self.image),
            false => writeln!(
                out,
                "{} operations, up to {} objects of {} to fetch",
                self.operations.len(),
                self.objects,
                HumanBytes(self.bytes)
            ),
        }
    }
}

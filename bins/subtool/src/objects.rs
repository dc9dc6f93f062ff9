//! Objects that machines lack, and how they come.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::plan::Needs;
use dominator_core::port::{
    Agent, FetchReport, FetchRequest, ImageStore, ObjectSource, ObjectStore, Verified,
};
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteAgent;
use serde::Serialize;

use crate::compared::Visit;

/// What came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Fetched {
    fetched_objects: u64,
    fetched_bytes: u64,
    local_objects: u64,
    failed_sources: Vec<String>,
}

/// What would have to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    objects: Vec<Object>,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Object {
    object: String,
    size: u64,
}

/// What the machine needs to become an image. Some of it may lie on its disk elsewhere.
pub(crate) async fn missing(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    name: &ImageName,
) -> Result<Missing, Failure> {
    let needs = Visit::make(agent, images, name, None).await?.plan.needs();
    let object = |(id, size): (ObjectId, u64)| Object { object: id.to_string(), size };
    let sizes = needs.objects.iter().map(|(id, need)| (*id, need.size));
    Ok(Missing { bytes: sizes.clone().map(|(_, size)| size).sum(), objects: sizes.map(object).collect() })
}

/// Makes the agent fetch what the machine needs to become an image, and no more.
pub(crate) async fn fetch_image(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    name: &ImageName,
    sources: Vec<String>,
) -> Result<Fetched, Failure> {
    let needs = Visit::make(agent, images, name, None).await?.plan.needs();
    if needs.objects.is_empty() {
        return Ok(Fetched::default());
    }
    fetch(agent, needs, sources).await
}

/// Makes the agent fetch these objects, whose lengths `store` knows.
pub(crate) async fn fetch_objects(
    agent: &dyn Agent,
    store: &dyn ObjectStore,
    ids: &[ObjectId],
    sources: Vec<String>,
) -> Result<Fetched, Failure> {
    let sizes = store.sizes(ids).await.during(|| "can't ask how large the objects are".into())?;
    let mut objects = Vec::with_capacity(ids.len());
    for (id, size) in ids.iter().zip(sizes) {
        let size =
            size.ok_or_else(|| Failure::new(format!("object {id} is not there; nothing was fetched")))?;
        objects.push((*id, size));
    }
    fetch(agent, Needs::of(objects), sources).await
}

/// What was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Brought {
    needed_objects: u64,
    pushed_objects: u64,
    pushed_bytes: u64,
}

/// Hands the agent what the machine needs to become an image and was not fetched yet.
pub(crate) async fn push_missing(
    agent: &RemoteAgent,
    images: &dyn ImageStore,
    name: &ImageName,
    source: &dyn ObjectSource,
) -> Result<Brought, Failure> {
    let needs = Visit::make(agent, images, name, None).await?.plan.needs();
    let offers: Vec<_> = needs.objects.iter().map(|(id, need)| (*id, need.size)).collect();
    let added = match offers.is_empty() {
        true => Vec::new(),
        false => {
            let pushed = agent.objects().push(&offers, source).await;
            pushed.during(|| "can't hand all objects over".into())?
        }
    };
    Ok(Brought {
        needed_objects: offers.len() as u64,
        pushed_objects: added.len() as u64,
        pushed_bytes: added.iter().map(Verified::size).sum(),
    })
}

async fn fetch(agent: &dyn Agent, needs: Needs, sources: Vec<String>) -> Result<Fetched, Failure> {
    let request = FetchRequest { needs, sources, lock: None };
    let report = agent.fetch(request).await.during(|| "can't fetch the objects".into())?;
    Ok(Fetched::from(&report))
}

impl From<&FetchReport> for Fetched {
    fn from(FetchReport { objects, bytes, local, failed }: &FetchReport) -> Self {
        Self {
            fetched_objects: *objects,
            fetched_bytes: *bytes,
            local_objects: *local,
            failed_sources: failed.clone(),
        }
    }
}

impl Show for Fetched {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.failed_sources.iter().try_for_each(|why| writeln!(out, "source      {why}"))?;
        let (objects, bytes, local) =
            (self.fetched_objects, HumanBytes(self.fetched_bytes), self.local_objects);
        writeln!(out, "fetched     {objects} objects of {bytes}; {local} were on the machine already")
    }
}

impl Show for Brought {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { needed_objects, pushed_objects, pushed_bytes } = self;
        let here = needed_objects.saturating_sub(*pushed_objects);
        writeln!(
            out,
            "handed over {pushed_objects} objects of {}; {here} were there already",
            HumanBytes(*pushed_bytes)
        )
    }
}

impl Show for Missing {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.objects.iter().try_for_each(|Object { object, size }| writeln!(out, "{object} {size}"))?;
        writeln!(out, "{} objects of {}", self.objects.len(), HumanBytes(self.bytes))
    }
}

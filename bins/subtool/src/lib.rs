//! Asks one machine's agent how the machine stands and what an image would change, and gives it orders by hand.
#![forbid(unsafe_code)]

mod change;
mod compared;
mod condition;
mod history;
mod limits;
mod lock;
mod machine;
mod objects;
mod options;
mod orders;
mod outcome;
mod poll;
mod push;
mod request;
mod shell;
mod wait;

pub use options::{Command, ImageOptions, LimitOptions, Options, PushOptions};

use std::process::ExitCode;

use dominator_core::port::{Agent, Blame, Boost};
use dominator_daemon::report::{Format, Show, remark, show};
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{RemoteAgent, RemoteImages, RemoteObjects};
use dominator_rpc::transport::Tls;

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let tls = options.tls.tool()?;
    let agent = RemoteAgent::connect(&tls, &options.sub.to_string()).await;
    let agent = agent.during(|| "nothing was done".into())?;
    if matches!(options.command, Command::Shell) {
        return shell::shell(&options, &agent, &tls).await;
    }
    carry_out(&options, &agent, &tls).await
}

/// Does it over the connection there is.
async fn carry_out(options: &Options, agent: &RemoteAgent, tls: &Tls) -> Result<ExitCode, Failure> {
    let format = options.output.format();
    match &options.command {
        Command::Poll => done(&poll::poll(agent).await?, format),
        Command::History { limit } => done(&history::history(agent, (*limit).into()).await?, format),
        Command::BoostCpuLimit => done(&limits::boost(agent, Boost::Cpu).await?, format),
        Command::BoostScanLimit => done(&limits::boost(agent, Boost::Scan).await?, format),
        Command::GetConfig => done(&limits::configuration(agent).await?, format),
        Command::SetConfig(limits) => done(&limits::configure(agent, limits.change()).await?, format),
        Command::ShowUpdateRequest(of) => {
            done(&request::request(agent, &of.images(tls).await?, &of.image).await?, format)
        }
        Command::PushImage(push) => {
            let images = push.of.images(tls).await?;
            push::push(agent, &images, push.order(), format).await
        }
        Command::WaitForImage { image, timeout } => {
            let waited = wait::wait(agent, image, timeout.get()).await?;
            show(&waited, format).map(|()| waited.status())
        }
        Command::ListMissingObjects(of) => {
            done(&objects::missing(agent, &of.images(tls).await?, &of.image).await?, format)
        }
        Command::PushMissingObjects { of, object_server } => {
            let (images, source) = (of.images(tls).await?, of.store(tls, object_server.as_ref()).await?);
            done(&objects::push_missing(agent, &images, &of.image, &source).await?, format)
        }
        Command::FetchImage { of, object_server } => {
            let (images, sources) = (of.images(tls).await?, of.sources(object_server));
            done(&objects::fetch_image(agent, &images, &of.image, sources).await?, format)
        }
        Command::Fetch { objects, object_server } => {
            let sources = vec![object_server.to_string()];
            let store = store(tls, object_server).await?;
            done(&objects::fetch_objects(agent, &store, objects, sources).await?, format)
        }
        Command::PushFile { file, path, object_server } => {
            let store = store(tls, object_server).await?;
            let report = change::push_file(agent, &store, object_server.to_string(), file, path).await?;
            show(&report, format).map(|()| report.status())
        }
        Command::GetFile { path, file } => {
            let got = orders::get_file(agent, path.clone(), file.as_deref()).await?;
            got.map_or(Ok(ExitCode::SUCCESS), |got| done(&got, format))
        }
        Command::Delete { paths } => {
            let report = change::delete(agent, paths).await?;
            show(&report, format).map(|()| report.status())
        }
        Command::Cleanup => done(&orders::clean_up(agent).await?, format),
        Command::RemoveConflicts => done(&orders::remove_conflicts(agent).await?, format),
        Command::Undo { mark_bad } => {
            undo(agent, if *mark_bad { Blame::Image } else { Blame::Nobody }, format).await
        }
        Command::Forgive { image, all: _ } => done(&orders::forgive(agent, image.clone()).await?, format),
        Command::RestartService { service } => {
            let outcome = orders::restart_service(agent, service.clone()).await?;
            show(&outcome, format).map(|()| outcome.status())
        }
        Command::Shell => Err(Failure::new("this is the shell; exit ends it")),
    }
}

/// Shows what came of something that was done.
fn done(result: &impl Show, format: Format) -> Result<ExitCode, Failure> {
    show(result, format).map(|()| ExitCode::SUCCESS)
}

async fn undo(agent: &dyn Agent, blame: Blame, format: Format) -> Result<ExitCode, Failure> {
    let report = orders::undo(agent, blame).await?;
    show(&report, format)?;
    if blame == Blame::Nobody {
        remark("subtool", "a controller that still wants the image has it made again");
    }
    Ok(report.status())
}

async fn store(tls: &Tls, server: &HostPort) -> Result<RemoteObjects, Failure> {
    let store = RemoteObjects::connect(tls, &server.to_string()).await;
    store.during(|| "nothing was done".into())
}

impl ImageOptions {
    async fn images(&self, tls: &Tls) -> Result<RemoteImages, Failure> {
        let images = RemoteImages::connect(tls, &self.image_server.to_string()).await;
        images.during(|| format!("can't get {}", self.image))
    }

    /// Where its objects are, if nowhere else.
    async fn store(&self, tls: &Tls, server: Option<&HostPort>) -> Result<RemoteObjects, Failure> {
        store(tls, server.unwrap_or(&self.image_server)).await
    }
}

//! Adds, checks and gets single objects of an image server, and measures how fast they come.
#![forbid(unsafe_code)]

mod add;
mod bandwidth;
mod check;
mod get;
mod options;

pub use options::{Command, Options};

use std::process::ExitCode;

use dominator_daemon::process::answer;
use dominator_daemon::report::show;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;

const NAME: &str = "objecttool";

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Options { object_server, command, output, tls } = options;
    let (tls, format) = (tls.tool()?, output.format());
    let objects = RemoteObjects::connect(&tls, &object_server.to_string()).await;
    let objects = objects.during(|| "nothing was done".into())?;
    match command {
        Command::Add { files } => show(&add::add(&objects, files).await?, format)?,
        Command::Check { objects: ids } => {
            let checked = check::check(&objects, &ids).await;
            let checked = checked.and_then(|checked| show(&checked, format).map(|()| checked.all_exist()));
            return Ok(answer(NAME, checked));
        }
        Command::Get { object, file } => {
            if let Some(got) = get::one(objects, object, file).await? {
                show(&got, format)?;
            }
        }
        Command::Mget { list, directory } => show(&get::many(objects, &list, directory).await?, format)?,
        Command::TestBandwidth { objects: ids, duration } => {
            show(&bandwidth::test(&objects, &ids, duration.get()).await?, format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

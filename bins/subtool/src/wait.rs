//! Waiting until a machine is an image.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use dominator_core::backoff::{Backoff, Spread};
use dominator_core::image::ImageName;
use dominator_core::port::{Agent, AgentDetails, AgentError, PollReply, PollRequest};
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

/// How long an agent waits for a change before it answers.
const WAIT: Duration = Duration::from_secs(30);
/// After what time one that does not answer, as it is restarted perhaps, is asked again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What waiting came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Waited {
    image: String,
    is: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

impl Waited {
    /// As an exit status.
    pub(crate) fn status(&self) -> ExitCode {
        if self.is { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Waits until the machine was made to be the image and is not on trial any more, will not become it, or the time is
/// over.
pub(crate) async fn wait(agent: &dyn Agent, image: &ImageName, time: Duration) -> Result<Waited, Failure> {
    let (end, mut known, mut last) = (Instant::now() + time, None, None);
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, Spread::drawn(RandomState::new().hash_one(image)));
    let result = timeout_at(end, async {
        loop {
            match agent.poll(PollRequest { view: None, known, wait: WAIT }).await {
                Ok(PollReply { status, details, .. }) => {
                    backoff.succeeded();
                    known = Some(status.generation);
                    last.clone_from(&details.last_image);
                    if let Some(verdict) = verdict(&details, image) {
                        return Ok(verdict);
                    }
                }
                Err(AgentError::Unreachable { why, .. }) if !why.is_refusal() => {
                    sleep(backoff.pause()).await;
                }
                Err(error) => return Err(error).during(|| "can't poll".into()),
            }
        }
    })
    .await;
    let why_not = match result {
        Ok(verdict) => verdict?.err(),
        Err(_) => Some(format!("it was not within {} s", time.as_secs())),
    };
    let last_image = last.as_ref().map(ToString::to_string);
    Ok(Waited { image: image.to_string(), is: why_not.is_none(), last_image, why_not })
}

/// Whether it is decided, and why it won't be, if it won't.
fn verdict(details: &AgentDetails, image: &ImageName) -> Option<Result<(), String>> {
    if details.last_image.as_ref() == Some(image) && details.trial.is_none() {
        return Some(Ok(()));
    }
    let bad = details.bad_images.iter().find(|bad| bad.image == *image)?;
    Some(Err(format!("it was found bad on this machine: {}", bad.why)))
}

impl Show for Waited {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.why_not {
            None => writeln!(out, "the machine is {}", self.image),
            Some(why) => writeln!(out, "the machine is not {}: {why}", self.image),
        }
    }
}

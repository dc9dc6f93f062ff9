use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dominator_core::port::{ServiceAction, ServiceState};
use futures_util::StreamExt;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use super::{is_of_agent, systemd_state};

/// systemd, spoken to over the bus, without a program in between: each action is a job whose end is awaited, and which is
/// cancelled when it takes too long.
///
/// A connection serves one call only. Nobody has to notice that it broke while nothing was asked, and none is held that
/// systemd would have to write its signals to.
#[derive(Clone, Debug)]
pub struct Systemd {
    /// Where the bus listens.
    bus: PathBuf,
}

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// systemd can't be spoken to, or not any more: somebody else may try.
    NoContact(String),
    /// It knows no such unit.
    NoSuchUnit(String),
    /// It says no, or it did not work.
    Failed(String),
    /// It was given up.
    TooLate,
}

/// What is known about a unit.
struct Unit {
    path: OwnedObjectPath,
    active: String,
    sub: String,
}

/// A conversation.
struct Talk {
    bus: Connection,
}

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const JOB: &str = "org.freedesktop.systemd1.Job";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long what depends on no service may take: connecting, cancelling.
const BRIEF: Duration = Duration::from_secs(5);
/// How long an answer of systemd's may take that is about no job: to read all unit files again is the longest.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a service is waited for at most, whatever its unit says.
const MOST: Duration = Duration::from_secs(15 * 60);
/// What systemd has for ending a job itself whose time is over, before it is cancelled.
const SLACK: Duration = Duration::from_secs(10);
/// How much of what a service says of itself is kept, in characters.
const MAX_STATUS: usize = 200;
/// How many ends of jobs may wait to be read: all units of a machine may end while the answer to one call is awaited.
const MAX_ENDED: NonZeroUsize = NonZeroUsize::new(4096).expect("invariant: 4096 is not 0");

impl Systemd {
    /// The one of this machine.
    pub fn of_machine() -> Self {
        Self::on("/run/dbus/system_bus_socket")
    }

    /// One on another bus.
    pub fn on(bus: impl Into<PathBuf>) -> Self {
        Self { bus: bus.into() }
    }

    /// Carries out `action`, and waits for the end of it until `deadline`, or as long as the unit itself says.
    pub(super) fn run(&self, action: ServiceAction, service: &str, deadline: Instant) -> Result<(), Trouble> {
        let unit = unit_name(service);
        let is_itself = is_of_agent(service);
        let longest = deadline.max(Instant::now() + MOST);
        self.converse(deadline, longest, async |talk| match action {
            ServiceAction::Reboot => talk.reboot().await,
            ServiceAction::Start | ServiceAction::Restart if is_itself => {
                talk.restart_without_waiting(&unit).await
            }
            ServiceAction::Start => talk.start("StartUnit", &unit, deadline).await,
            ServiceAction::Restart => talk.start("RestartUnit", &unit, deadline).await,
            ServiceAction::Stop => talk.stop(&unit, deadline).await,
            ServiceAction::Reload => talk.reload(&unit, deadline).await,
        })
    }

    /// What `service` is doing.
    pub(super) fn state(&self, service: &str, deadline: Instant) -> Result<ServiceState, Trouble> {
        self.talk(deadline, async |talk| Ok(talk.look(&unit_name(service)).await?.state()))
    }

    /// What the machine as a whole is doing: `starting` and `stopping` are among it.
    pub(super) fn of_all(&self, deadline: Instant) -> Result<String, Trouble> {
        self.talk(deadline, async |talk| {
            let manager = OwnedObjectPath::try_from(PATH)?;
            talk.property(&manager, MANAGER, "SystemState").await
        })
    }

    fn talk<T: Send>(
        &self,
        deadline: Instant,
        about: impl AsyncFnOnce(&Talk) -> Result<T, Trouble> + Send,
    ) -> Result<T, Trouble> {
        self.converse(deadline, deadline, about)
    }

    /// On a thread of its own, so that whoever calls may be in the middle of a runtime of his own.
    fn converse<T: Send>(
        &self,
        deadline: Instant,
        longest: Instant,
        about: impl AsyncFnOnce(&Talk) -> Result<T, Trouble> + Send,
    ) -> Result<T, Trouble> {
        let conversation = async || {
            let talk = self.enter(deadline).await?;
            // What waits for a service keeps to its limit by itself, and cancels; this is for systemd.
            let limit = left(longest) + 2 * BRIEF;
            tokio::time::timeout(limit, about(&talk)).await.unwrap_or(Err(Trouble::TooLate))
        };
        let thread = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| Trouble::NoContact(error.to_string()))?.block_on(conversation())
        };
        let joined = std::thread::scope(|scope| scope.spawn(thread).join());
        joined.unwrap_or_else(|_| Err(Trouble::NoContact("speaking to systemd went wrong".to_owned())))
    }

    /// Takes half of the time at most: another way may have to be tried.
    async fn enter(&self, deadline: Instant) -> Result<Talk, Trouble> {
        match tokio::time::timeout(BRIEF.min(left(deadline) / 2), self.connect()).await {
            Ok(connected) => Ok(Talk { bus: connected? }),
            Err(_) => Err(Trouble::NoContact(format!("{} is silent", self.bus.display()))),
        }
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let failed = |error: io::Error| zbus::Error::InputOutput(error.into());
        let stream = tokio::net::UnixStream::connect(&self.bus).await.map_err(failed)?;
        Builder::unix_stream(stream.into_std().map_err(failed)?).build().await
    }
}

impl Talk {
    async fn start(&self, method: &str, unit: &str, deadline: Instant) -> Result<(), Trouble> {
        self.read_files_again(&self.look(unit).await?).await?;
        // Who failed too often lately is refused; but what he failed with may not be there any more.
        drop(self.ask("ResetFailedUnit", &[unit]).await);
        self.job(method, unit, deadline).await?;
        let now = self.look(unit).await?;
        match now.state() {
            // The job of a simple service is done as soon as there is a process. It may have died since.
            ServiceState::Failed => Err(Trouble::Failed(self.last_words(&now).await)),
            ServiceState::Running | ServiceState::Stopped | ServiceState::Unknown => Ok(()),
        }
    }

    async fn stop(&self, unit: &str, deadline: Instant) -> Result<(), Trouble> {
        match self.job("StopUnit", unit, deadline).await {
            // A service that only the image to come knows is not there yet.
            Err(Trouble::NoSuchUnit(_)) => Ok(()),
            other => other,
        }
    }

    async fn reload(&self, unit: &str, deadline: Instant) -> Result<(), Trouble> {
        let now = self.look(unit).await?;
        if now.active == "inactive" {
            tracing::info!(unit, "does not run, so it has nothing to read again");
            return Ok(());
        }
        self.read_files_again(&now).await?;
        self.job("ReloadUnit", unit, deadline).await
    }

    /// Whoever waits for his own end waits for ever.
    async fn restart_without_waiting(&self, unit: &str) -> Result<(), Trouble> {
        self.read_files_again(&self.look(unit).await?).await?;
        drop(self.ask("ResetFailedUnit", &[unit]).await);
        self.ask("RestartUnit", &[unit, "replace"]).await.map(drop)
    }

    /// The manager's own `Reboot` stops nothing first.
    async fn reboot(&self) -> Result<(), Trouble> {
        self.ask("StartUnit", &["reboot.target", "replace-irreversibly"]).await.map(drop)
    }

    /// Has unit files read again when that of `unit` is not what it was.
    async fn read_files_again(&self, unit: &Unit) -> Result<(), Trouble> {
        if !self.property::<bool>(&unit.path, UNIT, "NeedDaemonReload").await? {
            return Ok(());
        }
        tracing::info!("unit files have changed; systemd reads them again");
        self.ask("Reload", &[]).await.map(drop)
    }

    /// Has a job made and waits for its end.
    async fn job(&self, method: &str, unit: &str, deadline: Instant) -> Result<(), Trouble> {
        let deadline = deadline.max(Instant::now() + self.own_limit(method, unit).await);
        // Before the job is made: it may have ended before the answer is read.
        let mut ended = self.ended().await?;
        let job: OwnedObjectPath = self.ask(method, &[unit, "replace"]).await?.body().deserialize()?;
        let result = match tokio::time::timeout_at(deadline.into(), end_of(&job, &mut ended)).await {
            Ok(result) => result?,
            Err(_) => {
                let cancelled = self.bus.call_method(Some(SYSTEMD), &job, Some(JOB), "Cancel", &());
                drop(tokio::time::timeout(BRIEF, cancelled).await);
                return Err(Trouble::TooLate);
            }
        };
        if result == "done" {
            return Ok(());
        }
        let words = self.last_words(&self.look(unit).await?).await;
        Err(Trouble::Failed(format!("its job ended as {result:?}; {words}")))
    }

    /// How long a unit gives what it starts, or stops; nothing, when it says nothing or sets no limit.
    async fn own_limit(&self, method: &str, unit: &str) -> Duration {
        let names: &[&str] = match method {
            "StopUnit" => &["TimeoutStopUSec"],
            "RestartUnit" => &["TimeoutStopUSec", "TimeoutStartUSec"],
            _ => &["TimeoutStartUSec"],
        };
        let Ok(unit) = self.look(unit).await else { return Duration::ZERO };
        let mut limit = SLACK;
        for name in names {
            match self.property::<u64>(&unit.path, SERVICE, name).await {
                Ok(u64::MAX) | Err(_) => return Duration::ZERO,
                Ok(micros) => limit = limit.saturating_add(Duration::from_micros(micros)),
            }
        }
        limit.min(MOST)
    }

    /// Ends of jobs from now on.
    async fn ended(&self) -> Result<MessageStream, Trouble> {
        // Of systemd: anybody can send signals.
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD).interface(MANAGER);
        let rule = rule.member("JobRemoved");
        let stream = MessageStream::for_match_rule(rule.build()?, &self.bus, Some(MAX_ENDED)).await?;
        self.ask("Subscribe", &[]).await?;
        Ok(stream)
    }

    async fn look(&self, unit: &str) -> Result<Unit, Trouble> {
        let path: OwnedObjectPath = self.ask("LoadUnit", &[unit]).await?.body().deserialize()?;
        let active = self.property(&path, UNIT, "ActiveState").await?;
        let sub = self.property(&path, UNIT, "SubState").await?;
        Ok(Unit { path, active, sub })
    }

    /// What a service has to say about its end; nothing of it must be there.
    async fn last_words(&self, unit: &Unit) -> String {
        let mut words = format!("the unit is {} ({})", unit.active, unit.sub);
        let of_service =
            async |name: &str| self.property::<OwnedVariant>(&unit.path, SERVICE, name).await.ok();
        let number = |value: Option<OwnedVariant>| value.and_then(|value| i32::try_from(value).ok());
        let text = |value: Option<OwnedVariant>| value.and_then(|value| String::try_from(value).ok());
        if let Some(result) = text(of_service("Result").await).filter(|result| result != "success") {
            words += &format!(", result {result:?}");
        }
        let status = number(of_service("ExecMainStatus").await).filter(|status| *status != 0);
        if let Some(status) = status {
            // As in `siginfo_t`: 1 is an exit, 2 and 3 are signals.
            let how = match number(of_service("ExecMainCode").await) {
                Some(1) => "exited with status",
                _ => "was ended by signal",
            };
            words += &format!(", its main process {how} {status}");
        }
        if let Some(status) = text(of_service("StatusText").await).filter(|status| !status.is_empty()) {
            words += ": ";
            words.extend(status.chars().take(MAX_STATUS));
        }
        words
    }

    async fn property<T>(&self, path: &OwnedObjectPath, interface: &str, name: &str) -> Result<T, Trouble>
    where
        T: TryFrom<OwnedVariant>,
        zbus::Error: From<T::Error>,
    {
        let of = (interface, name);
        let answer =
            answered(self.bus.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &of)).await?;
        let value: OwnedVariant = answer.body().deserialize()?;
        Ok(T::try_from(value).map_err(zbus::Error::from)?)
    }

    /// Calls a method of the manager.
    async fn ask(&self, method: &str, arguments: &[&str]) -> Result<Message, Trouble> {
        let (to, from) = (Some(SYSTEMD), Some(MANAGER));
        match arguments {
            [] => answered(self.bus.call_method(to, PATH, from, method, &())).await,
            [unit] => answered(self.bus.call_method(to, PATH, from, method, unit)).await,
            [unit, mode, ..] => answered(self.bus.call_method(to, PATH, from, method, &(unit, mode))).await,
        }
    }
}

async fn answered(asked: impl Future<Output = zbus::Result<Message>>) -> Result<Message, Trouble> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Trouble::TooLate),
    }
}

impl Unit {
    fn state(&self) -> ServiceState {
        systemd_state(&self.active, &self.sub)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// How `job` ended.
async fn end_of(job: &OwnedObjectPath, ended: &mut MessageStream) -> Result<String, Trouble> {
    while let Some(signal) = ended.next().await {
        let signal = signal?;
        let (_, which, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if which == *job {
            return Ok(result);
        }
    }
    Err(Trouble::NoContact("systemd hung up before the job had ended".to_owned()))
}

/// The name of a unit, for what triggers call a service.
fn unit_name(service: &str) -> String {
    const KINDS: [&str; 11] = [
        "service",
        "socket",
        "device",
        "mount",
        "automount",
        "swap",
        "target",
        "path",
        "timer",
        "slice",
        "scope",
    ];
    match service.rsplit_once('.') {
        Some((_, kind)) if KINDS.contains(&kind) => service.to_owned(),
        _ => format!("{service}.service"),
    }
}

impl From<zbus::Error> for Trouble {
    fn from(error: zbus::Error) -> Self {
        use zbus::fdo::Error as Standard;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "whatever else there will be is an answer, if not a good one"
        )]
        match &error {
            zbus::Error::MethodError(name, words, _) => {
                let words = words.clone().unwrap_or_else(|| name.to_string());
                if name.as_str() == NO_SUCH_UNIT { Self::NoSuchUnit(words) } else { Self::Failed(words) }
            }
            zbus::Error::FDO(standard) => match **standard {
                Standard::ServiceUnknown(_)
                | Standard::NameHasNoOwner(_)
                | Standard::NoReply(_)
                | Standard::NoServer(_)
                | Standard::Timeout(_)
                | Standard::TimedOut(_)
                | Standard::Disconnected(_)
                | Standard::LimitsExceeded(_) => Self::NoContact(error.to_string()),
                _ => Self::Failed(error.to_string()),
            },
            zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => {
                Self::NoContact(error.to_string())
            }
            _ => Self::NoContact(format!("it said what can't be understood: {error}")),
        }
    }
}

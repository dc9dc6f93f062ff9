//! What systemd is to us, played: units with a state, jobs that end as told, and a record of what was asked for; on a bus of
//! its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use zbus::connection::Builder;
use zbus::message::{Header, Type};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(crate) const PATH: &str = "/org/freedesktop/systemd1";
const NAME: &str = "org.freedesktop.systemd1";

/// How the job of a unit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// It ends so, and the unit is then in this state.
    Ends(&'static str, &'static str, &'static str),
    /// The same; it is told of before the call is answered.
    EndsAtOnce(&'static str, &'static str, &'static str),
    /// It ends well, but not soon.
    EndsLate(Duration),
    /// It does not end.
    Hangs,
}

#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) active: &'static str,
    pub(crate) sub: &'static str,
    pub(crate) files_changed: bool,
    pub(crate) job: Job,
    /// `Result`, `ExecMainCode`, `ExecMainStatus`, `StatusText`.
    pub(crate) words: (&'static str, i32, i32, &'static str),
    /// How long it says that it may take.
    pub(crate) limit: Duration,
}

pub(crate) fn unit(name: &'static str, active: &'static str, job: Job) -> Unit {
    Unit {
        name,
        active,
        sub: "x",
        files_changed: false,
        job,
        words: ("success", 0, 0, ""),
        limit: Duration::MAX,
    }
}

pub(crate) const WELL: Job = Job::Ends("done", "active", "running");

#[derive(Default)]
struct State {
    units: Vec<Unit>,
    calls: Vec<String>,
    jobs: Vec<usize>,
}

impl State {
    fn reload(&mut self) {
        self.calls.push("Reload".to_owned());
        self.units.iter_mut().for_each(|unit| unit.files_changed = false);
    }

    /// Which unit that is; one that nobody knows is loaded as well.
    fn load(&mut self, name: &str) -> usize {
        self.units.iter().position(|known| known.name == name).unwrap_or_else(|| {
            self.units.push(Unit { sub: "dead", ..unit("", "inactive", WELL) });
            self.units.len() - 1
        })
    }

    fn cancel(&mut self, job: usize) -> &'static str {
        let unit = self.units[self.jobs[job]].name;
        self.calls.push(format!("Cancel {unit}"));
        unit
    }
}

pub(crate) struct Fake {
    /// Where the bus listens.
    pub(crate) socket: PathBuf,
    state: Arc<Mutex<State>>,
    /// Tells of every job, when it is there.
    pub(crate) jobs: mpsc::UnboundedReceiver<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    bus: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Fake {
    /// On a bus of its own; nothing where there is no bus daemon.
    pub(crate) fn on_bus(units: &[Unit]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let bus = start_bus(dir.path(), &socket)?;
        let state = Arc::new(Mutex::new(State { units: units.to_vec(), ..State::default() }));
        let (stop, stopped) = oneshot::channel::<()>();
        let (queued, jobs) = mpsc::unbounded_channel();
        let (listening, ready) = std::sync::mpsc::channel();
        let (given, at) = (Arc::clone(&state), socket.clone());
        let serve = async move || {
            let messages = member(&at, Some(NAME)).await;
            listening.send(()).unwrap();
            answer(messages, given, queued).await;
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = serve() => {}, _ = stopped => {} }
            });
        });
        ready.recv().unwrap();
        Some(Self { socket, state, jobs, stop: Some(stop), thread: Some(thread), bus: Some(bus), _dir: dir })
    }

    /// What was asked for that changes anything.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Ends the bus, as an update of it may.
    pub(crate) fn kill_bus(&mut self) {
        if let Some(mut bus) = self.bus.take() {
            bus.kill().unwrap();
            bus.wait().unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.kill_bus();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A member of the bus at `socket`.
pub(crate) async fn member(socket: &Path, name: Option<&'static str>) -> MessageStream {
    let stream = UnixStream::connect(socket).await.unwrap().into_std().unwrap();
    let builder = Builder::unix_stream(stream);
    let builder = match name {
        Some(name) => builder.name(name),
        None => builder,
    };
    builder.build_message_stream().await.unwrap()
}

/// The signal that `job` ended.
pub(crate) async fn tell(bus: &Connection, job: &str, unit: &str, result: &str) -> zbus::Result<()> {
    let job = ObjectPath::try_from(job)?;
    bus.emit_signal(None::<&str>, PATH, MANAGER, "JobRemoved", &(1_u32, job, unit, result)).await
}

fn start_bus(dir: &Path, socket: &Path) -> Option<Child> {
    let config = dir.join("bus.conf");
    let listen = format!("<listen>unix:path={}</listen>", socket.display());
    let policy = r#"<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy>"#;
    let text = format!("<busconfig>{listen}<auth>EXTERNAL</auth>{policy}</busconfig>");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("dbus-daemon");
    command.arg("--nofork").arg("--print-address").arg("--config-file").arg(config);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    // It says where it listens as soon as it does.
    let mut address = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut address).unwrap();
    assert!(!address.is_empty(), "the bus daemon does not start");
    Some(child)
}

async fn answer(mut messages: MessageStream, state: Arc<Mutex<State>>, jobs: mpsc::UnboundedSender<String>) {
    let bus = Connection::from(&messages);
    while let Some(Ok(message)) = messages.next().await {
        if message.message_type() == Type::MethodCall && !one(&bus, &message, &state, &jobs).await {
            break;
        }
    }
    // Not only ours: the peer sees the end of it.
    drop(messages);
    drop(bus.close().await);
}

/// Answers one call; whether to go on.
async fn one(
    bus: &Connection,
    message: &Message,
    state: &Mutex<State>,
    jobs: &mpsc::UnboundedSender<String>,
) -> bool {
    let header = message.header();
    let member = header.member().unwrap().to_string();
    let body = message.body();
    match member.as_str() {
        "Subscribe" => bus.reply(&header, &()).await.unwrap(),
        "Reload" => {
            state.lock().unwrap().reload();
            bus.reply(&header, &()).await.unwrap();
        }
        "ResetFailedUnit" => {
            let unit: String = body.deserialize().unwrap();
            state.lock().unwrap().calls.push(format!("{member} {unit}"));
            bus.reply(&header, &()).await.unwrap();
        }
        "LoadUnit" => {
            let unit: String = body.deserialize().unwrap();
            let index = state.lock().unwrap().load(&unit);
            let path = ObjectPath::try_from(format!("{PATH}/unit/u{index}")).unwrap();
            bus.reply(&header, &path).await.unwrap();
        }
        "Get" => {
            let (_, name): (String, String) = body.deserialize().unwrap();
            let value = value(&header, &name, &state.lock().unwrap());
            bus.reply(&header, &value).await.unwrap();
        }
        "Cancel" => {
            let job = header.path().unwrap().to_string();
            let unit = state.lock().unwrap().cancel(index_of(&job));
            bus.reply(&header, &()).await.unwrap();
            // Who has his answer may have left since.
            drop(tell(bus, &job, unit, "canceled").await);
        }
        "StartUnit" | "StopUnit" | "ReloadUnit" | "RestartUnit" => {
            let (unit, mode): (String, String) = body.deserialize().unwrap();
            return job(bus, &header, state, jobs, &format!("{member} {unit} {mode}"), &unit).await;
        }
        other => panic!("{other} is not played"),
    }
    true
}

async fn job(
    bus: &Connection,
    header: &Header<'_>,
    state: &Mutex<State>,
    jobs: &mpsc::UnboundedSender<String>,
    call: &str,
    unit: &str,
) -> bool {
    let made = {
        let mut state = state.lock().unwrap();
        state.calls.push(call.to_owned());
        let found = state.units.iter().position(|known| known.name == unit);
        found.map(|index| {
            state.jobs.push(index);
            (index, state.units[index].job, format!("{PATH}/job/{}", state.jobs.len() - 1))
        })
    };
    let Some((index, job, path)) = made else {
        let words = format!("Unit {unit} not found.");
        bus.reply_error(header, "org.freedesktop.systemd1.NoSuchUnit", &words).await.unwrap();
        return true;
    };
    let end = |result, active, sub| {
        let mut state = state.lock().unwrap();
        (state.units[index].active, state.units[index].sub) = (active, sub);
        result
    };
    let object = ObjectPath::try_from(path.as_str()).unwrap();
    match job {
        Job::EndsAtOnce(result, active, sub) => {
            tell(bus, &path, unit, end(result, active, sub)).await.unwrap();
            bus.reply(header, &object).await.unwrap();
        }
        Job::Ends(result, active, sub) => {
            bus.reply(header, &object).await.unwrap();
            // That of another job first.
            tell(bus, &format!("{PATH}/job/777"), "other.service", "failed").await.unwrap();
            drop(tell(bus, &path, unit, end(result, active, sub)).await);
        }
        Job::EndsLate(late) => {
            bus.reply(header, &object).await.unwrap();
            let (bus, path, unit) = (bus.clone(), path.clone(), unit.to_owned());
            end("done", "inactive", "dead");
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                drop(tell(&bus, &path, &unit, "done").await);
            });
        }
        Job::Hangs => bus.reply(header, &object).await.unwrap(),
    }
    drop(jobs.send(path));
    true
}

fn value(header: &Header<'_>, name: &str, state: &State) -> Variant<'static> {
    let path = header.path().unwrap().as_str();
    if path == PATH {
        return Variant::from("running");
    }
    let unit = &state.units[index_of(path)];
    let (result, code, status, text) = unit.words;
    match name {
        "ActiveState" => Variant::from(unit.active),
        "SubState" => Variant::from(unit.sub),
        "NeedDaemonReload" => Variant::from(unit.files_changed),
        "Result" => Variant::from(result),
        "ExecMainCode" => Variant::from(code),
        "ExecMainStatus" => Variant::from(status),
        "StatusText" => Variant::from(text),
        "TimeoutStartUSec" | "TimeoutStopUSec" => {
            Variant::from(u64::try_from(unit.limit.as_micros()).unwrap_or(u64::MAX))
        }
        other => panic!("{other} is not played"),
    }
}

fn index_of(path: &str) -> usize {
    path.rsplit('/').next().unwrap().trim_start_matches('u').parse().unwrap()
}

/// A program that plays `systemctl` and writes down its arguments; and where.
pub(crate) fn systemctl(dir: &Path) -> (PathBuf, PathBuf) {
    let (program, log) = (dir.join("systemctl"), dir.join("log"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\ncase $1 in show) echo ActiveState=failed; echo SubState=failed;; esac\n",
        log.display()
    );
    dominator_fs_testkit::write_script(&program, &script);
    (program, log)
}

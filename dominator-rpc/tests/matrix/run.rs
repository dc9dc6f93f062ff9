//! What a row of the matrix does, and how it is held against what it should be.

use std::fmt;
use std::io;
use std::sync::Arc;

use dominator_core::auth::Powers;
use dominator_pki::Trust;
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;
use dominator_rpc::v1;
use dominator_rpc::v1::add_image_request::Part;
use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::journal::{Journal, timeless};
use crate::people::{Paper, Shown, World};
use crate::services::{Call, Failure, Service, path};
use crate::support::{Running, chain, serve};

/// One row: somebody connects to a server and calls; this is what both of them see of it.
pub struct Row {
    /// In what way it is special.
    what: String,
    /// What the caller shows.
    caller: Box<Shows>,
    /// What the server shows.
    server: Box<Shows>,
    /// What the end that judges trusts, with regard to what the other shows.
    trusts: Trusts,
    /// Whom the server trusts beyond that.
    policy: fn(Services) -> Services,
    powers: Powers,
    /// Every service, if none is said.
    only: Option<Service>,
    meets: Meets,
}

/// What somebody trusts who looks at what another shows.
type Trusts = fn(&World, &Shown) -> Trust;

impl Row {
    /// What the end that judges trusts, with regard to what the other shows.
    pub fn trusting(self, trusts: Trusts) -> Self {
        Self { trusts, ..self }
    }

    /// Whom the server trusts beyond what certificates say, and what it knows of itself.
    pub fn served(self, policy: fn(Services) -> Services) -> Self {
        Self { policy, ..self }
    }

    /// The caller wants to be taken for an ordinary user.
    pub fn waiving(self) -> Self {
        Self { powers: Powers::Waived, ..self }
    }

    /// Makes sense with this service.
    pub fn only(self, service: Service) -> Self {
        Self { only: Some(service), ..self }
    }
}

/// What somebody shows who calls that service, or serves it.
type Shows = dyn Fn(&World, Service) -> Shown;

/// How it ends. In texts, `{address}` is the server's; for the others see [`Service::fill`].
enum Meets {
    /// The server refuses the connection. `alert` is what a program sees that checks nothing itself; `says` is what our
    /// own programs say, either of the server's refusal or already of the certificate; `logged` is the server's reason.
    Refusal { alert: &'static str, says: String, logged: String },
    /// The client refuses the connection.
    Disbelief { says: &'static str, logged: &'static str },
    /// The connection stands, the call is denied, and others are not.
    Denial { says: &'static str },
    /// It is let in, and nothing is logged that anybody would have to look at.
    Welcome(Call),
    /// It is let in, and then what the server trusts becomes other: the connection is closed by itself and the next one
    /// is refused.
    Loss { becomes: Trusts, closed: &'static str, next: Refused },
    /// The same on the client's end.
    Leave { becomes: Trusts, closed: &'static str, says: &'static str },
}

/// How a connection is refused; see [`Meets::Refusal`].
pub struct Refused {
    pub alert: &'static str,
    pub says: &'static str,
    pub logged: &'static str,
}

/// A caller whom the server refuses.
pub fn refused(
    what: &str,
    caller: impl Fn(&World, Service) -> Shown + 'static,
    alert: &'static str,
    says: &str,
    logged: &str,
) -> Row {
    row(what, caller, good_server, Meets::Refusal { alert, says: says.into(), logged: logged.into() })
}

/// A server whom the caller refuses.
pub fn disbelieved(
    what: &str,
    server: impl Fn(&World, Service) -> Shown + 'static,
    says: &'static str,
    logged: &'static str,
) -> Row {
    row(what, powerful, server, Meets::Disbelief { says, logged })
}

/// A server that is believed.
pub fn believed(what: &str, server: impl Fn(&World, Service) -> Shown + 'static) -> Row {
    row(what, powerful, server, Meets::Welcome(Call::Listed))
}

/// A caller who may connect, but not call what must be listed.
pub fn denied(what: &str, caller: impl Fn(&World, Service) -> Shown + 'static, says: &'static str) -> Row {
    row(what, caller, good_server, Meets::Denial { says })
}

/// A caller who may call.
pub fn welcome(what: &str, caller: impl Fn(&World, Service) -> Shown + 'static, call: Call) -> Row {
    row(what, caller, good_server, Meets::Welcome(call))
}

/// A caller whose standing is lost while it is connected.
pub fn cut_off(
    what: &str,
    caller: impl Fn(&World, Service) -> Shown + 'static,
    becomes: Trusts,
    closed: &'static str,
    next: Refused,
) -> Row {
    row(what, caller, good_server, Meets::Loss { becomes, closed, next })
}

/// A server whose standing is lost while somebody is connected to it.
pub fn left(
    what: &str,
    server: impl Fn(&World, Service) -> Shown + 'static,
    becomes: Trusts,
    closed: &'static str,
    says: &'static str,
) -> Row {
    row(what, powerful, server, Meets::Leave { becomes, closed, says })
}

fn row(
    what: &str,
    caller: impl Fn(&World, Service) -> Shown + 'static,
    server: impl Fn(&World, Service) -> Shown + 'static,
    meets: Meets,
) -> Row {
    Row {
        what: what.into(),
        caller: Box::new(caller),
        server: Box::new(server),
        trusts: |world, _| world.trust(),
        policy: |services| services,
        powers: Powers::Used,
        only: None,
        meets,
    }
}

fn powerful(world: &World, _: Service) -> Shown {
    world.member("root", "*.*")
}

/// What a server shows that is what it should be.
pub fn good_server(world: &World, service: Service) -> Shown {
    world.member(service.role().name(), "")
}

/// After how many runs that went otherwise than they should the others are left out: each may have waited for an event
/// that never came.
const ENOUGH: usize = 3;

/// Runs every row against every service, and tells what was otherwise than it should be.
pub async fn check(rows: &[Row]) {
    let mut journal = Journal::open();
    let mut wrong = Vec::new();
    for (row, service) in rows.iter().flat_map(|row| Service::ALL.map(|service| (row, service))) {
        if wrong.len() < ENOUGH && row.only.is_none_or(|only| only == service) {
            let mut seen = Seen { what: format!("{}, {service:?}", row.what), wrong: Vec::new() };
            run(row, service, &mut journal, &mut seen).await;
            wrong.extend((!seen.wrong.is_empty()).then(|| seen.wrong.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn run(row: &Row, service: Service, journal: &mut Journal, seen: &mut Seen) {
    let world = World::new();
    let (serves, shown) = ((row.server)(&world, service), (row.caller)(&world, service));
    let (by_client, by_server) = match &row.meets {
        Meets::Disbelief { .. } => ((row.trusts)(&world, &serves), world.trust()),
        _ => (world.trust(), (row.trusts)(&world, &shown)),
    };
    let tls = Tls::new(by_server, serves.credentials().unwrap()).unwrap();
    let server = serve(tls.clone(), (row.policy)(service.served())).await;
    let met = Meeting {
        world: &world,
        service,
        server: &server,
        tls,
        serves: &serves,
        shown: &shown,
        trust: by_client,
        powers: row.powers,
    };
    match &row.meets {
        Meets::Refusal { alert, says, logged } => met.refusal(journal, seen, [alert, says, logged]).await,
        Meets::Disbelief { says, logged } => met.disbelief(journal, seen, [says, logged]).await,
        Meets::Denial { says } => met.denial(journal, seen, says).await,
        Meets::Welcome(call) => met.welcome(journal, seen, *call).await,
        Meets::Loss { becomes, closed, next } => {
            let trust = becomes(&world, &shown);
            met.loss(journal, seen, trust, closed, next).await;
        }
        Meets::Leave { becomes, closed, says } => {
            let trust = becomes(&world, &serves);
            met.leave(journal, seen, trust, [closed, says]).await;
        }
    }
    server.stop().await;
    // What a server saw of attempts that a row is not about is in the rows that are.
    drop(journal.take(0).await);
}

/// Somebody in front of a server.
struct Meeting<'a> {
    world: &'a World,
    service: Service,
    server: &'a Running,
    tls: Tls,
    serves: &'a Shown,
    shown: &'a Shown,
    /// What the caller trusts.
    trust: Trust,
    powers: Powers,
}

impl Meeting<'_> {
    async fn refusal(&self, journal: &mut Journal, seen: &mut Seen, expected: [&str; 3]) {
        let bystander = self.raw(&self.world.member("bystander", "")).await.unwrap();
        self.refused(journal, seen, expected).await;
        seen.compare("a bystander", &asked(&bystander, "Introspection.ListMethods").await, &Ok(()));
    }

    async fn refused(&self, journal: &mut Journal, seen: &mut Seen, [alert, says, logged]: [&str; 3]) {
        let before = self.server.metrics.connections_refused();
        let refused = self.raw(self.shown).await.map(drop).map_err(|error| alert_in(&error));
        seen.compare("the alert", &refused, &Err(alert.into()));
        let logged = self.refusal_event("its certificate is not accepted: ", logged);
        let mut events = vec![logged.clone()];
        match self.shown.credentials() {
            Err(error) => seen.compare("our reader", &chain(&error), &self.text(says)),
            Ok(_) => {
                let says = self.unreachable("{address} did not accept our certificate: ", says);
                seen.compare("our client", &self.call(Call::Public).await, &Err(says));
                events.push(logged);
            }
        }
        seen.compare("the server's log", &journal.take(events.len()).await, &events);
        let count = self.server.metrics.connections_refused() - before;
        seen.compare("the server's count", &count, &u64::try_from(events.len()).unwrap());
    }

    async fn disbelief(&self, journal: &mut Journal, seen: &mut Seen, [says, logged]: [&str; 2]) {
        let says = self.unreachable("", says);
        seen.compare("our client", &self.call(Call::Public).await, &Err(says));
        let logged = self.refusal_event("it did not accept the certificate of this server: ", logged);
        seen.compare("the server's log", &journal.take(1).await, &vec![logged]);
    }

    /// Both by a client of our own, and by one that then uses the same connection for what it may do.
    async fn denial(&self, journal: &mut Journal, seen: &mut Seen, says: &str) {
        let Some(method) = self.service.method(Call::Listed) else {
            return self.welcome(journal, seen, Call::Public).await;
        };
        let says = self.text(says);
        let logged = vec![self.text(&format!("WARN {says} peer=… user=alice serial=… path={{path}}"))];
        let channel = self.raw(self.shown).await.unwrap();
        let called = asked_with(self.powers, &channel, method).await;
        seen.compare("the call", &called, &Err((Code::PermissionDenied, says.clone())));
        seen.compare("the server's log", &journal.take(1).await, &logged);
        seen.compare("the next call", &asked(&channel, "Introspection.ListMethods").await, &Ok(()));
        let failure = Failure { kind: "Denied".into(), text: says };
        seen.compare("our client", &self.call(Call::Listed).await, &Err(failure));
        seen.compare("the server's log", &journal.take(1).await, &logged);
        seen.compare("the server's count", &self.server.metrics.calls_denied(), &2);
    }

    async fn welcome(&self, journal: &mut Journal, seen: &mut Seen, call: Call) {
        seen.compare("our client", &self.call(call).await, &Ok(()));
        seen.compare("the server's log", &journal.take(0).await, &Vec::new());
    }

    /// Two connections, one of which is never used again; the one of a bystander whom `trust` still trusts stands.
    async fn loss(&self, journal: &mut Journal, seen: &mut Seen, trust: Trust, closed: &str, next: &Refused) {
        let bystander = self.raw(&self.world.people.signs(&Paper::of("bystander"))).await.unwrap();
        let (idle, used) = (self.raw(self.shown).await.unwrap(), self.raw(self.shown).await.unwrap());
        for channel in [&bystander, &idle, &used] {
            seen.compare("before", &asked(channel, "Introspection.ListMethods").await, &Ok(()));
        }
        self.tls.replace(trust, self.serves.credentials().unwrap()).unwrap();
        // Whether the call meets the door or the end of the connection depends on who is faster.
        let called = asked(&used, "Introspection.ListMethods").await;
        seen.compare("a call afterwards", &called.is_err(), &true);
        let mut events = journal.take(2).await;
        events.retain(|event| event.contains("connection closed"));
        if events.len() < 2 {
            events.append(&mut journal.take(2 - events.len()).await);
        }
        let closed = self.text(&format!("WARN connection closed peer=… user=alice reason={closed}"));
        seen.compare("the server's log", &events, &vec![closed; 2]);
        self.refused(journal, seen, [next.alert, next.says, next.logged]).await;
        seen.compare("a bystander", &asked(&bystander, "Introspection.ListMethods").await, &Ok(()));
    }

    async fn leave(&self, journal: &mut Journal, seen: &mut Seen, trust: Trust, [closed, says]: [&str; 2]) {
        let tls = self.caller();
        let client = self.service.connect(&tls, &self.server.at()).await.unwrap();
        seen.compare("before", &client.call(Call::Listed).await, &Ok(()));
        tls.replace(trust, self.shown.credentials().unwrap()).unwrap();
        if self.service != Service::Introspection {
            let closed = self.text(&format!("WARN connection closed server={{address}} reason={closed}"));
            seen.compare("the client's log", &journal.take(1).await, &vec![closed]);
            // A call may still meet the connection that is just being closed.
            seen.compare("the next call", &client.call(Call::Listed).await.is_err(), &true);
        }
        seen.compare("the call after it", &client.call(Call::Listed).await, &Err(self.unreachable("", says)));
    }

    fn caller(&self) -> Tls {
        let tls = Tls::new(self.trust.clone(), self.shown.credentials().unwrap()).unwrap();
        match self.powers {
            Powers::Used => tls,
            Powers::Waived => tls.waiving_powers(),
        }
    }

    async fn raw(&self, shown: &Shown) -> io::Result<Channel> {
        raw(self.world, self.service, self.server, shown).await
    }

    async fn call(&self, call: Call) -> Result<(), Failure> {
        let called = self.service.call(&self.caller(), &self.server.at(), call).await;
        called.map_err(|failure| Failure { text: timeless(&failure.text), ..failure })
    }

    fn unreachable(&self, begins: &str, says: &str) -> Failure {
        let (kind, prefix) = self.service.unreachable();
        Failure { kind: kind.into(), text: format!("{prefix}{}", self.text(&format!("{begins}{says}"))) }
    }

    fn refusal_event(&self, begins: &str, reason: &str) -> String {
        self.text(&format!("WARN connection refused peer=… reason={begins}{reason}"))
    }

    fn text(&self, template: &str) -> String {
        self.service.fill(template).replace("{address}", &self.server.at())
    }
}

/// What was otherwise than it should be.
struct Seen {
    what: String,
    wrong: Vec<String>,
}

impl Seen {
    fn compare<T: PartialEq + fmt::Debug>(&mut self, part: &str, found: &T, expected: &T) {
        if found != expected {
            self.wrong
                .push(format!("  {}: {part}:\n    found    {found:?}\n    expected {expected:?}", self.what));
        }
    }
}

/// A client that takes the server for granted and shows `shown`, be it acceptable or not. The server has judged it when
/// this returns, and the channel has this one connection only.
pub async fn raw(world: &World, service: Service, server: &Running, shown: &Shown) -> io::Result<Channel> {
    let member = world.member("somebody", "").credentials().unwrap();
    let mut config = world.trust().client_config(&member, service.role()).unwrap();
    config.client_auth_cert_resolver = shown.resolver();
    let stream = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    channel(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await
}

/// Waits for the server's judgement of the client, which in TLS 1.3 comes after the handshake.
pub async fn channel(stream: TlsStream<TcpStream>) -> io::Result<Channel> {
    let mut stream = BufReader::new(stream);
    if stream.fill_buf().await?.is_empty() {
        return Err(io::Error::other("closed without a word"));
    }
    let mut stream = Some(stream);
    let connect = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the one connection there was is gone"));
        async { stream.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://raw").connect_with_connector(connect).await.unwrap())
}

/// What is answered without end: the beginning is enough.
const ENDLESS: [&str; 2] = ["ImageServer.GetFilteredImageUpdates", "ImageServer.GetImageUpdates"];

/// Calls `method`, as in `Subd.Poll`, with an empty message, to the end of the answer if it has one; where an image is to be added, with
/// its name.
pub async fn asked(channel: &Channel, method: &str) -> Result<(), (Code, String)> {
    asked_with(Powers::Used, channel, method).await
}

async fn asked_with(powers: Powers, channel: &Channel, method: &str) -> Result<(), (Code, String)> {
    let name = (method == "ImageServer.AddImage").then(|| Part::Name("base/1".into()));
    let mut request = Request::new(stream::iter([v1::AddImageRequest { part: name }]));
    if powers == Powers::Waived {
        request.metadata_mut().insert("dominator-powers", "none".parse().unwrap());
    }
    ask(channel, method, request).await.map_err(|status| (status.code(), timeless(status.message())))
}

async fn ask(
    channel: &Channel,
    method: &str,
    request: Request<impl Stream<Item = v1::AddImageRequest> + Send + 'static>,
) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<v1::AddImageRequest, v1::Empty>::default();
    let mut answer = client.streaming(request, path(method).parse().unwrap(), codec).await?.into_inner();
    while answer.message().await?.is_some() && !ENDLESS.contains(&method) {}
    Ok(())
}

/// What the other end said of our certificate.
pub fn alert_in(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
        _ => error.to_string(),
    }
}

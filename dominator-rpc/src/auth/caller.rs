use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use dominator_core::auth::{Denied, Ground, Identity, Method, Powers, Target, decide};
use dominator_core::image::ImageName;
use dominator_core::namespace::{self, Change, DirectoryName, NotYours, Right};
use tonic::{Request, Status};

use super::layer::Door;
use super::policy::Offered;
use super::record::{Record, Recorder};
use crate::transport::Peer;

/// A call that the door let pass: who calls, on what ground, and whether they may touch what the request names. Handlers
/// find it among the extensions of a request.
#[derive(Clone)]
pub struct Caller(Arc<Call>);

struct Call {
    door: Arc<Door>,
    offered: Arc<Offered>,
    peer: Peer,
    powers: Powers,
    ground: Ground,
    /// Whether the handler has asked for what the request names.
    asked: AtomicBool,
    /// Whether it was told of something that the caller has no power over it.
    powerless: AtomicBool,
    target: OnceLock<String>,
    detail: OnceLock<String>,
    /// What is told of the call, if it changes anything and there is a log.
    record: Option<Record>,
}

/// Evidence that a caller may touch what it is about to. Only [`Caller`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    ground: Ground,
}

impl Permit {
    /// On what ground.
    pub const fn ground(self) -> Ground {
        self.ground
    }
}

/// What nobody reaches without a [`Permit`]: a handler that forgets to ask has nothing to work with.
#[derive(Clone, Debug)]
pub struct Gate<P>(P);

impl<P> Gate<P> {
    /// Shuts `inside` away.
    pub const fn new(inside: P) -> Self {
        Self(inside)
    }

    /// What is inside.
    pub const fn open(&self, _permit: Permit) -> &P {
        &self.0
    }
}

impl Caller {
    /// The caller of `request`.
    ///
    /// # Errors
    /// When the request did not come through the door.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        // INVARIANT: the door puts a caller into every request it lets pass.
        request.extensions().get::<Self>().ok_or_else(|| Status::unauthenticated("nobody is calling"))
    }

    pub(super) fn new(
        door: Arc<Door>,
        offered: Arc<Offered>,
        peer: Peer,
        powers: Powers,
        ground: Ground,
        record: Option<Record>,
    ) -> Self {
        let (asked, powerless) = (AtomicBool::new(false), AtomicBool::new(false));
        let (target, detail) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Call { door, offered, peer, powers, ground, asked, powerless, target, detail, record }))
    }

    /// Has the beginning of the call recorded; what to wait for before it goes on, if it is one that is recorded.
    pub(super) fn begin(&self) -> Option<impl Future<Output = Result<(), Status>> + Send + use<>> {
        self.0.record.as_ref().map(|record| self.recorder().begin(record))
    }

    pub(super) fn recorder(&self) -> &Recorder {
        self.0.door.recorder()
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.0.record.as_ref()
    }

    /// Who it is; nobody, if no certificate was shown.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.peer.identity()
    }

    /// The user name; empty, if no certificate was shown.
    pub fn user(&self) -> &str {
        self.identity().map_or("", |identity| &identity.user)
    }

    /// The other end of the connection.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// What is called.
    pub fn method(&self) -> &Method {
        &self.0.offered.method
    }

    /// On what ground the call was let in. Where the request names what it touches, that is the best there can be: see the
    /// [`Permit`].
    pub fn ground(&self) -> Ground {
        self.0.ground
    }

    /// Leave to go on with a method that names nothing: all that there was to ask was asked at the door.
    ///
    /// # Errors
    /// When the method's rule says that it names something. A handler gets that from every caller, so that the first try
    /// of it shows that it does not ask.
    pub fn permit(&self) -> Result<Permit, Status> {
        if self.0.offered.rule.reach.is_named() {
            return Err(super::layer::not_asked(self.method()));
        }
        Ok(Permit { ground: self.0.ground })
    }

    /// Whether it may touch an image.
    ///
    /// # Errors
    /// The answer to the caller, when it may not.
    pub fn may_image(&self, name: &ImageName) -> Result<Permit, Status> {
        self.ask(Target::Image(name), &format_args!("image {name}"))
    }

    /// Whether it may touch a directory of images.
    ///
    /// # Errors
    /// The answer to the caller, when it may not.
    pub fn may_directory(&self, name: &DirectoryName) -> Result<Permit, Status> {
        self.ask(Target::ImageDirectory(name), &format_args!("directory {name}"))
    }

    /// By what right it may change something among images that it may touch: with powers, or because it is its own. `what`
    /// says what would have to be.
    ///
    /// # Errors
    /// The answer to the caller, when it may not.
    pub fn may_change(
        &self,
        permit: Permit,
        what: &dyn fmt::Display,
        change: Change<'_>,
    ) -> Result<Right, Status> {
        namespace::may(self.identity(), permit.ground.has_power(), change)
            .map_err(|NotYours| self.not_owner(what))
    }

    /// Whether it may touch the machine `name` that has these tags.
    ///
    /// # Errors
    /// The answer to the caller, when it may not.
    pub fn may_machine(&self, name: &str, tags: &BTreeMap<String, String>) -> Result<Permit, Status> {
        self.ask(Target::Machine(tags), &format_args!("machine {name:?}"))
    }

    /// Whether it may touch the machine `name` that has these tags, with powers or because it `owns` it.
    ///
    /// # Errors
    /// The answer to the caller, when it may not.
    pub fn may_own_machine(
        &self,
        name: &str,
        tags: &BTreeMap<String, String>,
        owns: impl FnOnce(&Identity) -> bool,
    ) -> Result<Permit, Status> {
        let what = format_args!("machine {name:?}");
        self.ask(Target::Machine(tags), &what).and_then(|permit| self.owned(permit, &what, owns))
    }

    /// Says for the audit what the call is about, before anything is done to it. The first word counts; asking for an image
    /// or a machine says it, too.
    pub fn target(&self, what: impl fmt::Display) {
        let mut is_first = false;
        let target = self.0.target.get_or_init(|| {
            is_first = true;
            what.to_string()
        });
        if let Some(record) = self.0.record.as_ref().filter(|_| is_first) {
            self.recorder().aimed(record, target);
        }
    }

    /// Says for the audit, at its end, what was done. The first word counts.
    pub fn detail(&self, what: impl fmt::Display) {
        self.0.detail.get_or_init(|| what.to_string());
    }

    /// What was done, as far as it was said.
    pub fn detail_said(&self) -> Option<&str> {
        self.0.detail.get().map(String::as_str)
    }

    /// What the call is about, as far as it was said.
    pub fn target_said(&self) -> Option<&str> {
        self.0.target.get().map(String::as_str)
    }

    /// Whether the handler has asked for what the request names, or had nothing to ask.
    pub(super) fn was_asked(&self) -> bool {
        !self.0.offered.rule.reach.is_named() || self.0.asked.load(Ordering::Relaxed)
    }

    /// Whether the caller turned out to have power over all that the request names.
    pub(super) fn had_power(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) && !self.0.powerless.load(Ordering::Relaxed)
    }

    fn ask(&self, target: Target<'_>, what: &dyn fmt::Display) -> Result<Permit, Status> {
        self.0.asked.store(true, Ordering::Relaxed);
        self.target(what);
        let question = self.0.door.question(&self.0.offered, &self.0.peer, self.0.powers);
        let decision = decide(&question, target);
        if !decision.as_ref().is_ok_and(|ground| ground.has_power()) {
            self.0.powerless.store(true, Ordering::Relaxed);
        }
        Ok(Permit { ground: decision.map_err(|denied| self.refused(&denied))? })
    }

    fn owned(
        &self,
        permit: Permit,
        what: &dyn fmt::Display,
        owns: impl FnOnce(&Identity) -> bool,
    ) -> Result<Permit, Status> {
        if permit.ground.has_power() || self.identity().is_some_and(owns) {
            return Ok(permit);
        }
        Err(self.not_owner(what))
    }

    fn not_owner(&self, what: &dyn fmt::Display) -> Status {
        let (user, method) = (self.user().to_owned(), self.method().clone());
        self.refused(&Denied::NotOwner { user, method, target: what.to_string() })
    }

    fn refused(&self, denied: &Denied) -> Status {
        self.0.door.refused(&self.0.peer, &self.0.offered.path, denied)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { offered, peer, powers, ground, .. } = &*self.0;
        f.debug_struct("Caller")
            .field("peer", &peer.address)
            .field("user", &self.user())
            .field("method", &offered.method)
            .field("powers", powers)
            .field("ground", ground)
            .finish_non_exhaustive()
    }
}

//! Everything a daemon reads to know whom to believe and how to show itself, read again when it changes.
//!
//! Each part stands for itself: a broken certificate of our own does not keep a revocation from counting, nor a broken
//! list new authorities. What can't be read or is refused leaves what was in force before, and is told.

mod read;

use std::mem::{Discriminant, discriminant};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::credentials::Credentials;
use crate::error::{Origin, PkiError};
use crate::keystore::CredentialPaths;
use crate::revocation::{DenyList, Revocation};
use crate::trust::Trust;
use read::{Contents, Named, Stamps};

/// The longest file of lists of revoked certificates, in bytes.
pub const MAX_LIST_FILE: usize = 4 << 20;

/// How long after a file's last change another can go unseen, because the time of both is the same: file systems count
/// time in steps.
const UNSURE: Duration = Duration::from_secs(2);
/// How often what was refused is tried again although nothing has changed: it may be a matter of time.
const RETRY: Duration = Duration::from_secs(30);

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPaths {
    /// Our own certificate and key.
    pub credentials: CredentialPaths,
    /// The authorities believed in everything.
    pub authorities: PathBuf,
    /// The authorities believed in identity only.
    pub identity: IdentityPath,
    /// Who is not believed any more.
    pub revocation: RevocationPaths,
}

/// Where identity authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPath {
    /// There are none.
    None,
    /// Here, unless there is no such file.
    IfPresent(PathBuf),
    /// Here; that the file is missing is an error.
    At(PathBuf),
}

/// Where it says who is not believed any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationPaths {
    /// Lists of revoked certificates, PEM or DER.
    pub lists: Vec<PathBuf>,
    /// A deny list.
    pub denied: Option<PathBuf>,
    /// Those of these files that need not be there. One that comes later counts from then on; what one has said stays in
    /// force when it is taken away.
    pub optional: Vec<PathBuf>,
}

impl RevocationPaths {
    /// `trust` without those who are taken back, for programs that end before anything changes; and what does not count, of
    /// what was read, with the reasons. One of the [`Self::optional`] files that the user may not read is among those.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn load(&self, trust: Trust) -> Result<(Trust, Vec<PkiError>), PkiError> {
        let (lists, denied) = read::revocation(self);
        self.apply(trust, lists, denied)
    }

    /// What is there for daemons, and nobody named, is often not for everybody to read: that is told, and is no error.
    fn apply(
        &self,
        trust: Trust,
        lists: Vec<Named>,
        denied: Option<Named>,
    ) -> Result<(Trust, Vec<PkiError>), PkiError> {
        let mut problems = Vec::new();
        let mut readable = |named: Named| match named.bytes {
            Err(error) if is_forbidden(&error) && self.optional.contains(&named.path) => {
                problems.push(error);
                None
            }
            bytes => Some(Named { path: named.path, bytes }),
        };
        let lists = lists.into_iter().filter_map(&mut readable).collect();
        let denied = denied.and_then(readable);
        let (unusable, now) = (Unusable::Refused, SystemTime::UNIX_EPOCH);
        let revocation = take_back(&trust, None, unusable, lists, denied, now, &mut problems)?;
        Ok((trust.with_revocation(revocation), problems))
    }
}

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    /// Whom to believe.
    pub trust: Trust,
    /// How to show ourselves.
    pub credentials: Credentials,
    /// Why something that was read is not in force. What it should have taken the place of still is.
    pub problems: Vec<PkiError>,
}

/// The files of a running daemon.
#[derive(Debug)]
pub struct TrustFiles {
    paths: TrustPaths,
    held: Held,
    seen: Seen,
}

/// What is in force.
#[derive(Debug)]
struct Held {
    trust: Trust,
    credentials: Credentials,
}

/// What was found when it was last looked.
#[derive(Debug)]
struct Seen {
    stamps: Stamps,
    at: SystemTime,
    told: Told,
}

/// By what one outcome is known from another.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    digest: [u8; 32],
    problems: Vec<Discriminant<PkiError>>,
    /// How much the deny list in force says, which can be more than its file does.
    denied: usize,
}

impl TrustFiles {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// [`PkiError`], naming the file, when any of it is missing or not as it should be: nothing was in force before.
    pub fn open(paths: TrustPaths, now: SystemTime) -> Result<(Self, Loaded), PkiError> {
        let (loaded, seen) = read_all(&paths, None, now)?;
        let held = Held { trust: loaded.trust.clone(), credentials: loaded.credentials.clone() };
        Ok((Self { paths, held, seen }, loaded))
    }

    /// Looks whether anything has changed, and reads everything if so. Cheap when nothing has; call it every second. `None`
    /// when nothing is different from what was given back last.
    pub fn look(&mut self, now: SystemTime) -> Option<Loaded> {
        let stamps = Stamps::of(&self.paths);
        let since = now.duration_since(self.seen.at).ok();
        let again = !self.seen.told.problems.is_empty() && since.is_none_or(|since| since >= RETRY);
        if stamps == self.seen.stamps && !stamps.may_hide_a_change(self.seen.at, UNSURE) && !again {
            return None;
        }
        let (loaded, before) = self.read(now);
        (before.told != self.seen.told).then_some(loaded)
    }

    /// Reads everything, whether it has changed or not: when an operator asks for it.
    pub fn reload(&mut self, now: SystemTime) -> Loaded {
        self.read(now).0
    }

    fn read(&mut self, now: SystemTime) -> (Loaded, Seen) {
        let (loaded, seen) = read_all(&self.paths, Some(&self.held), now)
            .expect("invariant: what is held stands in for errors");
        self.held = Held { trust: loaded.trust.clone(), credentials: loaded.credentials.clone() };
        (loaded, std::mem::replace(&mut self.seen, seen))
    }
}

/// Reads everything. What can't be is taken from `held`, and is an error only when there is nothing held yet.
fn read_all(paths: &TrustPaths, held: Option<&Held>, now: SystemTime) -> Result<(Loaded, Seen), PkiError> {
    // Looked at before it is read: what changes in between is seen the next time.
    let stamps = Stamps::of(paths);
    let Contents { credentials, trust, lists, denied, digest } = Contents::read(paths);
    let mut problems = Vec::new();
    let credentials = credentials.and_then(|found| found.parse(&paths.credentials, now));
    let credentials = or_held(credentials, held.map(|held| &held.credentials), &mut problems)?;
    let trust = trust.and_then(|found| found.parse(&paths.authorities));
    let trust = or_held(trust, held.map(|held| &held.trust), &mut problems)?;
    let trust = match held {
        Some(held) => trust.keeping_apart(&held.trust),
        None => trust,
    };
    let before = held.map(|held| held.trust.revocation());
    let revocation = take_back(&trust, before, Unusable::Missed, lists, denied, now, &mut problems)?;
    let denied = revocation.denied().len();
    let told = Told { digest, problems: problems.iter().map(discriminant).collect(), denied };
    let trust = trust.with_revocation(revocation);
    Ok((Loaded { trust, credentials, problems }, Seen { stamps, at: now, told }))
}

fn or_held<T: Clone>(
    found: Result<T, PkiError>,
    held: Option<&T>,
    problems: &mut Vec<PkiError>,
) -> Result<T, PkiError> {
    match (found, held) {
        (Err(error), Some(held)) => {
            problems.push(error);
            Ok(held.clone())
        }
        (found, _) => found,
    }
}

/// What becomes of lists that can't be used when none were in force before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// It is for the policy to say what is still allowed: a daemon that did not start could not be given better ones. A
    /// file that is not there is an error all the same: it was misnamed.
    Missed,
    Refused,
}

/// Adds to what was taken back before what these files say.
fn take_back(
    trust: &Trust,
    before: Option<&Revocation>,
    unusable: Unusable,
    lists: Vec<Named>,
    denied: Option<Named>,
    now: SystemTime,
    problems: &mut Vec<PkiError>,
) -> Result<Revocation, PkiError> {
    let mut revocation = before.map(|before| before.carried_over(trust)).unwrap_or_default();
    for Named { path, bytes } in lists {
        let origin = Origin::from(path.as_path());
        match bytes.and_then(|bytes| revocation.read_lists(trust, &bytes, &origin)) {
            Ok(refused) => problems.extend(refused),
            Err(error) if before.is_none() && (unusable == Unusable::Refused || is_missing(&error)) => {
                return Err(error);
            }
            Err(error) => {
                problems.push(error);
                let since = before.and_then(|before| before.missed_since(&origin)).unwrap_or(now);
                revocation.missed(origin, since);
            }
        }
    }
    problems.extend(revocation.left_behind());
    if let Some(Named { path, bytes }) = denied {
        let denied = bytes.and_then(|bytes| DenyList::parse(&bytes, &path.as_path().into()));
        let held = before.map(Revocation::denied);
        let denied = or_held(denied.map_err(|error| not_ours(error, held)), held, problems)?;
        // Written in place, it was empty a moment ago, and may be half of what it will be: that takes no denial back.
        let unfinished = held.filter(|_| read::may_be_unfinished(&path, now, UNSURE));
        revocation.deny(unfinished.into_iter().fold(denied, DenyList::with));
    }
    Ok(revocation)
}

fn is_missing(error: &PkiError) -> bool {
    matches!(error, PkiError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn is_forbidden(error: &PkiError) -> bool {
    matches!(error, PkiError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Says of a deny list that a daemon may not read, when it starts, what is to be done: without it, it would let in whom the
/// operator denies.
fn not_ours(error: PkiError, held: Option<&DenyList>) -> PkiError {
    if held.is_some() || !is_forbidden(&error) {
        return error;
    }
    if let PkiError::Read { path, source } = error {
        PkiError::DenyListNotOurs { path, source }
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Authority;

    /// Root may read everything, so that this can't be seen with files where tests run as root.
    fn forbidden(path: &str) -> Named {
        let source = std::io::ErrorKind::PermissionDenied.into();
        Named { path: path.into(), bytes: Err(PkiError::Read { path: path.into(), source }) }
    }

    fn trust() -> Trust {
        let authority = Authority::create("Dominator", SystemTime::now()).unwrap();
        Trust::from_pem(authority.certificate_pem().as_bytes(), None).unwrap()
    }

    #[test]
    fn a_tool_passes_over_what_is_not_for_its_user_to_read_unless_it_was_named() {
        let optional = vec!["/lists".into(), "/denied".into()];
        let usual =
            RevocationPaths { lists: vec!["/lists".into()], denied: Some("/denied".into()), optional };
        let (_, problems) =
            usual.apply(trust(), vec![forbidden("/lists")], Some(forbidden("/denied"))).unwrap();
        assert_eq!(problems.len(), 2, "both are told: {problems:?}");
        let named = RevocationPaths { optional: Vec::new(), ..usual };
        named.apply(trust(), vec![forbidden("/lists")], None).unwrap_err();
        named.apply(trust(), Vec::new(), Some(forbidden("/denied"))).unwrap_err();
    }

    #[test]
    fn a_daemon_that_may_not_read_its_deny_list_does_not_start_and_says_who_must_do_what() {
        let (now, mut problems) = (SystemTime::now(), Vec::new());
        let denied = Some(forbidden("/etc/ssl/deny-list"));
        let start =
            take_back(&trust(), None, Unusable::Missed, Vec::new(), denied, now, &mut problems).unwrap_err();
        let said = start.to_string();
        assert!(said.contains("/etc/ssl/deny-list") && said.contains("--deny-list"), "{said}");

        let (held, denied) = (Revocation::default(), Some(forbidden("/etc/ssl/deny-list")));
        take_back(&trust(), Some(&held), Unusable::Missed, Vec::new(), denied, now, &mut problems).unwrap();
        assert_eq!(problems.len(), 1, "while it runs, what it knows goes on");
    }
}

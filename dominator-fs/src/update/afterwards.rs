//! What is owed to services by somebody who has no state directory as an agent has one: `/.subd/services.owed`.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::port::{ServiceOutcome, ServiceRunner};
use dominator_core::trigger::Triggers;

use super::{Ledger, Recovery, Updater, WorkDirectory};
use crate::publish::{self, Replace};
use crate::root::open_file;
use crate::seam::{At, Seam};
use crate::service::{Activation, Debt, Due};

/// Remembers what updates owe to services beyond the life of this process, as `docs/formats/work-directory.md` says.
pub struct Afterwards {
    top: OwnedFd,
    seam: Arc<dyn Seam>,
    owed: RefCell<Vec<Debt>>,
    /// The digest of the note of the last update whose services were seen to.
    concluded: Cell<Option<ObjectId>>,
}

impl Afterwards {
    const NAME: &'static [u8] = b"services.owed";
    const BEGINNING: &'static str = "owed 1\n";
    /// What the notes of this begin with: none that an agent wrote does.
    const NOTE: &'static str = "enforce 1\n";
    /// As many as an agent remembers, with room for the rest.
    const MAX: u64 = 4 * (Triggers::MAX_COUNT as u64) * (Triggers::MAX_SERVICE as u64 + 16);

    /// What an update is noted with, for whoever finds it cut off. No two are the same.
    pub fn note_of(activation: &Activation) -> Vec<u8> {
        let number = RandomState::new().build_hasher().finish();
        format!("{}number {number}\n{}", Self::NOTE, lines(&activation.afterwards())).into_bytes()
    }

    /// What is owed now.
    pub fn owed(&self) -> Vec<Debt> {
        self.owed.borrow().clone()
    }

    /// Does what a process that died owed to services, and says what came of it. They are stopped first: they may have
    /// been started while files were of both kinds.
    ///
    /// # Errors
    /// When it can't be noted; then they are started once more by the next process.
    pub fn inherit(&self, found: &Recovery, services: &dyn ServiceRunner) -> io::Result<Vec<ServiceOutcome>> {
        let (note, is_made) = match found {
            Recovery::Clean => (None, false),
            Recovery::Abandoned { note } | Recovery::Undone { note, .. } => (Some(note), false),
            Recovery::Finished { note, .. }
            | Recovery::OnTrial { note, .. }
            | Recovery::Kept { note, .. } => (Some(note), true),
        };
        if note.is_some() && note.map(|note| ObjectId::of(note)) == self.concluded.get() {
            return Ok(Vec::new());
        }
        let noted = note.filter(|_| is_made).and_then(|note| after(note));
        let owed = noted.unwrap_or_else(|| self.owed());
        let outcomes: Vec<_> = owed.iter().map(|debt| debt.pay_anew(services)).collect();
        self.owed.replace(Debt::unpaid(&outcomes));
        match note.filter(|note| is_ours(note)) {
            Some(note) => self.conclude(note)?,
            None if owed.is_empty() => {}
            None => self.write()?,
        }
        Ok(outcomes)
    }

    /// Services of the update with this note were seen to.
    ///
    /// # Errors
    /// As for [`Self::inherit`].
    pub fn conclude(&self, note: &[u8]) -> io::Result<()> {
        self.concluded.set(Some(ObjectId::of(note)));
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::from(Self::BEGINNING);
        if let Some(note) = self.concluded.get() {
            writeln!(text, "concluded {note}").map_err(io::Error::other)?;
        }
        text.push_str(&lines(&self.owed.borrow()));
        let (top, mode) = (self.top.as_fd(), WorkDirectory::FILE);
        publish::bytes(&*self.seam, top, Self::NAME, text.as_bytes(), mode, Replace::Existing).map(drop)
    }

    fn read(&self) -> io::Result<()> {
        let file = match open_file(At::new(self.top.as_fd(), Self::NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut text = String::new();
        file.take(Self::MAX).read_to_string(&mut text)?;
        let damaged = || io::Error::other("/.subd/services.owed is damaged; remove it");
        let mut rest = text.strip_prefix(Self::BEGINNING).ok_or_else(damaged)?;
        if let Some((digest, owed)) = rest.strip_prefix("concluded ").and_then(|rest| rest.split_once('\n')) {
            self.concluded.set(Some(digest.parse().map_err(|_| damaged())?));
            rest = owed;
        }
        self.owed.replace(parsed(rest).ok_or_else(damaged)?);
        Ok(())
    }
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Afterwards").field("owed", &self.owed).finish_non_exhaustive()
    }
}

impl Ledger for Afterwards {
    fn note(&self, owed: &[Debt]) -> io::Result<()> {
        self.owed.replace(owed.to_vec());
        self.write()
    }
}

impl Updater {
    /// What is owed to services here, for those who have no state directory of their own.
    ///
    /// # Errors
    /// When that can't be read, or is damaged: a person has to look whether all services run.
    pub fn afterwards(&self) -> io::Result<Afterwards> {
        let (top, seam) = (self.work.top.try_clone()?, Arc::clone(&self.seam));
        let afterwards = Afterwards { top, seam, owed: RefCell::default(), concluded: Cell::new(None) };
        afterwards.read()?;
        Ok(afterwards)
    }
}

fn is_ours(note: &[u8]) -> bool {
    note.starts_with(Afterwards::NOTE.as_bytes())
}

/// What is owed once an update with this note is made, if it is one of ours.
fn after(note: &[u8]) -> Option<Vec<Debt>> {
    let text = std::str::from_utf8(note).ok()?.strip_prefix(Afterwards::NOTE)?.strip_prefix("number ")?;
    parsed(text.split_once('\n')?.1)
}

fn lines(owed: &[Debt]) -> String {
    owed.iter().map(|debt| format!("{} {}\n", debt.due.word(), debt.service)).collect()
}

fn parsed(text: &str) -> Option<Vec<Debt>> {
    if !text.is_empty() && !text.ends_with('\n') {
        return None;
    }
    let debt = |line: &str| {
        let (word, service) = line.split_once(' ')?;
        Some(Debt { service: service.to_owned(), due: Due::of_word(word)? })
    };
    let owed: Vec<_> = text.lines().map(debt).collect::<Option<_>>()?;
    Debt::check(&owed).ok()?;
    Some(owed)
}

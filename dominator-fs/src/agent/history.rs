//! What became of updates: a small file for each in the state directory, as `docs/formats/history.md` says. For people to
//! read; nothing goes by it, so that it may be removed, and one that can't be read is passed over.

mod text;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use dominator_core::inode::Mode;
use dominator_core::port::{Chain, UpdateRecord};
use rustix::fs::OFlags;

use super::memory::Memory;
use crate::publish::{self, Replace};
use crate::root::{inode_at, names_in, open_file};
use crate::seam::{At, Remove, Seam};

/// The records of a machine's updates.
pub(super) struct History {
    dir: OwnedFd,
    seam: Arc<dyn Seam>,
    /// The number of the last record; numbers are from 1.
    last: Mutex<u64>,
}

impl History {
    const DIRECTORY: &'static str = "history";
    const SUFFIX: &'static str = ".json";
    /// The longest record, in bytes.
    const MAX_LEN: usize = 256 * 1024;
    /// What all of them may take, in bytes; the oldest go first.
    const MAX_ALL: u64 = 16 * 1024 * 1024;
    const FILE: Mode = Mode::from_st_mode(0o600);

    /// Opens or makes the directory of records.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn open(memory: &Memory) -> io::Result<Self> {
        let name = Self::DIRECTORY;
        match rustix::fs::mkdirat(memory.dir(), name, rustix::fs::Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(memory.dir(), name, flags, rustix::fs::Mode::empty())?;
        let history = Self { dir, seam: Arc::clone(memory.seam()), last: Mutex::new(0) };
        let last = history.numbers()?.last().copied().unwrap_or(0);
        Ok(Self { last: Mutex::new(last), ..history })
    }

    /// The number of the next record, which nobody else gets.
    pub(super) fn next(&self) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.saturating_add(1);
        *last
    }

    /// Writes a record in place of the one of the same number. A machine is updated whether or not that can be noted.
    pub(super) fn note(&self, record: &UpdateRecord) {
        let written = text::encode(record, Self::MAX_LEN).ok_or_else(|| io::Error::other("it is too long"));
        let name = Self::name(record.number);
        let written = written.and_then(|text| {
            let replace = Replace::Existing;
            publish::bytes(&*self.seam, self.dir.as_fd(), name.as_bytes(), &text, Self::FILE, replace)
                .map(drop)
        });
        if let Err(error) = written.and_then(|()| self.prune()) {
            tracing::warn!(%error, number = record.number, "the record of an update can't be written");
        }
    }

    /// One of them.
    pub(super) fn record(&self, number: u64) -> Option<UpdateRecord> {
        let read = || {
            let name = Self::name(number);
            let file = open_file(At::new(self.dir.as_fd(), name.as_bytes()))?;
            let mut bytes = Vec::new();
            file.take(Self::MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
            text::decode(&bytes, number).map_err(io::Error::other)
        };
        read()
            .inspect_err(|error| tracing::warn!(error = %Chain(error), number, "a record can't be read"))
            .ok()
    }

    /// The last ones, the latest first.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn latest(&self, limit: usize) -> io::Result<Vec<UpdateRecord>> {
        let numbers = self.numbers()?;
        let wanted = numbers.iter().rev().take(limit.min(UpdateRecord::MAX_COUNT));
        Ok(wanted.filter_map(|number| self.record(*number)).collect())
    }

    /// In order.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let number = |name: Vec<u8>| {
            let name = String::from_utf8(name).ok()?;
            let number = name.strip_suffix(Self::SUFFIX)?.parse().ok()?;
            // Whatever else is there is not ours.
            (Self::name(number) == name).then_some(number)
        };
        let mut numbers: Vec<_> = names_in(self.dir.as_fd())?.into_iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The oldest go.
    fn prune(&self) -> io::Result<()> {
        let (mut count, mut bytes) = (0, 0);
        for number in self.numbers()?.into_iter().rev() {
            let name = Self::name(number);
            let at = At::new(self.dir.as_fd(), name.as_bytes());
            count += 1;
            bytes += inode_at(at.dir, at.name)?.stx_size;
            if count > UpdateRecord::MAX_COUNT || (bytes > Self::MAX_ALL && count > 1) {
                self.seam.remove(at, Remove::File)?;
            }
        }
        Ok(())
    }

    fn name(number: u64) -> String {
        format!("{number}{}", Self::SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::inode::Timestamp;
    use dominator_core::path::ImagePath;
    use dominator_core::plan::PlanSummary;
    use dominator_core::port::UpdateOutcome;
    use std::time::Duration;

    fn record(number: u64) -> UpdateRecord {
        UpdateRecord {
            number,
            image: None,
            previous: None,
            began: Timestamp::default(),
            ended: None,
            plan: PlanSummary::default(),
            services: Vec::new(),
            health: Vec::new(),
            window: Duration::ZERO,
            outcome: UpdateOutcome::Made,
            note: None,
        }
    }

    #[test]
    fn a_record_of_long_paths_names_fewer_of_them_rather_than_to_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        let history = History::open(&memory).unwrap();
        let path = |number: u32| format!("/{}/{number}", vec!["d".repeat(200); 15].join("/"));
        let kept: Vec<_> =
            (0..300).map(|number| ImagePath::parse(path(number).as_bytes()).unwrap()).collect();
        for (named, len) in [(300, 20), (10, 10)] {
            let mut record = record(history.next());
            record.plan.kept = kept.iter().take(named).cloned().collect();
            history.note(&record);
            let [noted] = &history.latest(1).unwrap()[..] else { panic!("it is lost") };
            assert_eq!((noted.number, noted.plan.kept.len()), (record.number, len));
        }
    }

    #[test]
    fn records_are_numbered_on_from_life_to_life_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        let history = History::open(&memory).unwrap();
        let directory = dir.path().join(History::DIRECTORY);
        for _ in 0..UpdateRecord::MAX_COUNT + 5 {
            // Written as a crash leaves it, so that only the last one prunes.
            let number = history.next();
            std::fs::write(directory.join(History::name(number)), "{").unwrap();
        }
        std::fs::write(directory.join("007.json"), "").unwrap();
        std::fs::write(directory.join("notes"), "").unwrap();
        let history = History::open(&memory).unwrap();
        let number = history.next();
        assert_eq!(number, UpdateRecord::MAX_COUNT as u64 + 6);
        history.note(&record(number));
        assert_eq!(history.numbers().unwrap().first(), Some(&7));
        assert_eq!(history.latest(10).unwrap(), [record(number)], "those that can't be read are passed over");
        assert!(directory.join("notes").exists() && directory.join("007.json").exists());
    }
}

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use dominator_core::object::{ObjectHasher, ObjectId};

use crate::pace::direct::DirectBuffer;
use crate::publish::MANY;
use crate::scan::{Identity, OnDisk};

/// A file that was made durable, and what must be in it.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Its name in the directory.
    pub(crate) name: Vec<u8>,
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
}

/// What the disk gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadBack {
    /// What was written, and how the file is known again.
    Same(Identity),
    /// Something else.
    Other {
        /// What it hashes to.
        hashed: ObjectId,
        /// How long it is, in bytes.
        length: u64,
    },
}

/// Reads files of one directory from the disk, not from memory, and hashes them. What came over the network was right
/// when it was written, and what is in memory is; this is about what will be there after a restart.
///
/// Few files are read by this thread alone; many by several, as each waits for the disk most of the time.
pub(crate) fn read_back(dir: BorrowedFd<'_>, files: &[Expected]) -> io::Result<Vec<ReadBack>> {
    if files.len() < MANY {
        let mut buffer = DirectBuffer::new(PIECE);
        return files.iter().map(|file| one(dir, file, &mut buffer)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<(usize, ReadBack)>> {
        let (mut buffer, mut read) = (DirectBuffer::new(PIECE), Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { return Ok(read) };
            match one(dir, file, &mut buffer) {
                Ok(found) => read.push((index, found)),
                Err(error) => {
                    // The others need not go on.
                    next.store(files.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut all = std::thread::scope(|scope| -> io::Result<Vec<_>> {
        let mut others = Vec::new();
        for _ in 1..THREADS {
            others.push(std::thread::Builder::new().name("read-back".into()).spawn_scoped(scope, work)?);
        }
        let mut all = work()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, found)| found).collect())
}

/// How much is read at once, in bytes.
const PIECE: usize = 128 * 1024;
/// How many threads read many files.
const THREADS: usize = 8;

fn one(dir: BorrowedFd<'_>, file: &Expected, buffer: &mut DirectBuffer) -> io::Result<ReadBack> {
    let mut on_disk = OnDisk::open(dir, &file.name)?;
    let (mut hasher, mut length) = (ObjectHasher::new(), 0);
    loop {
        let filled = on_disk.fill(buffer, length)?;
        hasher.update(buffer.bytes(filled));
        length += filled as u64;
        // A file that is as long as it must be has ended; a longer one is another.
        if filled < buffer.len() || length > file.size {
            break;
        }
    }
    let hashed = hasher.finish();
    if (hashed, length) == (file.id, file.size) {
        Ok(ReadBack::Same(on_disk.identity()?))
    } else {
        Ok(ReadBack::Other { hashed, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn check(count: usize, wrong: &[usize]) {
        let place = tempfile::tempdir().unwrap();
        let contents = |number: usize| vec![u8::try_from(number % 251).unwrap(); number * 977 % 600_000];
        let mut files = Vec::new();
        for number in 0..count {
            let bytes = contents(number);
            let id = ObjectId::of(&bytes);
            let size = bytes.len() as u64;
            let name = number.to_string();
            let there = if wrong.contains(&number) { [&bytes[..], b"!"].concat() } else { bytes };
            std::fs::write(place.path().join(&name), there).unwrap();
            files.push(Expected { name: name.into_bytes(), id, size });
        }
        let dir = File::open(place.path()).unwrap();
        rustix::fs::syncfs(&dir).unwrap();
        let found = read_back(dir.as_fd(), &files).unwrap();
        let others = found.iter().enumerate().filter(|(_, found)| matches!(found, ReadBack::Other { .. }));
        assert_eq!(others.map(|(number, _)| number).collect::<Vec<_>>(), wrong);
        assert_eq!(found.len(), count);
        files.push(Expected { name: b"none".to_vec(), id: ObjectId::of(b""), size: 0 });
        assert!(read_back(dir.as_fd(), &files).is_err());
    }

    #[test]
    fn few_files_and_many_are_read_back_in_their_order() {
        check(3, &[]);
        check(10, &[0, 9]);
        check(2 * MANY, &[1, MANY, 2 * MANY - 1]);
    }
}

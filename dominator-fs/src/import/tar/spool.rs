use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use dominator_core::object::{ObjectHasher, ObjectId};

use super::super::{ImportError, OFFER, ObjectSink};

/// How many bytes wait in the file before the sink is asked what it wants of them. One member may be longer.
const WAITING: u64 = 64 * 1024 * 1024;
/// How much is copied at a time, in bytes.
const BUFFER: usize = 128 * 1024;

/// Contents whose digest was not known before they were read, on their way to the sink.
pub(super) struct Spool<'a> {
    file: File,
    len: u64,
    waiting: Vec<(ObjectId, u64)>,
    known: HashSet<ObjectId>,
    sink: &'a mut dyn ObjectSink,
    buffer: Vec<u8>,
}

impl<'a> Spool<'a> {
    pub(super) fn new(file: File, sink: &'a mut dyn ObjectSink) -> Self {
        let (waiting, known) = (Vec::new(), HashSet::new());
        Self { file, len: 0, waiting, known, sink, buffer: vec![0; BUFFER] }
    }

    pub(super) fn sink(&mut self) -> &mut dyn ObjectSink {
        self.sink
    }

    /// Takes in exactly `size` bytes and names them.
    pub(super) fn take(&mut self, contents: &mut impl Contents, size: u64) -> Result<ObjectId, ImportError> {
        let mut hasher = ObjectHasher::new();
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
            contents.fill(buffer)?;
            hasher.update(buffer);
            self.file.write_all(buffer).map_err(ImportError::Spool)?;
            left -= wanted as u64;
        }
        let id = hasher.finish();
        if !self.known.insert(id) {
            // It has come before: the next contents take its place in the file.
            self.file.seek(SeekFrom::Start(self.len)).map_err(ImportError::Spool)?;
            return Ok(id);
        }
        self.waiting.push((id, size));
        self.len += size;
        if self.len >= WAITING || self.waiting.len() >= OFFER {
            self.flush()?;
        }
        Ok(id)
    }

    /// Gives the sink what it wants of what waits.
    pub(super) fn flush(&mut self) -> Result<(), ImportError> {
        let wanted: HashSet<_> =
            self.sink.want(&self.waiting).map_err(ImportError::Sink)?.into_iter().collect();
        let mut offset = 0;
        for (id, size) in self.waiting.drain(..) {
            if wanted.contains(&id) {
                self.file.seek(SeekFrom::Start(offset)).map_err(ImportError::Spool)?;
                let contents = &mut (&self.file).take(size);
                self.sink.put(id, size, contents).map_err(ImportError::Sink)?;
            }
            offset += size;
        }
        self.len = 0;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(ImportError::Spool)
    }
}

/// What contents come from.
pub(super) trait Contents {
    /// Fills the buffer with the next bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImportError>;
}

impl<R: Read> Contents for super::member::Archive<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImportError> {
        self.read_contents(buffer)
    }
}

/// Reads until the buffer is full or there is nothing more, and says how many bytes came.
pub(super) fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

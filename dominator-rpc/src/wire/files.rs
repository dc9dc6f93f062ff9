//! What files of a machine contain, in parts.

use bytes::{Bytes, BytesMut};
use dominator_core::path::ImagePath;
use dominator_core::port::FileContents;
use tonic::Status;

use super::{invalid, readable};
use crate::v1::file_part::Part;
use crate::{limits, v1};

/// The paths of a question for files.
pub(crate) fn files_request_from(request: &v1::FilesRequest) -> Result<Vec<ImagePath>, Status> {
    if request.paths.len() > FileContents::MAX_PATHS {
        return Err(invalid(format!("more than {} files", FileContents::MAX_PATHS)));
    }
    request.paths.iter().map(super::agent::path_from).collect()
}

pub(crate) fn files_request(paths: &[ImagePath]) -> v1::FilesRequest {
    v1::FilesRequest { paths: paths.iter().map(super::agent::path).collect() }
}

/// The parts of one file.
pub(crate) fn file_parts(file: FileContents) -> Vec<v1::FilePart> {
    let part = |part| v1::FilePart { part: Some(part) };
    let mut contents = match file.contents {
        Ok(contents) => contents,
        Err(error) => {
            let begin = v1::FileBegin { size: 0, error: Some(readable(&error)) };
            return vec![part(Part::Begin(begin))];
        }
    };
    let mut parts = vec![part(Part::Begin(v1::FileBegin { size: contents.len() as u64, error: None }))];
    while !contents.is_empty() {
        let data = contents.split_to(contents.len().min(limits::CHUNK));
        parts.push(part(Part::Data(data)));
    }
    parts
}

/// Puts files together again.
pub(crate) struct Files {
    paths: std::vec::IntoIter<ImagePath>,
    whole: Vec<FileContents>,
    /// The file that began last, what of it came, and how long it is.
    open: Option<(ImagePath, BytesMut, usize)>,
    bytes: usize,
}

impl Files {
    pub(crate) fn of(paths: Vec<ImagePath>) -> Self {
        Self { paths: paths.into_iter(), whole: Vec::new(), open: None, bytes: 0 }
    }

    pub(crate) fn push(&mut self, part: v1::FilePart) -> Result<(), Status> {
        match part.part.ok_or_else(|| invalid("a part of a file that is empty"))? {
            Part::Begin(begin) => self.begin(&begin),
            Part::Data(data) => self.data(&data),
        }
    }

    pub(crate) fn finish(mut self) -> Result<Vec<FileContents>, Status> {
        self.close()?;
        match self.paths.next() {
            None => Ok(self.whole),
            Some(path) => Err(invalid(format!("nothing of {path}, which was asked for"))),
        }
    }

    fn begin(&mut self, begin: &v1::FileBegin) -> Result<(), Status> {
        self.close()?;
        let path = self.paths.next().ok_or_else(|| invalid("a file nobody asked for"))?;
        if let Some(error) = &begin.error {
            self.whole.push(FileContents { path, contents: Err(readable(error)) });
            return Ok(());
        }
        let size = usize::try_from(begin.size).unwrap_or(usize::MAX);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > FileContents::MAX_BYTES {
            return Err(invalid(format!("files of more than {} bytes", FileContents::MAX_BYTES)));
        }
        self.open = Some((path, BytesMut::new(), size));
        Ok(())
    }

    fn data(&mut self, data: &Bytes) -> Result<(), Status> {
        let Some((_, came, size)) = &mut self.open else { return Err(invalid("data of no file")) };
        if data.len() > size.saturating_sub(came.len()) {
            return Err(invalid("a file longer than was said"));
        }
        came.extend_from_slice(data);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Status> {
        let Some((path, came, size)) = self.open.take() else { return Ok(()) };
        if came.len() != size {
            return Err(invalid(format!("{path} is shorter than was said")));
        }
        self.whole.push(FileContents { path, contents: Ok(came.freeze()) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_not_asked_for_or_is_not_as_long_as_said_is_refused() {
        let begin = |size| v1::FilePart { part: Some(Part::Begin(v1::FileBegin { size, error: None })) };
        let data = |data: &'static [u8]| v1::FilePart { part: Some(Part::Data(Bytes::from_static(data))) };
        let taken = |parts: Vec<v1::FilePart>| {
            let mut files = Files::of(vec![path("/a"), path("/b")]);
            parts.into_iter().try_for_each(|part| files.push(part)).and_then(|()| files.finish())
        };
        let good = taken(vec![begin(2), data(b"x"), data(b"y"), begin(0)]).unwrap();
        assert_eq!(good.iter().map(|file| file.contents.as_ref().unwrap().len()).collect::<Vec<_>>(), [2, 0]);
        for bad in [
            vec![begin(0)],
            vec![begin(0), begin(0), begin(0)],
            vec![data(b"x")],
            vec![begin(2), data(b"x"), begin(0)],
            vec![begin(1), data(b"xy"), begin(0)],
            vec![begin(FileContents::MAX_BYTES as u64), begin(1)],
            vec![v1::FilePart { part: None }],
        ] {
            assert!(taken(bad.clone()).is_err(), "{bad:?}");
        }
    }
}

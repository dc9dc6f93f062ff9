//! Where an image comes from and what is known of it: words for people and for programs that look for it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{Image, ImageName};
use crate::codec::{DecodeError, Reader, Writer};
use crate::object::ObjectId;

/// A text that belongs to an image: kept with it, or somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// The text is this object, which the image needs as it needs the contents of its files.
    Object(ObjectId),
    /// The text is there, and the server knows nothing of it.
    Url(DocumentUrl),
}

impl Document {
    /// The object, if it is one.
    pub const fn object(&self) -> Option<ObjectId> {
        match self {
            Self::Object(id) => Some(*id),
            Self::Url(_) => None,
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(id) => write!(f, "object {id}"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// The address of a text in the web.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentUrl(String);

impl DocumentUrl {
    /// The longest, in bytes.
    pub const MAX_LEN: usize = 2048;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DocumentUrl {
    type Err = BadDocumentUrl;

    fn from_str(text: &str) -> Result<Self, BadDocumentUrl> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        let fits = text.len() <= Self::MAX_LEN && printable;
        host.filter(|host| fits && !host.is_empty()).map(|_| Self(text.into())).ok_or(BadDocumentUrl)
    }
}

impl fmt::Display for DocumentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that can't be a [`DocumentUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an address begins with http:// or https:// and has at most 2048 printable characters of ASCII")]
pub struct BadDocumentUrl;

/// What an image was built from, as far as it is known; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// The branch of the source, as in `main`.
    pub branch: String,
    /// The commit.
    pub commit_id: String,
    /// Where the source can be had.
    pub git_url: String,
}

/// A package of an operating system that is installed in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as its own system writes it.
    pub version: String,
    /// How much it takes when it is installed, in bytes.
    pub size: u64,
}

/// Where an image comes from and what is known of it. Nothing of it reaches a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// For whom it was made, by a program in his place; he may do with it what its maker may. Empty: for nobody else.
    pub created_for: String,
    /// What changed, for people.
    pub release_notes: Option<Document>,
    /// What was said while it was built.
    pub build_log: Option<Document>,
    /// What it was built from.
    pub build: Build,
    /// The packages in it, in the order given.
    pub packages: Vec<Package>,
    /// The image it was made of.
    pub source_image: Option<ImageName>,
}

impl Provenance {
    /// Objects that hold texts of the image.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        [&self.release_notes, &self.build_log].into_iter().flatten().filter_map(Document::object)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.bytes(self.created_for.as_bytes());
        encode_document(w, self.release_notes.as_ref());
        encode_document(w, self.build_log.as_ref());
        for text in [&self.build.branch, &self.build.commit_id, &self.build.git_url] {
            w.bytes(text.as_bytes());
        }
        w.count(self.packages.len());
        for package in &self.packages {
            w.bytes(package.name.as_bytes());
            w.bytes(package.version.as_bytes());
            w.u64(package.size);
        }
        w.u8(u8::from(self.source_image.is_some()));
        if let Some(name) = &self.source_image {
            w.bytes(name.as_str().as_bytes());
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            created_for: text(r)?,
            release_notes: decode_document(r)?,
            build_log: decode_document(r)?,
            build: Build { branch: text(r)?, commit_id: text(r)?, git_url: text(r)? },
            packages: decode_packages(r)?,
            source_image: decode_source(r)?,
        })
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    r.text(Image::MAX_TEXT).map(str::to_owned)
}

fn encode_document(w: &mut Writer, document: Option<&Document>) {
    match document {
        None => w.u8(0),
        Some(Document::Object(id)) => {
            w.u8(1);
            w.id(id);
        }
        Some(Document::Url(url)) => {
            w.u8(2);
            w.bytes(url.as_str().as_bytes());
        }
    }
}

fn decode_document(r: &mut Reader<'_>) -> Result<Option<Document>, DecodeError> {
    match r.u8()? {
        0 => Ok(None),
        1 => Ok(Some(Document::Object(r.id()?))),
        2 => {
            let url = r.text(DocumentUrl::MAX_LEN)?.parse();
            url.map(|url| Some(Document::Url(url)))
                .map_err(|_| DecodeError::Invalid("an address that is none"))
        }
        _ => Err(DecodeError::Invalid("an unknown kind of document")),
    }
}

fn decode_packages(r: &mut Reader<'_>) -> Result<Vec<Package>, DecodeError> {
    // Two empty texts and a size.
    (0..r.count(16)?).map(|_| Ok(Package { name: text(r)?, version: text(r)?, size: r.u64()? })).collect()
}

fn decode_source(r: &mut Reader<'_>) -> Result<Option<ImageName>, DecodeError> {
    if !r.flag()? {
        return Ok(None);
    }
    let name = r.text(ImageName::MAX_LEN)?.parse();
    name.map(Some).map_err(|_| DecodeError::Invalid("a source that can't be an image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_document_leads_to_the_web_and_writes_nothing_to_a_terminal() {
        for good in ["https://example.org/notes?x=1#y", "http://h"] {
            assert_eq!(good.parse::<DocumentUrl>().unwrap().as_str(), good);
        }
        let long = format!("https://{}", "h".repeat(DocumentUrl::MAX_LEN));
        for bad in
            ["", "https://", "file:///etc/passwd", "javascript:x", "https://a b", "http://\u{1b}[2J", &long]
        {
            assert!(bad.parse::<DocumentUrl>().is_err(), "{bad:?}");
        }
    }
}

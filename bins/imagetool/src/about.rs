//! What is said of an image besides its tree: whose it is, what it was built from, its release notes and build log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use dominator_core::image::{Build, Document, DocumentUrl, Image, ImageName, Package, Provenance};
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource, Piece, Pieces, StoreError};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;
use futures_util::stream;

/// The longest release notes, build log or list of packages, in bytes.
pub(crate) const MAX_TEXT: u64 = 64 * 1024 * 1024;

/// What is said of a new image.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is said of it")]
pub struct AboutOptions {
    /// Users who may change and delete it, besides you
    #[arg(long, value_name = "USER,…", value_delimiter = ',')]
    pub owner_users: Vec<String>,
    /// Groups whose members may
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    pub owner_groups: Vec<String>,
    /// The user in whose place you make it; he may do with it what you may
    #[arg(long, value_name = "USER", default_value = "")]
    pub created_for: String,
    /// Words to find it by
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = tag)]
    pub tags: Vec<(String, String)>,
    /// What changed: a file, which is kept with the image, or where it can be read
    #[arg(long, value_name = "FILE|URL")]
    pub release_notes: Option<String>,
    /// What was said while it was built: a file, or where it can be read
    #[arg(long, value_name = "FILE|URL")]
    pub build_log: Option<String>,
    /// The branch it was built from
    #[arg(long, value_name = "BRANCH", default_value = "")]
    pub branch: String,
    /// The commit it was built from
    #[arg(long, value_name = "COMMIT", default_value = "")]
    pub commit: String,
    /// Where that can be had
    #[arg(long, value_name = "URL", default_value = "")]
    pub git_url: String,
    /// The packages in it: a line each, of name, version and installed size in bytes
    #[arg(long, value_name = "FILE")]
    pub packages: Option<PathBuf>,
    /// The image it was made of
    #[arg(long, value_name = "IMAGE")]
    pub source_image: Option<ImageName>,
}

/// Texts that are kept with an image, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Texts(BTreeMap<ObjectId, Bytes>);

impl AboutOptions {
    /// The image with all that is said of it, and the texts that are kept with it.
    ///
    /// # Errors
    /// [`Failure`], when a file can't be used.
    pub(crate) fn describe(&self, image: Image) -> Result<(Image, Texts), Failure> {
        let mut texts = Texts::default();
        let provenance = Provenance {
            created_for: self.created_for.clone(),
            release_notes: self.release_notes.as_deref().map(|it| texts.document(it)).transpose()?,
            build_log: self.build_log.as_deref().map(|it| texts.document(it)).transpose()?,
            build: Build {
                branch: self.branch.clone(),
                commit_id: self.commit.clone(),
                git_url: self.git_url.clone(),
            },
            packages: self.packages.as_deref().map(packages).transpose()?.unwrap_or_default(),
            source_image: self.source_image.clone(),
        };
        let image = Image {
            owner_users: self.owner_users.clone(),
            owner_groups: self.owner_groups.clone(),
            tags: self.tags.iter().cloned().collect(),
            provenance,
            ..image
        };
        Ok((image, texts))
    }
}

impl Texts {
    /// A file's contents, or an address.
    fn document(&mut self, text: &str) -> Result<Document, Failure> {
        if text.starts_with("https://") || text.starts_with("http://") {
            let url: DocumentUrl = text.parse().during(|| format!("{text} can't be an address"))?;
            return Ok(Document::Url(url));
        }
        let bytes = read(Path::new(text))?;
        let id = ObjectId::of(&bytes);
        self.0.insert(id, bytes.into());
        Ok(Document::Object(id))
    }

    /// Sends those that a server lacks.
    ///
    /// # Errors
    /// [`StoreError`] of the server.
    pub(crate) async fn send(&self, objects: &RemoteObjects) -> Result<(), StoreError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let offers: Vec<_> = self.0.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
        objects.push(&offers, self).await.map(drop)
    }
}

#[async_trait]
impl ObjectSource for Texts {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let mut pieces = Vec::new();
        for id in wanted {
            let bytes = self.0.get(&id).ok_or(StoreError::NotFound { id })?;
            pieces.push(Ok(Piece::Begin { id, size: bytes.len() as u64 }));
            // In parts that fit into a message.
            let parts = (0..bytes.len()).step_by(PART).map(|at| bytes.slice(at..bytes.len().min(at + PART)));
            pieces.extend(parts.map(|part| Ok(Piece::Data(part))));
        }
        Ok(Pieces::new(stream::iter(pieces)))
    }
}

/// How much of a text goes into one piece, in bytes.
const PART: usize = 128 * 1024;

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is written as KEY=VALUE".into()),
    }
}

fn packages(path: &Path) -> Result<Vec<Package>, Failure> {
    let what = || format!("{} is no list of packages", path.display());
    let text = String::from_utf8(read(path)?).during(what)?;
    let package = |(number, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let parts =
            (words.next(), words.next(), words.next().and_then(|size| size.parse().ok()), words.next());
        match parts {
            (Some(name), Some(version), Some(size), None) => {
                Ok(Package { name: name.into(), version: version.into(), size })
            }
            _ => Err(Failure::new(format!(
                "{}: line {} is not a name, a version and a size in bytes",
                path.display(),
                number + 1
            ))),
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(package).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let what = || format!("can't read {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).during(what)?.take(MAX_TEXT + 1).read_to_end(&mut bytes).during(what)?;
    match read as u64 > MAX_TEXT {
        true => Err(Failure::new(format!("{} is longer than {MAX_TEXT} bytes", path.display()))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_packages_is_read_or_its_bad_line_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("packages");
        std::fs::write(&path, "bash 5.2-1 7163904\n\n  ssh\t1:9.2p1  12\n").unwrap();
        let package =
            |name: &str, version: &str, size| Package { name: name.into(), version: version.into(), size };
        assert_eq!(
            packages(&path).unwrap(),
            [package("bash", "5.2-1", 7_163_904), package("ssh", "1:9.2p1", 12)]
        );
        for bad in ["bash", "bash 5", "bash 5 big", "bash 5 1 more", "bash 5 -1"] {
            std::fs::write(&path, format!("ok 1 1\n{bad}\n")).unwrap();
            let said = packages(&path).unwrap_err().to_string();
            assert!(said.contains("line 2"), "{bad}: {said}");
        }
    }

    #[test]
    fn a_document_is_an_address_or_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        std::fs::write(&path, "new").unwrap();
        let mut texts = Texts::default();
        let kept = texts.document(path.to_str().unwrap()).unwrap();
        assert_eq!(kept, Document::Object(ObjectId::of(b"new")));
        assert!(matches!(texts.document("https://example.org/1").unwrap(), Document::Url(_)));
        assert!(texts.document("https://").is_err() && texts.document("/nowhere/notes").is_err());
        assert_eq!(texts.0.len(), 1);
    }
}

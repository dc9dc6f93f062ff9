//! Paths and operations as every tool shows them, so that who reads the output of one can read that of all.

use std::fmt;

use dominator_core::inode::Why;
use dominator_core::path::ImagePath;
use dominator_core::plan::Operation;
use serde::Serialize;

/// A path with what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Where.
    pub path: String,
    /// What is the matter, as a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Remark {
    /// A remark without a word for programs.
    pub fn new(path: &ImagePath, detail: impl Into<String>) -> Self {
        Self { path: path.to_string(), why: None, detail: detail.into() }
    }

    /// The same with one.
    #[must_use]
    pub fn because(self, why: &'static str) -> Self {
        Self { why: Some(why), ..self }
    }

    /// A path that could not be looked at.
    pub fn unknown(path: &ImagePath, why: Why, detail: &str) -> Self {
        let word = match why {
            Why::Changing => "changing",
            Why::Unreadable | _ => "unreadable",
        };
        Self::new(path, format!("{why} ({detail})")).because(word)
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(&self.path)
        } else {
            write!(f, "{}: {}", self.path, self.detail)
        }
    }
}

/// An operation of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is done, as a word for programs.
    pub operation: &'static str,
    /// To which paths.
    pub paths: Vec<String>,
    /// What comes there, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip)]
    text: String,
}

impl From<&Operation> for Step {
    fn from(operation: &Operation) -> Self {
        let (word, detail) = match operation {
            Operation::MakeDirectory { .. } => ("make-directory", None),
            Operation::Put { inode, .. } => ("put", Some(inode.kind_name().to_owned())),
            Operation::Link { target, .. } => ("link", Some(target.to_string())),
            Operation::SetMetadata { inode, .. } => {
                ("set-metadata", Some(format!("mode {}, owner {}:{}", inode.mode, inode.uid, inode.gid)))
            }
            Operation::Delete { .. } => ("delete", None),
            other => ("other", Some(other.to_string())),
        };
        let text = match (operation, &detail) {
            (Operation::SetMetadata { .. }, Some(detail)) => format!("{operation} ({detail})"),
            _ => operation.to_string(),
        };
        let paths = operation.paths().iter().map(ToString::to_string).collect();
        Self { operation: word, paths, detail, text }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

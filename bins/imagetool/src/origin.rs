//! Whose an image is and where it comes from, as `imagetool show` shows it.

use std::io::{self, Write};

use dominator_core::image::{Document, Image};
use serde::Serialize;

/// What is not known of it is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    #[serde(skip_serializing_if = "Option::is_none")]
    created_for: Option<String>,
    owner_users: Vec<String>,
    owner_groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_notes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_log: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_commit_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_git_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_image: Option<String>,
    /// How many are listed.
    packages: usize,
}

impl Origin {
    /// What `image` says of itself.
    pub(crate) fn of(image: &Image) -> Self {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let document = |document: &Option<Document>| document.as_ref().map(ToString::to_string);
        let provenance = &image.provenance;
        Self {
            created_for: known(&provenance.created_for),
            owner_users: image.owner_users.clone(),
            owner_groups: image.owner_groups.clone(),
            release_notes: document(&provenance.release_notes),
            build_log: document(&provenance.build_log),
            build_branch: known(&provenance.build.branch),
            build_commit_id: known(&provenance.build.commit_id),
            build_git_url: known(&provenance.build.git_url),
            source_image: provenance.source_image.as_ref().map(ToString::to_string),
            packages: provenance.packages.len(),
        }
    }

    /// Writes it for people.
    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
        let rows = [
            ("made for", self.created_for.clone()),
            ("owners", list(&self.owner_users)),
            ("groups", list(&self.owner_groups)),
            ("notes", self.release_notes.clone()),
            ("log", self.build_log.clone()),
            ("branch", self.build_branch.clone()),
            ("commit", self.build_commit_id.clone()),
            ("source", self.build_git_url.clone()),
            ("made of", self.source_image.clone()),
            ("packages", (self.packages > 0).then(|| self.packages.to_string())),
        ];
        let printable = |text: String| text.replace(char::is_control, "\u{fffd}");
        let rows = rows.into_iter().filter_map(|(title, text)| text.map(|text| (title, printable(text))));
        rows.into_iter().try_for_each(|(title, text)| writeln!(out, "{title:<8} {text}"))
    }
}

//! What certificates, and lists of revoked ones, say, for people and for programs.
//!
//! Nothing is verified here: each is shown as it claims to be.
#![forbid(unsafe_code)]

mod list;
mod revocations;

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use dominator_core::auth::Scope;
use dominator_pki::keystore::Contents;
use dominator_pki::{Certificate, PkiError, Validity, keystore, rfc3339};
use serde::Serialize;

pub use list::{Currency, Entry, List};
pub use revocations::Revocations;

const SECONDS_A_DAY: u64 = 86_400;

/// Everything asked for: what `--json` prints, and what `docs/schemas/show-cert.json` describes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The certificates, in the order of the files.
    pub certificates: Vec<Shown>,
    /// The lists of revoked certificates, in the order of the files.
    pub lists: Vec<List>,
    /// The files that could not be read.
    pub errors: Vec<Failed>,
}

/// One certificate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The file it is in.
    pub file: String,
    /// Whom it names.
    pub user: String,
    /// The groups, sorted.
    pub groups: Vec<String>,
    /// The methods it claims, in order.
    pub methods: Vec<String>,
    /// The role it claims as a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The machine it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where it grants the methods, when not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Limits>,
    /// The subject alternative names, in order.
    pub alternative_names: Vec<Name>,
    /// Whether it says of itself that it is an authority's.
    pub authority: bool,
    /// The kind of its key.
    pub key: String,
    /// Who has signed it.
    pub signer: Signer,
    /// The issuer's name.
    pub issuer: String,
    /// `0x` and hexadecimal.
    pub serial: String,
    /// The X.509 version.
    pub version: u32,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Whether it is valid now.
    pub standing: Standing,
    /// Whole days until it expires; negative since it has.
    pub days_left: i64,
    /// SHA-256, hexadecimal.
    pub fingerprint: String,
    /// Whether it was taken back, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<bool>,
    /// By what it was taken back, when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
}

/// Where methods are granted.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Tags of machines: a machine must have one of the values of each.
    pub tags: Vec<Tag>,
    /// Directories of images, sorted; none is no limit.
    pub images: Vec<String>,
}

/// A tag and its values.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// The tag's name.
    pub key: String,
    /// Sorted.
    pub values: Vec<String>,
}

/// Who has signed a certificate, by the key and not by the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signer {
    /// It itself: it is a root.
    Itself,
    /// The one that follows it in its file.
    Next,
    /// Somebody who is not in the file.
    Elsewhere,
}

/// A subject alternative name.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// `dns`, `ip`, `uri` or `other`.
    pub kind: &'static str,
    /// The name.
    pub value: String,
}

/// Where a certificate stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its time has not come.
    NotYetValid,
    /// Its time is now.
    Valid,
    /// Its time is over.
    Expired,
}

/// A file that could not be read.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The file.
    pub file: String,
    /// Why, with causes.
    pub error: String,
}

impl Report {
    /// Reads every certificate, and every list of revoked ones, in `files`. A file that can't be read does not keep the others from being shown.
    pub fn of<'a>(
        files: impl IntoIterator<Item = &'a Path>,
        revocations: Option<&Revocations>,
        now: SystemTime,
    ) -> Self {
        let mut report = Self::default();
        for path in files {
            let file = path.display().to_string();
            match keystore::load_contents(path) {
                Ok(Contents { certificates: found, lists }) => {
                    report.lists.extend(lists.iter().map(|list| List::of(list, &file, now)));
                    let next = found.iter().skip(1).map(Some).chain([None]);
                    let shown = found
                        .iter()
                        .zip(next)
                        .map(|(one, next)| Shown::of(one, next, &file, now).judged(one, next, revocations));
                    report.certificates.extend(shown);
                }
                Err(error) => report.errors.push(Failed { error: with_causes(&error), file }),
            }
        }
        report
    }

    /// Whether any of the certificates has expired or was taken back, or a list is overdue.
    pub fn any_ended(&self) -> bool {
        let ended = |shown: &Shown| shown.standing == Standing::Expired || shown.revoked == Some(true);
        let overdue = |list: &List| list.standing == Currency::Overdue;
        self.certificates.iter().any(ended) || self.lists.iter().any(overdue)
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("invariant: strings, numbers and lists are JSON")
    }

    /// The lists and the certificates as text for people.
    pub fn to_text(&self) -> String {
        let lists = self.lists.iter().map(List::to_text);
        lists.chain(self.certificates.iter().map(Shown::to_text)).collect::<Vec<_>>().join("\n")
    }
}

impl Shown {
    fn of(certificate: &Certificate, next: Option<&Certificate>, file: &str, now: SystemTime) -> Self {
        let (claims, validity) = (certificate.unverified_claims(), certificate.validity());
        Self {
            file: file.into(),
            user: claims.user.clone(),
            groups: claims.groups.iter().cloned().collect(),
            methods: claims.methods.iter().map(ToString::to_string).collect(),
            role: claims.role.map(|role| role.name()),
            node: claims.node.as_ref().map(ToString::to_string),
            scope: Limits::of(&claims.scope),
            authority: certificate.is_authority(),
            key: certificate.key_kind(),
            signer: signer(certificate, next),
            alternative_names: certificate
                .alternative_names()
                .iter()
                .map(|name| Name { kind: name.kind(), value: name.to_string() })
                .collect(),
            issuer: certificate.issuer().into(),
            serial: certificate.serial().to_string(),
            version: certificate.version(),
            not_before: rfc3339(validity.not_before),
            not_after: rfc3339(validity.not_after),
            standing: standing(validity, now),
            days_left: days_left(validity, now),
            fingerprint: certificate.fingerprint().to_string(),
            revoked: None,
            revoked_by: None,
        }
    }

    fn judged(
        mut self,
        certificate: &Certificate,
        next: Option<&Certificate>,
        revocations: Option<&Revocations>,
    ) -> Self {
        if let Some(revocations) = revocations {
            let mut issuers = next.into_iter().chain(&revocations.authorities);
            let issuer = issuers.find(|issuer| certificate.is_signed_by(issuer));
            self.revoked_by = revocations.revocation.names(certificate, issuer).map(|by| by.to_string());
            self.revoked = Some(self.revoked_by.is_some());
        }
        self
    }

    fn to_text(&self) -> String {
        let list = |items: &[String]| if items.is_empty() { "none".into() } else { items.join(", ") };
        let names: Vec<String> =
            self.alternative_names.iter().map(|name| format!("{}:{}", name.kind, name.value)).collect();
        let left = match self.standing {
            Standing::Valid => format!("{} days left", self.days_left),
            Standing::NotYetValid => "NOT YET VALID".into(),
            Standing::Expired => {
                format!("EXPIRED {} days ago", self.days_left.unsigned_abs().saturating_sub(1))
            }
        };
        let version = if self.version == 3 { "3" } else { "1 (good for an authority only, not for TLS)" };
        let kind = if self.authority { "an authority" } else { "no authority" };
        let signer = match self.signer {
            Signer::Itself => "signed by itself",
            Signer::Next => "signed by the one that follows",
            Signer::Elsewhere => "its signer is not in the file",
        };
        let revoked = match (self.revoked, &self.revoked_by) {
            (None, _) => "not asked for".into(),
            (Some(_), None) => "no".into(),
            (Some(_), Some(by)) => format!("REVOKED by {by}"),
        };
        let lines = [
            ("user", self.user.clone()),
            ("role", self.role.unwrap_or("none").into()),
            ("node", self.node.clone().unwrap_or_else(|| "none".into())),
            ("scope", self.scope.as_ref().map_or_else(|| "everywhere".into(), Limits::to_text)),
            ("groups", list(&self.groups)),
            ("methods", list(&self.methods)),
            ("names", list(&names)),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            ("kind", format!("{kind}, {}, {signer}", self.key)),
            ("version", version.into()),
            ("valid", format!("{} to {}, {left}", self.not_before, self.not_after)),
            ("fingerprint", format!("sha256:{}", self.fingerprint)),
            ("revoked", revoked),
        ];
        let mut text = format!("{}\n", printable(&self.file));
        for (label, value) in lines {
            writeln!(text, "  {label:<12}{}", printable(&value))
                .expect("invariant: a String takes everything");
        }
        text
    }
}

impl Limits {
    fn of(scope: &Scope) -> Option<Self> {
        let tag = |(key, values): (&String, &std::collections::BTreeSet<String>)| Tag {
            key: key.clone(),
            values: values.iter().cloned().collect(),
        };
        let limits = Self {
            tags: scope.tags.iter().map(tag).collect(),
            images: scope.directories.iter().cloned().collect(),
        };
        (*scope != Scope::default()).then_some(limits)
    }

    fn to_text(&self) -> String {
        let tags =
            self.tags.iter().map(|tag| format!("machines with {} = {}", tag.key, tag.values.join(" or ")));
        let images = self.images.iter().map(|directory| format!("images in {directory}/"));
        tags.chain(images).collect::<Vec<_>>().join(", ")
    }
}

fn signer(certificate: &Certificate, next: Option<&Certificate>) -> Signer {
    if certificate.is_signed_by(certificate) {
        Signer::Itself
    } else if next.is_some_and(|next| certificate.is_signed_by(next)) {
        Signer::Next
    } else {
        Signer::Elsewhere
    }
}

fn standing(validity: Validity, now: SystemTime) -> Standing {
    if now > validity.not_after {
        Standing::Expired
    } else if now < validity.not_before {
        Standing::NotYetValid
    } else {
        Standing::Valid
    }
}

fn days_left(validity: Validity, now: SystemTime) -> i64 {
    let days = |seconds: u64| i64::try_from(seconds / SECONDS_A_DAY).unwrap_or(i64::MAX);
    match validity.remaining(now) {
        Some(left) => days(left.as_secs()),
        None => -1 - now.duration_since(validity.not_after).map_or(0, |over| days(over.as_secs())),
    }
}

/// A certificate's author must not get to write on the terminal whatever he likes.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An error with its causes, on one line.
pub fn with_causes(error: &PkiError) -> String {
    let first: Option<&dyn std::error::Error> = std::error::Error::source(error);
    let causes = std::iter::successors(first, |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn days_are_counted_down_and_below_zero_once_over() {
        let at = |hours: u64| UNIX_EPOCH + Duration::from_secs(hours * 3600);
        let validity = Validity { not_before: at(0), not_after: at(100 * 24) };
        let cases = [
            (0, 100),
            (1, 99),
            (99 * 24, 1),
            (99 * 24 + 1, 0),
            (100 * 24, 0),
            (100 * 24 + 1, -1),
            (102 * 24, -3),
        ];
        for (hours, days) in cases {
            assert_eq!(days_left(validity, at(hours)), days, "{hours}");
        }
        assert_eq!(standing(validity, at(100 * 24)), Standing::Valid);
        assert_eq!(standing(validity, at(100 * 24 + 1)), Standing::Expired);
    }

    #[test]
    fn a_certificate_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}

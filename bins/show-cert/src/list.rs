//! Lists of revoked certificates.

use std::fmt::Write;
use std::time::SystemTime;

use dominator_pki::{Serial, ShownEntry, ShownList, Validity, rfc3339};
use serde::Serialize;

use crate::{days_left, printable};

/// One list of revoked certificates.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct List {
    /// The file it is in.
    pub file: String,
    /// The name of the authority that takes certificates back with it.
    pub issuer: String,
    /// Its number: decimal, or a longer one as `0x` and hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// When it was made. RFC 3339.
    pub this_update: String,
    /// When there should be a newer one. RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_update: Option<String>,
    /// Whether it is current.
    pub standing: Currency,
    /// Whole days until there should be a newer one; negative since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
    /// The certificates on it, in its order.
    pub revoked: Vec<Entry>,
}

/// A certificate on a list.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `0x` and hexadecimal.
    pub serial: String,
    /// Since when. RFC 3339.
    pub since: String,
    /// Why, unless no reason of a whole list is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Where a list stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Currency {
    /// Its time has not come.
    NotYetValid,
    /// It is the one that counts now.
    Current,
    /// There should be a newer one, or it does not say when that is due.
    Overdue,
}

impl List {
    pub(crate) fn of(list: &ShownList, file: &str, now: SystemTime) -> Self {
        let validity = |next| Validity { not_before: list.made, not_after: next };
        let standing = match list.next {
            _ if now < list.made => Currency::NotYetValid,
            Some(next) if now <= next => Currency::Current,
            Some(_) | None => Currency::Overdue,
        };
        Self {
            file: file.into(),
            issuer: list.issuer.clone(),
            number: list.number.as_ref().map(number),
            this_update: rfc3339(list.made),
            next_update: list.next.map(rfc3339),
            standing,
            days_left: list.next.map(|next| days_left(validity(next), now)),
            revoked: list.revoked.iter().map(Entry::of).collect(),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let next = self.next_update.as_deref().unwrap_or("no time");
        let days = self.days_left.unwrap_or_default();
        let current = match self.standing {
            Currency::Current => format!("until {next}, {days} days left"),
            Currency::NotYetValid => format!("NOT YET, until {next}"),
            Currency::Overdue if self.next_update.is_none() => "OVERDUE: it does not say until when".into(),
            Currency::Overdue => {
                format!("until {next}, OVERDUE for {} days", days.unsigned_abs().saturating_sub(1))
            }
        };
        let lines = [
            ("list of", self.issuer.clone()),
            ("number", self.number.clone().unwrap_or_else(|| "none".into())),
            ("made", self.this_update.clone()),
            ("current", current),
            ("revoked", format!("{} certificates", self.revoked.len())),
        ];
        let mut text = format!("{}\n", printable(&self.file));
        for (label, value) in lines {
            writeln!(text, "  {label:<12}{}", printable(&value))
                .expect("invariant: a String takes everything");
        }
        text.extend(self.revoked.iter().map(Entry::to_text));
        text
    }
}

impl Entry {
    fn of(entry: &ShownEntry) -> Self {
        Self {
            serial: entry.serial.to_string(),
            since: rfc3339(entry.since),
            reason: entry.reason.map(|reason| reason.name()),
        }
    }

    fn to_text(&self) -> String {
        let reason = self.reason.unwrap_or("for a reason that is not known");
        format!("    {}  since {}, {reason}\n", self.serial, self.since)
    }
}

/// As `make-cert` counts them.
fn number(number: &Serial) -> String {
    let bytes = number.as_bytes();
    match bytes.len() <= size_of::<u128>() {
        true => bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte)).to_string(),
        false => number.to_string(),
    }
}

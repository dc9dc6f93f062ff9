//! How machines stand, as shown.

use std::io::{self, Write};
use std::time::SystemTime;

use dominator_daemon::report::Show;
use dominator_daemon::value::{ago, rfc3339};
use dominator_rpc::controller::SubInfo;
use serde::Serialize;

/// Names of machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Subs {
    subs: Vec<String>,
}

impl Subs {
    pub(crate) fn of(subs: Vec<String>) -> Self {
        Self { subs }
    }
}

impl Show for Subs {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.subs.iter().try_for_each(|name| writeln!(out, "{name}"))
    }
}

/// How machines stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Infos {
    subs: Vec<Info>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Info {
    hostname: String,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heard: Option<String>,
    /// When it was last heard of, for people.
    #[serde(skip)]
    heard: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    planned_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_image: Option<String>,
    unknown_count: u64,
}

impl Infos {
    pub(crate) fn of(infos: &[SubInfo]) -> Self {
        let now = SystemTime::now();
        let info = |info: &SubInfo| Info {
            hostname: info.hostname.clone(),
            status: info.status.text().into(),
            detail: info.detail.clone(),
            since: rfc3339(info.since),
            last_heard: info.last_heard.map(rfc3339),
            heard: info.last_heard.map_or_else(|| "never".into(), |time| ago(time, now)),
            required_image: info.required_image.as_ref().map(ToString::to_string),
            planned_image: info.planned_image.as_ref().map(ToString::to_string),
            last_image: info.last_image.as_ref().map(ToString::to_string),
            unknown_count: info.unknown,
        };
        Self { subs: infos.iter().map(info).collect() }
    }
}

impl Show for Infos {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for info in &self.subs {
            let Info { hostname, status, since, heard, .. } = info;
            writeln!(out, "{hostname}: {status} since {since}, last heard {heard}")?;
            if !info.detail.is_empty() {
                writeln!(out, "    {}", info.detail)?;
            }
            let images = [
                ("must be", &info.required_image),
                ("will be", &info.planned_image),
                ("was made", &info.last_image),
            ];
            for (words, image) in images {
                if let Some(image) = image {
                    writeln!(out, "    {words} {image}")?;
                }
            }
            if info.unknown_count > 0 {
                writeln!(out, "    {} paths could not be looked at", info.unknown_count)?;
            }
        }
        Ok(())
    }
}

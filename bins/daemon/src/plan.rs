//! A plan as every tool shows it: what is new, changed and deleted, which services are concerned, what stays as it is.

use std::io::{self, Write};
use std::time::Duration;

use dominator_core::plan::{PlanSummary, PlannedAction};
use serde::Serialize;

use crate::value::HumanBytes;

/// The summary of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanShown {
    /// How many operations there are.
    pub operations: u64,
    directories: u64,
    files: u64,
    symlinks: u64,
    specials: u64,
    links: u64,
    metadata: u64,
    deletions: u64,
    bytes: u64,
    services: Vec<ActionShown>,
    kept: Vec<String>,
    protected: Vec<String>,
    window_seconds: f64,
}

/// What is done to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ActionShown {
    service: String,
    action: String,
}

impl From<&PlanSummary> for PlanShown {
    fn from(summary: &PlanSummary) -> Self {
        let action = |PlannedAction { service, action }: &PlannedAction| ActionShown {
            service: service.clone(),
            action: action.clone(),
        };
        Self {
            operations: summary.operations(),
            directories: summary.directories,
            files: summary.files,
            symlinks: summary.symlinks,
            specials: summary.specials,
            links: summary.links,
            metadata: summary.metadata,
            deletions: summary.deletions,
            bytes: summary.bytes,
            services: summary.services.iter().map(action).collect(),
            kept: summary.kept.iter().map(ToString::to_string).collect(),
            protected: summary.protected.iter().map(ToString::to_string).collect(),
            window_seconds: summary.window.as_secs_f64(),
        }
    }
}

impl PlanShown {
    /// Writes it for people before it is carried out, a line for each thing there is to say.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.text_of_past(out)?;
        if self.operations > 0 {
            let window = Duration::try_from_secs_f64(self.window_seconds).unwrap_or_default();
            writeln!(out, "window      paths change within about {window:.1?}")?;
        }
        Ok(())
    }

    /// The same of a plan that was carried out: how long that took is known better than by the plan.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text_of_past(&self, out: &mut dyn Write) -> io::Result<()> {
        let line = |out: &mut dyn Write, title: &str, words: &str| match words {
            "" => Ok(()),
            _ => writeln!(out, "{title:<11} {words}"),
        };
        line(out, "new", &self.whats_new())?;
        if self.metadata > 0 {
            line(out, "changed", &format!("metadata of {}", self.metadata))?;
        }
        line(out, "deleted", &counted([(self.deletions, "path", "paths")]))?;
        let services = self.services.iter().map(|action| format!("{} {}", action.action, action.service));
        line(out, "services", &services.collect::<Vec<_>>().join(", "))?;
        self.kept.iter().try_for_each(|path| {
            line(out, "kept", &format!("{path}: it holds what is not looked at, or is mounted on"))
        })?;
        line(out, "protected", &self.protected.join(", "))
    }

    fn whats_new(&self) -> String {
        let files = match self.files {
            0 => String::new(),
            count => format!("{} of {}", counted([(count, "file", "files")]), HumanBytes(self.bytes)),
        };
        let others = counted([
            (self.directories, "directory", "directories"),
            (self.symlinks, "symbolic link", "symbolic links"),
            (self.links, "hard link", "hard links"),
            (self.specials, "device or pipe", "devices and pipes"),
        ]);
        let parts: Vec<_> = [files, others].into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(", ")
    }
}

/// How many of each there are, of those there are any of.
fn counted<const N: usize>(counts: [(u64, &str, &str); N]) -> String {
    let words = |(count, one, many): (u64, &str, &str)| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {many}")),
    };
    counts.into_iter().filter_map(words).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::path::ImagePath;

    fn text(summary: &PlanSummary) -> String {
        let mut out = Vec::new();
        PlanShown::from(summary).text(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plan_is_a_few_lines_and_says_nothing_of_what_is_not_in_it() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let action =
            |service: &str, action: &str| PlannedAction { service: service.into(), action: action.into() };
        let summary = PlanSummary {
            files: 12,
            directories: 1,
            bytes: 2048,
            metadata: 3,
            deletions: 7,
            window: Duration::from_micros(460),
            ..PlanSummary::default()
        }
        .with_services([action("nginx", "stop"), action("nginx", "start")])
        .with_paths(&[path("/opt")], &[path("/etc/key"), path("/var/lib/subd")]);
        assert_eq!(
            text(&summary),
            "new         12 files of 2.00 KiB, 1 directory\n\
             changed     metadata of 3\n\
             deleted     7 paths\n\
             services    stop nginx, start nginx\n\
             kept        /opt: it holds what is not looked at, or is mounted on\n\
             protected   /etc/key, /var/lib/subd\n\
             window      paths change within about 460.0µs\n"
        );
        assert_eq!(text(&PlanSummary::default()), "");
    }
}

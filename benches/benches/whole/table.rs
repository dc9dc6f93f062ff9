//! What was seen, for people as a table of Markdown, and as JSON.

use std::fmt;

use serde::Serialize;

use crate::contender::Series;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// What was promised, and whether it holds.
    pub(crate) bars: Vec<Bar>,
    /// How long everything took, by corpus.
    pub(crate) times: Vec<(String, Vec<Series>)>,
}

/// A promise.
#[derive(Debug, Serialize)]
pub(crate) struct Bar {
    work: String,
    seen: String,
    against: String,
    figure: f64,
    /// The same of the time of all cores: other users of a machine change it less.
    cpu: Option<f64>,
    limit: f64,
    unit: Unit,
}

/// What the figure of a [`Bar`] is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Unit {
    /// So many times what it is compared with.
    Times,
    /// Mebibytes.
    Mebibytes,
    /// Bytes.
    Bytes,
}

impl Bar {
    /// `ours` may take at most `limit` times as long as `yardstick`.
    pub(crate) fn ratio(work: &str, ours: &Series, yardstick: &Series, limit: f64) -> Self {
        Self {
            work: work.into(),
            seen: format!("{}: {}", ours.name, Seconds(ours.median())),
            against: format!("{}: {}", yardstick.name, Seconds(yardstick.median())),
            figure: ours.median() / yardstick.median(),
            cpu: Some(ours.cpu_median() / yardstick.cpu_median()),
            limit,
            unit: Unit::Times,
        }
    }

    /// `figure` may be at most `limit`.
    pub(crate) fn at_most(work: &str, seen: String, figure: f64, limit: f64, unit: Unit) -> Self {
        Self { work: work.into(), seen, against: String::new(), figure, cpu: None, limit, unit }
    }

    fn holds(&self) -> bool {
        self.figure <= self.limit
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| work | seen | against | figure | bar | holds | CPU time |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for bar in &self.bars {
            let (figure, limit) = (bar.unit.show(bar.figure), bar.unit.show(bar.limit));
            let holds = if bar.holds() { "yes" } else { "**no**" };
            writeln!(
                f,
                "| {} | {} | {} | {figure} | ≤ {limit} | {holds} |",
                bar.work, bar.seen, bar.against
            )?;
        }
        for (corpus, times) in &self.times {
            writeln!(f, "\n| {corpus} | median | from–to | CPU |\n|---|---|---|---|")?;
            for series in times {
                let (shortest, longest) = series.extremes();
                let (median, cpu) = (Seconds(series.median()), Seconds(series.cpu_median()));
                let (from, to) = (Seconds(shortest), Seconds(longest));
                writeln!(f, "| {} | {median} | {from}–{to} | {cpu} |", series.name)?;
            }
        }
        Ok(())
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Times => format!("{figure:.2} ×"),
            Self::Mebibytes => format!("{figure:.1} MiB"),
            Self::Bytes => format!("{figure:.1} B"),
        }
    }
}

struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1.0 { write!(f, "{:.1} ms", self.0 * 1e3) } else { write!(f, "{:.3} s", self.0) }
    }
}

//! What was seen, for people as a table of Markdown, and as JSON.

use std::fmt;

use serde::Serialize;

use crate::contender::Series;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What was promised, and whether it holds.
    pub bars: Vec<Bar>,
    /// How long everything took, by corpus.
    pub times: Vec<(String, Vec<Series>)>,
}

/// A promise.
#[derive(Debug, Serialize)]
pub struct Bar {
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
pub enum Unit {
    /// So many times what it is compared with.
    Times,
    /// Seconds.
    Seconds,
    /// Mebibytes.
    Mebibytes,
    /// Bytes.
    Bytes,
}

impl Bar {
    /// `ours` may take at most `limit` times as long as all `yardsticks` one after the other.
    pub fn ratio(work: &str, ours: &Series, yardsticks: &[&Series], limit: f64) -> Self {
        let shown = |series: &Series| format!("{}: {}", series.name, Seconds(series.median()));
        let sum = |of: fn(&Series) -> f64| yardsticks.iter().map(|series| of(series)).sum::<f64>();
        Self {
            work: work.into(),
            seen: shown(ours),
            against: yardsticks.iter().map(|series| shown(series)).collect::<Vec<_>>().join(" + "),
            figure: ours.median() / sum(Series::median),
            cpu: Some(ours.cpu_median() / sum(Series::cpu_median)).filter(|ratio| ratio.is_finite()),
            limit,
            unit: Unit::Times,
        }
    }

    /// `figure` may be at most `limit`.
    pub fn at_most(work: &str, seen: String, figure: f64, limit: f64, unit: Unit) -> Self {
        Self { work: work.into(), seen, against: String::new(), figure, cpu: None, limit, unit }
    }

    fn holds(&self) -> bool {
        self.figure <= self.limit
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| work | seen | against | figure | bar | holds |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
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
                let median = Seconds(series.median());
                let cpu = if series.cpu.is_empty() {
                    String::new()
                } else {
                    Seconds(series.cpu_median()).to_string()
                };
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
            Self::Seconds => Seconds(figure).to_string(),
            Self::Mebibytes => format!("{figure:.1} MiB"),
            Self::Bytes => format!("{figure:.1} B"),
        }
    }
}

struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds < 1e-6 => write!(f, "{:.0} ns", seconds * 1e9),
            seconds if seconds < 1e-3 => write!(f, "{:.1} µs", seconds * 1e6),
            seconds if seconds < 1.0 => write!(f, "{:.1} ms", seconds * 1e3),
            seconds => write!(f, "{seconds:.3} s"),
        }
    }
}

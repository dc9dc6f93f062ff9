//! How far reading is, for people who wait.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use dominator_fs::scan::Progress;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// Shows how far a scan is, for as long as it lives; only when standard error is a terminal.
pub(crate) struct Watching(ProgressBar);

impl Watching {
    /// Shows what `progress` counts.
    pub(crate) fn scan(label: &'static str, progress: Arc<Progress>) -> Self {
        let counted = move |_: &ProgressState, out: &mut dyn Write| {
            let (files, bytes) = (HumanCount(progress.files()), HumanBytes(progress.bytes()));
            // A progress line that can't be written is no loss.
            write!(out, "{files} files, {bytes}").ok();
        };
        let style = style("{spinner} {msg} {counted} {elapsed}").with_key("counted", counted);
        Self::with(label, style)
    }

    /// Shows that something goes on.
    pub(crate) fn work(label: &'static str) -> Self {
        Self::with(label, style("{spinner} {msg} {elapsed}"))
    }

    fn with(label: &'static str, style: ProgressStyle) -> Self {
        let bar = ProgressBar::new_spinner().with_style(style).with_message(label);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

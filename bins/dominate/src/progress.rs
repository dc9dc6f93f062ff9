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
        Self::with(label, "{spinner} {msg} {counted} {elapsed}", Some(counted))
    }

    /// Shows that something goes on.
    pub(crate) fn work(label: &'static str) -> Self {
        Self::with(label, "{spinner} {msg} {elapsed}", None::<fn(&ProgressState, &mut dyn Write)>)
    }

    fn with<F>(label: &'static str, template: &str, counted: Option<F>) -> Self
    where
        F: Fn(&ProgressState, &mut dyn Write) + Send + Sync + Clone + 'static,
    {
        let mut style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        if let Some(counted) = counted {
            style = style.with_key("counted", counted);
        }
        let bar = ProgressBar::new_spinner().with_style(style).with_message(label);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

//! A progress line on standard error: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::to_stderr;

/// How often a plain line is written where no terminal shows a bar.
const EVERY: Duration = Duration::from_secs(5);

/// Progress of one stage.
pub struct Progress {
    stage: &'static str,
    bar: Option<ProgressBar>,
    of: usize,
    said: Option<Instant>,
}

impl Progress {
    /// A stage of `of` parts.
    pub fn new(stage: &'static str, of: usize) -> Self {
        let shown = std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            let bar = ProgressBar::new(of as u64);
            let style =
                ProgressStyle::with_template("tla: {msg} [{bar:24}] {pos}/{len} {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(stage);
            bar
        });
        Self { stage, bar, of, said: None }
    }

    /// `done` parts are finished; `note` says how it goes.
    pub fn at(&mut self, done: usize, note: &str) {
        let text = match note.is_empty() {
            true => self.stage.to_owned(),
            false => format!("{}: {note}", self.stage),
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.set_position(done as u64);
            if done >= self.of {
                bar.finish();
            }
            return;
        }
        let due = self.said.is_none_or(|at| at.elapsed() >= EVERY) || done >= self.of;
        if due {
            self.said = Some(Instant::now());
            to_stderr(&format!("{text} ({done}/{})", self.of));
        }
    }
}

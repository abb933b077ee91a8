//! `tla report`: the page that tells of a run.

use std::{fmt, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    CliError, Output, Verdict, files,
    run_report::{REPORT, evaluation, fields, story},
};
use crate::{
    report::{
        page::{Beside, page},
        scale::{duration, figure},
        story::Summary,
    },
    train::{
        journal::FILE_NAME,
        state::{NEXT, STATE},
    },
};

/// Write a run's report: one page of HTML with its curves and answers, and the run in a few numbers
///
/// The page needs nothing beside it and fetches nothing. A run that goes on, or was killed, is told
/// as far as it came.
#[derive(Args)]
pub struct Report {
    /// Folder of the run: what `tla train` was given as --run, or its --out with .run appended
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// The page to write [default: report.html in the run's folder]
    #[arg(short, long, value_name = "HTML")]
    output: Option<PathBuf>,
    /// Show this evaluation of the adapter too: what `tla eval --json` printed
    #[arg(long, value_name = "JSON")]
    eval: Option<PathBuf>,
    /// The adapter to show [default: the one that the journal names, if it is there]
    #[arg(long, value_name = "A.tla")]
    adapter: Option<PathBuf>,
}

impl Report {
    /// Runs the command.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let story = story(&self.run)?;
        let named = story.end.as_ref().and_then(|end| end.adapter.as_ref()).map(PathBuf::from);
        let found = named.filter(|path| {
            let there = path.is_file();
            if !there && self.adapter.is_none() {
                out.say(format_args!(
                    "{}, which the journal names, is not there and is left out. Name it with --adapter",
                    path.display()
                ));
            }
            there
        });
        let adapter = self.adapter.clone().or(found);
        let shown = adapter.as_deref().map(fields).transpose()?;
        let of = adapter.as_deref().zip(shown.as_ref());
        let eval = self.eval.as_deref().map(|path| evaluation(path, of)).transpose()?;
        let output = self.output.clone().unwrap_or_else(|| self.run.join(REPORT));
        let of_run = [FILE_NAME, STATE, NEXT].map(|name| Some(self.run.join(name)));
        let inputs = of_run.into_iter().chain([self.eval.clone(), adapter]);
        files::check_output(&output, &inputs.flatten().collect::<Vec<_>>())?;
        if story.torn {
            out.say("the journal's last line was cut short and is left out");
        }
        let beside = Beside { eval: eval.as_ref(), adapter: shown.as_ref() };
        files::write(&output, page(&story, beside).as_bytes())?;
        out.report(&Told { report: output, summary: story.summary() })?;
        Ok(Verdict::Yes)
    }
}

/// The report's path and the run in a few numbers.
#[derive(Serialize)]
struct Told {
    report: PathBuf,
    #[serde(flatten)]
    summary: Summary,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { steps, steps_planned, .. } = self.summary;
        writeln!(f, "{}", self.report.display())?;
        write!(f, "{steps} of {steps_planned} steps, ")?;
        match &self.summary.reason {
            Some(reason) => writeln!(f, "{reason}")?,
            None => writeln!(f, "not over or killed")?,
        }
        if let (Some(first), Some(best), Some(last)) =
            (self.summary.first, self.summary.best, self.summary.last)
        {
            write!(
                f,
                "mean reward: {} at first, {} at last, ",
                figure(first.reward),
                figure(last.reward)
            )?;
            writeln!(f, "best {} at step {}", figure(best.reward), best.step)?;
        }
        if let Some(share) = self.summary.groups_without_variance_share {
            writeln!(f, "groups without variance: {:.1} %", 100.0 * share)?;
        }
        if self.summary.restores > 0 {
            writeln!(f, "fell back to its best state: {} times", self.summary.restores)?;
        }
        if steps == 0 {
            return Ok(());
        }
        let phases = self.summary.seconds_by_phase.iter();
        let phases: Vec<String> = phases
            .map(|(name, seconds)| format!("{name} {}", duration(seconds.as_f64().unwrap_or(0.0))))
            .collect();
        writeln!(f, "time: {} ({})", duration(self.summary.seconds), phases.join(", "))
    }
}

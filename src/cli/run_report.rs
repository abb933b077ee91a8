//! The reports of a run: TensorBoard's event file while it goes, `report.html` when it is over.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{CliError, files, output::to_stderr, show};
use crate::{
    eval::report::EvalReport,
    format::Adapter,
    report::{
        page::{Beside, page},
        story::Story,
        tensorboard::EventFile,
    },
    train::{
        fit::Event,
        journal::{FILE_NAME, JournalError, Line, Record, Step, read},
    },
};

/// The report's name in a run folder.
pub const REPORT: &str = "report.html";

/// Why a run could not be reported.
#[derive(Debug, Error)]
pub enum RunReportError {
    /// A folder without a journal.
    #[error(
        "{} has no {FILE_NAME}. Give the folder of a run of `tla train`: its --run, or its --out with .run \
         appended",
        folder.display()
    )]
    NoJournal {
        /// The folder.
        folder: PathBuf,
    },
    /// A journal that cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal that tells of no run.
    #[error(
        "{} does not begin with a start line, so it tells of no run. Give the folder of a run of \
         `tla train`",
        journal.display()
    )]
    NoRun {
        /// The journal.
        journal: PathBuf,
    },
    /// A file that should be an evaluation.
    #[error("{} is no evaluation: {source}. Give what `tla eval --json` printed, with one \
         adapter at most", path.display())]
    Evaluation {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// An evaluation that names no adapter.
    #[error(
        "{} does not say by its checksum which adapter it is of. Evaluate again with `tla eval --adapter \
         A.tla --json`",
        path.display()
    )]
    OfNoAdapter {
        /// The file.
        path: PathBuf,
    },
    /// An evaluation without the adapter it could be held against.
    #[error(
        "{} is of the adapter with checksum {found}, and the run's adapter is not there to be compared. \
         Name it with --adapter",
        path.display()
    )]
    NothingToCompare {
        /// The file.
        path: PathBuf,
        /// The checksum it names.
        found: String,
    },
    /// An evaluation of another adapter.
    #[error(
        "{} is of the adapter with checksum {found}, and that of {} is {expected}. Evaluate that one, or \
         give the evaluation of it",
        path.display(),
        adapter.display()
    )]
    OfAnotherAdapter {
        /// The file.
        path: PathBuf,
        /// The checksum it names.
        found: String,
        /// The adapter that is shown.
        adapter: PathBuf,
        /// Its checksum.
        expected: String,
    },
}

/// What a run's journal tells.
pub fn story(folder: &Path) -> Result<Story, CliError> {
    let journal = folder.join(FILE_NAME);
    if !journal.is_file() {
        return Err(RunReportError::NoJournal { folder: folder.into() }.into());
    }
    let record: Record = read(&journal).map_err(RunReportError::from)?;
    Story::of(&record).map_err(|_| RunReportError::NoRun { journal }.into())
}

/// An evaluation from the file that holds it, if it is of `shown`: an adapter and its fields.
pub fn evaluation(
    path: &Path,
    shown: Option<(&Path, &Map<String, Value>)>,
) -> Result<EvalReport, CliError> {
    let bytes = files::read(path)?;
    let report: EvalReport = serde_json::from_slice(&bytes)
        .map_err(|source| RunReportError::Evaluation { path: path.into(), source })?;
    let path = path.to_owned();
    let Some(found) = report.checksum.clone() else {
        return Err(RunReportError::OfNoAdapter { path }.into());
    };
    let Some((adapter, fields)) = shown else {
        return Err(RunReportError::NothingToCompare { path, found }.into());
    };
    let expected = fields.get("checksum").and_then(Value::as_str).unwrap_or_default().to_owned();
    if found != expected {
        let adapter = adapter.to_owned();
        return Err(RunReportError::OfAnotherAdapter { path, found, adapter, expected }.into());
    }
    Ok(report)
}

/// An adapter's fields, as `tla show --json` prints them.
pub fn fields(path: &Path) -> Result<Map<String, Value>, CliError> {
    let bytes = files::read(path)?;
    let adapter = Adapter::decode(&bytes)
        .map_err(|source| CliError::Adapter { path: path.into(), source })?;
    Ok(show::fields(&adapter))
}

/// Watches a run and reports it. A report that cannot be written is told of, and the run goes on: the
/// journal has everything, and `tla report` makes the page from it.
pub struct Reporter {
    folder: PathBuf,
    events: Events,
}

/// An event file begins with the first step: a run that never gets there leaves none.
enum Events {
    None,
    Open(EventFile),
    Lost,
}

impl Reporter {
    /// Reports the run in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), events: Events::None }
    }

    /// Takes in what happens.
    pub fn hear(&mut self, event: Event<'_>) {
        if let Event::Training(Line::Step(step), v, _) = event {
            self.step(step, v);
        }
    }

    fn step(&mut self, step: &Step, v: &[f32]) {
        let file = match &mut self.events {
            Events::Lost => return,
            Events::Open(file) => Ok(file),
            Events::None => match EventFile::create(&self.folder, step.step) {
                Ok(file) => {
                    self.events = Events::Open(file);
                    return self.step(step, v);
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = file.and_then(|file| file.step(step, v)) {
            to_stderr(&format!("{error}. TensorBoard sees no further step of this run"));
            self.events = Events::Lost;
        }
    }

    /// The run is over and its journal complete. `adapter` is what came of it.
    pub fn conclude(self, adapter: Option<&Path>) {
        let written = story(&self.folder).and_then(|story| {
            let adapter = adapter.map(fields).transpose()?;
            let beside = Beside { eval: None, adapter: adapter.as_ref() };
            Ok(files::write(&self.folder.join(REPORT), page(&story, beside).as_bytes())?)
        });
        if let Err(error) = written {
            to_stderr(&format!("the report could not be written: {error}"));
        }
    }
}

//! The journal of a run: JSON Lines, one self-contained object a line.
//!
//! Every line is one write of a whole line, so a run that is killed leaves a journal that can be
//! read and says how far it came. A reader accepts only lines that end in a line feed; a last
//! line cut short by a crash is reported as torn and is no line. A number that is NaN or infinite is
//! refused with the field's name: JSON would turn it into `null` in silence.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The journal's name in a run folder.
pub const FILE_NAME: &str = "journal.jsonl";
/// The version of the lines, in every `start` line.
pub const VERSION: u32 = 1;
/// Longest accepted line when reading, in bytes.
pub const MAX_LINE: u64 = 1 << 20;

/// Why a journal could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused.
    #[error("cannot {action} {}: {source}. Check the path and free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A new run may not overwrite an old one.
    #[error("{} exists already. Choose another run folder with --run, or delete this one", path.display())]
    Exists {
        /// The journal.
        path: PathBuf,
    },
    /// A number is NaN or infinite.
    #[error(
        "`{field}` of the {kind} line{step} is not a finite number. The run has diverged, \
         lower the learning rate"
    )]
    NotFinite {
        /// Which kind of line.
        kind: String,
        /// The field.
        field: String,
        /// ` N`, the step's number, or nothing.
        step: String,
    },
    /// The line cannot be written as JSON.
    #[error("a journal line cannot be written as JSON: {source}. Report this as a bug")]
    Json {
        /// What the writer said.
        source: serde_json::Error,
    },
    /// A whole line of a journal is not one.
    #[error("{}, line {line} is no journal line: {reason}. Restore the file", path.display())]
    Line {
        /// The journal.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// One line; `kind` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A run begins.
    Start(Start),
    /// Where the update lives.
    Placement(Placement),
    /// One step of training.
    Step(Step),
    /// The run is over.
    End(End),
}

/// What is trained, on what and how: `{"kind": "start", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`].
    pub version: u32,
    /// Version of this program.
    pub program: String,
    /// The model's folder.
    pub model: String,
    /// The base digest, in hexadecimal.
    pub base_digest: String,
    /// The dataset.
    pub data: String,
    /// The reward, by the name it was chosen by.
    #[serde(default)]
    pub reward: String,
    /// The text questions were put in, `{question}` standing for them.
    #[serde(default)]
    pub prompt: String,
    /// The system message, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Problems in it.
    pub problems: u64,
    /// Seed of the run: order of the problems and samples.
    pub seed: u64,
    /// Steps planned.
    pub steps: u64,
    /// Problems, and so groups, in a step.
    pub problems_per_step: u64,
    /// Completions sampled for each.
    pub samples_per_problem: u64,
    /// Longest completion, in tokens.
    pub max_tokens: u64,
    /// Sampling temperature.
    pub temperature: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradient steps per batch of answers.
    pub updates: u64,
    /// Ratios were clipped to 1 ± this.
    pub clip: f64,
    /// Weight of the divergence from the base.
    pub kl: f64,
    /// Batches of answers the gradient was to be measured on before training.
    pub survey: u64,
}

/// Where the update lives and why: `{"kind": "placement", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Roles that are adapted, by name.
    pub roles: Vec<String>,
    /// First layer.
    pub first_layer: u16,
    /// Number of layers, 0 for all.
    pub layers: u16,
    /// Modules that come to.
    pub modules: u64,
    /// Rank r.
    pub rank: u16,
    /// Numbers in a group.
    pub width: u16,
    /// Groups.
    pub groups: u16,
    /// Numbers trained in all.
    pub parameters: u64,
    /// Seed of the projection.
    pub seed: u64,
    /// Seeds that were compared; absent if the seed was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds_searched: Option<u64>,
    /// Share of the gradient's energy in these modules; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_share: Option<f64>,
    /// Share of the modules' energy the trained directions capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<f64>,
    /// Signal-to-noise ratio of the gradient these shares were computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snr: Option<f64>,
}

/// One step: `{"kind": "step", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 1.
    pub step: u64,
    /// Wall clock time it took.
    pub seconds: f64,
    /// The part of it that sampling took.
    pub rollout_seconds: f64,
    /// Mean reward of all completions.
    pub reward_mean: f64,
    /// Groups sampled.
    pub groups: u64,
    /// Groups whose rewards were all equal, which have no gradient.
    pub groups_without_variance: u64,
    /// Completion tokens sampled.
    pub tokens: u64,
    /// Mean length of a completion, in tokens.
    pub completion_length_mean: f64,
    /// The loss before the update.
    pub loss: f64,
    /// Euclidean norm of dL/dv.
    pub grad_norm: f64,
    /// Euclidean norm of v after the update.
    pub v_norm: f64,
    /// Largest |log-probability when sampled − log-probability when differentiated|.
    pub logprob_gap: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
}

/// How it ended: `{"kind": "end", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Steps done.
    pub steps: u64,
    /// Wall clock time of this run.
    pub seconds: f64,
    /// `finished`, or what went wrong.
    pub reason: String,
    /// The adapter that was written, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Starts the journal of a new run; the run folder is made if need be. An existing journal is
    /// never overwritten.
    pub fn create(run_folder: &Path) -> Result<Self, JournalError> {
        std::fs::create_dir_all(run_folder).map_err(|source| JournalError::Io {
            action: "make",
            path: run_folder.to_path_buf(),
            source,
        })?;
        let path = run_folder.join(FILE_NAME);
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(JournalError::Exists { path })
            }
            Err(source) => Err(JournalError::Io { action: "create", path, source }),
        }
    }

    /// Writes one line, in one write.
    pub fn write(&mut self, line: &Line) -> Result<(), JournalError> {
        let value = serde_json::to_value(line).map_err(|source| JournalError::Json { source })?;
        check_finite(&value)?;
        let mut text = value.to_string();
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|source| JournalError::Io {
            action: "write to",
            path: self.path.clone(),
            source,
        })
    }

    /// Removes a journal that has nothing to say, and its folder unless something else is in it.
    pub fn discard(self) {
        // What cannot be removed is left: the error that ended the run is the one to tell.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.path.parent().map(std::fs::remove_dir);
    }

    /// Where the journal is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// No field of a line is written when it is absent, so a null can only be a number JSON lacks.
fn check_finite(line: &Value) -> Result<(), JournalError> {
    let Value::Object(fields) = line else { return Ok(()) };
    let Some((field, _)) = fields.iter().find(|(_, value)| value.is_null()) else { return Ok(()) };
    Err(JournalError::NotFinite {
        kind: fields.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
        field: field.clone(),
        step: fields.get("step").map(|step| format!(" {step}")).unwrap_or_default(),
    })
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The whole lines, in order.
    pub lines: Vec<Line>,
    /// Whether a last line was cut short.
    pub torn: bool,
    /// Bytes of the whole lines.
    pub whole_bytes: u64,
}

/// Reads a journal, of a run that is over or still under way.
pub fn read(path: &Path) -> Result<Record, JournalError> {
    let io = |source| JournalError::Io { action: "read", path: path.to_path_buf(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut found = Record { lines: Vec::new(), torn: false, whole_bytes: 0 };
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(io)?;
        if read == 0 {
            break;
        }
        let fault = |reason| JournalError::Line { path: path.to_path_buf(), line, reason };
        if bytes.last() != Some(&b'\n') {
            if read as u64 == MAX_LINE {
                return Err(fault(format!("it is longer than {MAX_LINE} bytes")));
            }
            found.torn = true;
            break;
        }
        let parsed = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        found.lines.push(parsed);
        found.whole_bytes += read as u64;
    }
    Ok(found)
}

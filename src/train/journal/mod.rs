//! The journal of a run: JSON Lines, one self-contained object a line.
//!
//! Every line is one write of a whole line, so a run that is killed leaves a journal that can be
//! read and says how far it came. A reader accepts only lines that end in a line feed; a last
//! line cut short by a crash is reported as torn and is no line. A number that is NaN or infinite is
//! refused with the field's name: JSON would turn it into `null` in silence.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

mod lines;

pub use lines::{
    Answers, Compared, End, Line, Placement, Restore, Resume, SampledAnswer, Samples, Start, Step,
    Update, Warning,
};

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
    /// Another process writes it.
    #[error("{} is being written by another process. Wait for it or end it", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// Lines that the saved state counts on are gone.
    #[error(
        "{} has {found} bytes and had {expected} when the run's state was saved. Restore the \
         file, or begin anew in another --run",
        path.display()
    )]
    Short {
        /// The journal.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it had.
        expected: u64,
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

/// A journal being written; locked, so that no second process writes it.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of the whole lines.
    bytes: u64,
}

impl Journal {
    /// Opens the journal of a run to go on at its end; it and the run folder are made if need be.
    pub fn open(run_folder: &Path) -> Result<Self, JournalError> {
        let path = run_folder.join(FILE_NAME);
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| JournalError::Io { action, path, source }
        };
        std::fs::create_dir_all(run_folder).map_err(io("make", run_folder))?;
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        let mut journal = Self { file, path: path.clone(), bytes: 0 }.locked()?;
        journal.bytes = journal.file.metadata().map_err(io("read", &path))?.len();
        Ok(journal)
    }

    /// Removes all but the first `bytes` bytes.
    pub fn shorten(&mut self, bytes: u64) -> Result<(), JournalError> {
        let (path, found) = (self.path.clone(), self.bytes);
        if found < bytes {
            return Err(JournalError::Short { path, found, expected: bytes });
        }
        let shortened = self.file.set_len(bytes);
        shortened.map_err(|source| JournalError::Io { action: "shorten", path, source })?;
        self.bytes = bytes;
        Ok(())
    }

    /// Its length, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The system gives the lock back when the process ends, however it ends.
    fn locked(self) -> Result<Self, JournalError> {
        let path = self.path.clone();
        match self.file.try_lock() {
            Ok(()) => Ok(self),
            Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path }),
            Err(TryLockError::Error(source)) => {
                Err(JournalError::Io { action: "lock", path, source })
            }
        }
    }

    /// Writes one line, in one write; nothing of it stays where that fails.
    pub fn write(&mut self, line: &Line) -> Result<(), JournalError> {
        let value = serde_json::to_value(line).map_err(|source| JournalError::Json { source })?;
        check_finite(&value)?;
        let mut text = value.to_string();
        text.push('\n');
        if let Err(source) = self.file.write_all(text.as_bytes()) {
            // A full disk takes the beginning of a line; if it stays, it is torn for a reader.
            let _ = self.file.set_len(self.bytes);
            let path = self.path.clone();
            return Err(JournalError::Io { action: "write to", path, source });
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Waits until what was written would survive the machine, and says how much that is.
    pub fn settle(&self) -> Result<u64, JournalError> {
        self.file.sync_data().map_err(|source| JournalError::Io {
            action: "write to",
            path: self.path.clone(),
            source,
        })?;
        Ok(self.bytes)
    }

    /// Where the journal is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// No field of a line is written when it is absent, so a null can only be a number JSON lacks.
fn check_finite(line: &Value) -> Result<(), JournalError> {
    let Some(field) = null_in(line) else { return Ok(()) };
    Err(JournalError::NotFinite {
        kind: line.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
        field,
        step: line.get("step").map(|step| format!(" {step}")).unwrap_or_default(),
    })
}

/// The name of the first null, with those of what it is in.
fn null_in(value: &Value) -> Option<String> {
    let within = |name: String, value: &Value| match value {
        Value::Null => Some(name),
        _ => null_in(value).map(|inner| format!("{name}.{inner}")),
    };
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, v)| within(name.clone(), v)),
        Value::Array(items) => items.iter().enumerate().find_map(|(i, v)| within(i.to_string(), v)),
        _ => None,
    }
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

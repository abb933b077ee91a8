//! Why a command could not say.

#[cfg(feature = "train")]
use super::run_report::RunReportError;
#[cfg(feature = "sign")]
use super::secret_key::SecretKeyError;
use super::{
    files::FileError, manifest::ManifestError, output, recipe::RecipeError,
    signature::PublicKeyError,
};
#[cfg(feature = "train")]
use crate::{
    eval::report::ReportError,
    policy::PolicyError,
    train::{TrainError, data::DataError},
};
use crate::{
    exchange::ExchangeError, format::FormatError, model::ModelError, projection::ProjectionError,
    surgery::SurgeryError,
};
use std::{io, path::PathBuf};
use thiserror::Error;

/// Any failure of a command. The text states a fact, then a remedy.
#[derive(Debug, Error)]
pub enum CliError {
    /// A model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter does not fit its model.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// A model cannot be changed or compared.
    #[error(transparent)]
    Surgery(#[from] SurgeryError),
    /// An adapter cannot be brought from or to another format.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The manifest of a folder cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The input of `pack` cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A signature cannot be checked.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// A signature or a key cannot be made.
    #[cfg(feature = "sign")]
    #[error(transparent)]
    SecretKey(#[from] SecretKeyError),
    /// A comment that is not one short line.
    #[cfg(feature = "sign")]
    #[error(
        "the comment has {len} bytes or a control character. Give one line of at most {most} bytes"
    )]
    Comment {
        /// Its length.
        len: usize,
        /// The longest.
        most: usize,
    },
    /// A file that should be an adapter.
    #[error("{} is not a usable adapter: {source}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A weight that nothing can be multiplied by.
    #[error(
        "the weight of {} is {weight:?}, which is no finite number. Give one like {}:0.5, or leave it out",
        adapter.display(), adapter.display()
    )]
    Weight {
        /// The adapter.
        adapter: PathBuf,
        /// As given.
        weight: String,
    },
    /// An adapter that names no base, or not what it rebuilds to.
    #[error(
        "{} is unbound: it does not say which model it belongs to or what it rebuilds to. \
         Bind it with `tla pack --model`, or give --unbound if you are sure",
        path.display()
    )]
    Unbound {
        /// The adapter.
        path: PathBuf,
    },
    /// An adapter for other weights.
    #[error(
        "{} was made for a model with base digest {}, and {} has {}. \
         Use the model it was made for",
        adapter.display(), output::hex(expected), model.display(), output::hex(found)
    )]
    OtherBase {
        /// The adapter.
        adapter: PathBuf,
        /// The digest it names.
        expected: [u8; 32],
        /// The model.
        model: PathBuf,
        /// Its digest.
        found: [u8; 32],
    },
    /// An adapter that does not come out as its maker said.
    #[error(
        "{} rebuilds to factors digest {}, and names {}. Do not use it; ask its author for a \
         file that `tla verify --base` accepts",
        adapter.display(), output::hex(found), output::hex(expected)
    )]
    OtherFactors {
        /// The adapter.
        adapter: PathBuf,
        /// The digest it names.
        expected: [u8; 32],
        /// The digest of what was rebuilt.
        found: [u8; 32],
    },
    /// Arguments that contradict each other or are out of range.
    #[error("{0}")]
    Usage(String),
    /// A dataset cannot be used.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Data(#[from] DataError),
    /// Training cannot go on.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model cannot answer.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There is nothing to report.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Ctrl-C would end a run without a word, or leave files behind.
    #[error("cannot listen for signals: {0}. Check the limits of this session")]
    Signals(io::Error),
    /// A run cannot be reported.
    #[cfg(feature = "train")]
    #[error(transparent)]
    RunReport(#[from] RunReportError),
    /// The threads of a pool did not start.
    #[error("no {threads} threads could be started: {reason}. Ask for fewer with --threads")]
    Threads {
        /// As asked.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// The result went nowhere.
    #[error("the result cannot be written to stdout: {0}. Check where it is redirected to")]
    Stdout(io::Error),
}

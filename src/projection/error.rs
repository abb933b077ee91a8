//! What can keep a basis or an adapter from being rebuilt.

use thiserror::Error;

use crate::format::{FormatError, ModuleId, Role};

/// Why a projection could not be made.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the fields are the offending values the message names")]
pub enum ProjectionError {
    /// The header is invalid.
    #[error(transparent)]
    Header(#[from] FormatError),
    /// A rank outside 1 to [`crate::format::MAX_RANK`].
    #[error("the rank is {rank}. Choose 1 to 64.")]
    Rank { rank: usize },
    /// A weight matrix without entries.
    #[error("the weight of {module} is {rows}×{cols}. Export the model again with its weights.")]
    EmptyWeight { module: ModuleId, rows: usize, cols: usize },
    /// A NaN or an infinity among the weights.
    #[error(
        "the weight of {module} is {value} at row {row}, column {col}. \
         Use a base without NaN and infinities."
    )]
    NonFiniteWeight { module: ModuleId, row: usize, col: usize, value: f32 },
    /// The header selects no module of the model.
    #[error(
        "the adapter selects no module of this model. \
         Use the model it was made for: `tla inspect` lists what a model has."
    )]
    NothingSelected,
    /// A role the adapter names and the model lacks.
    #[error(
        "the adapter names the role {role}, and the model has no such module in the layers \
         it names. Use the model it was made for: `tla inspect` lists what a model has."
    )]
    RoleMissing { role: Role },
    /// A layer the adapter names and the model lacks.
    #[error(
        "the adapter names layer {layer}, and the model has no such layer. \
         Use the model it was made for: `tla inspect` lists what a model has."
    )]
    LayerMissing { layer: u16 },
    /// One module given twice.
    #[error("the module {module} is given twice. Give each once.")]
    DuplicateModule { module: ModuleId },
    /// More groups than selected modules.
    #[error(
        "the adapter has {groups} groups, and {modules} modules are selected. \
         Use the model it was made for, or fewer groups."
    )]
    TooManyGroups { groups: u16, modules: usize },
    /// Not groups × width values.
    #[error("there are {len} values, and the header asks for {expected}. Correct either.")]
    ValueCount { expected: usize, len: usize },
    /// A value that is NaN or infinite.
    #[error("value {index} is {value}. Give finite values.")]
    NonFiniteValue { index: usize, value: f32 },
    /// Threads could not be started.
    #[error("no {threads} threads could be started: {reason}. Ask for fewer.")]
    Threads { threads: usize, reason: String },
}

impl ProjectionError {
    /// Its name among the refusals at use of `spec/format.md`. None for what is not the adapter's
    /// or the base's fault.
    pub const fn name(&self) -> Option<&'static str> {
        match self {
            Self::Header(error) => Some(error.name()),
            Self::NonFiniteWeight { .. } => Some("weight-not-finite"),
            Self::NothingSelected => Some("nothing-selected"),
            Self::RoleMissing { .. } => Some("role-missing"),
            Self::LayerMissing { .. } => Some("layer-missing"),
            Self::TooManyGroups { .. } => Some("more-groups-than-modules"),
            Self::Rank { .. }
            | Self::EmptyWeight { .. }
            | Self::DuplicateModule { .. }
            | Self::ValueCount { .. }
            | Self::NonFiniteValue { .. }
            | Self::Threads { .. } => None,
        }
    }
}

//! Why a model could not be changed as asked.

use super::{GraftError, PatchError};
use crate::{
    format::ModuleId,
    model::{ModelError, way_out},
    projection::ProjectionError,
};
use std::{io, path::PathBuf};

/// Why an operation on a whole model was refused. The model is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SurgeryError {
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter does not select modules of this model.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The edits do not fit the graph.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The low-rank path cannot be put beside the weights.
    #[error(transparent)]
    Graft(#[from] GraftError),
    /// The factors are not those of the selected modules, in order.
    #[error(
        "the adapter selects {expected} modules and {found} factors were given, \
         which differ first at {module}. Rebuild the factors from this model"
    )]
    OtherFactors {
        /// The first module without its factors, or the first too many.
        module: ModuleId,
        /// Modules the header selects.
        expected: usize,
        /// Factors given.
        found: usize,
    },
    /// Factors of another shape than the weight.
    #[error(
        "the factors of {module} make a {rows}×{cols} update for a {out}×{inp} weight. \
         Rebuild the factors from this model"
    )]
    FactorShape {
        /// The module.
        module: ModuleId,
        /// Rows of the update.
        rows: usize,
        /// Columns of the update.
        cols: usize,
        /// Output size of the weight.
        out: usize,
        /// Input size of the weight.
        inp: usize,
    },
    /// A sum beyond the largest number of the container's type, or NaN.
    #[error(
        "the merged weight of {module} is {value} at row {row}, column {col}. \
         Use a smaller scale, or check the base for NaN and infinities"
    )]
    NotFinite {
        /// The module.
        module: ModuleId,
        /// Row of the canonical weight.
        row: usize,
        /// Its column.
        col: usize,
        /// The sum, rounded.
        value: f32,
    },
    /// Integers, or their scales, that several matrices have in common.
    #[error(
        "{module} shares {name:?} with another matrix, so no grid can be fitted to it alone. Merge \
         on the grid it has, or graft the adapter beside the weights instead"
    )]
    SharedIntegers {
        /// The module.
        module: ModuleId,
        /// The initializer.
        name: String,
    },
    /// Before version 4 every initializer had to be a graph input too.
    #[error(
        "{module} shares its matrix, and IR version {version} cannot give it one of its own. \
         Convert the model to IR version 4 or newer"
    )]
    OldIr {
        /// The module.
        module: ModuleId,
        /// The model's IR version.
        version: i64,
    },
    /// The operating system refused.
    #[error("cannot write {path}: {source}. {}", way_out(source, "Check that it may be used"))]
    Write {
        /// The file that was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Threads could not be started.
    #[error("no {threads} threads could be started: {reason}. Ask for fewer")]
    Threads {
        /// As asked; 0 is one per core.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

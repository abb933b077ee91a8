//! Why an adapter could not be brought from or to another format.

use crate::{format::ModuleId, model::ModelError, projection::ProjectionError};
use std::path::PathBuf;
use thiserror::Error;

/// Why an adapter could not be exchanged.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are the offending values the message names")]
pub enum ExchangeError {
    /// A tensor file cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A basis cannot be made.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// A factor beyond the largest f32.
    #[error("a factor of {module} is {value:e}, too large for 32 bits. Use a smaller scale")]
    TooLarge { module: ModuleId, value: f64 },
    /// A tensor file could not be put together.
    #[error("the tensors could not be written: {reason}. Check the model and the adapter")]
    Tensors { reason: String },
    /// A module without a name in transformers.
    #[error(
        "{module} is part of a packed matrix of the checkpoint, for which PEFT has no part. Merge or \
         graft the adapter instead"
    )]
    Packed { module: ModuleId },
    /// The configuration is not readable.
    #[error("{path} is no adapter_config.json: {reason}. Give a folder that PEFT saved")]
    Config { path: PathBuf, reason: String },
    /// Another method.
    #[error(
        "{path} says peft_type {found:?}, and only TINYLORA is imported. Merge it with PEFT and \
         export the merged model"
    )]
    Method { path: PathBuf, found: String },
    /// A tensor that must be there.
    #[error("{path} has no tensor {name}. Save the adapter again with PEFT")]
    Missing { path: PathBuf, name: String },
    /// No projection was saved.
    #[error(
        "{path} was saved without its projections, which only the same torch can make again. Save it \
         with save_projection=True"
    )]
    NoProjection { path: PathBuf },
    /// A tensor of another shape.
    #[error("the tensor {name} has the shape {shape:?} where {expected} is needed. Save it again")]
    Shape { name: String, shape: Vec<usize>, expected: String },
    /// A tensor of another type, or a number that is not finite.
    #[error("the tensor {name} holds {found}. Save the adapter again in float32")]
    Values { name: String, found: String },
    /// A module that the model does not have.
    #[error(
        "{name} is no module of this model. Give the model that the adapter was trained on, or name \
         its modules with --module"
    )]
    UnknownModule { name: String },
    /// The modules are not some roles in consecutive layers.
    #[error(
        "the adapter changes {found} modules, which are not the same roles in consecutive layers: \
         {module} is missing. Train it on whole layers"
    )]
    Gaps { found: usize, module: ModuleId },
    /// More than a file can hold.
    #[error("the adapter has {what}, and a file holds {most} at most. Train a smaller one")]
    TooMany { what: String, most: usize },
    /// Groups whose order is not known.
    #[error(
        "the adapter shares values between {groups} groups of modules in an order that is known only \
         for models with the names of transformers. Tie all its weights"
    )]
    Order { groups: usize },
    /// The bases differ.
    #[error(
        "the update of {module} in our basis is {} of its length away from PEFT's, and \
         {limit:.0e} is the most that is taken. Give the model it was trained on, in the same type",
        seen_above(*error, *limit)
    )]
    OtherBasis { module: ModuleId, error: f64, limit: f64 },
}

/// A number with so many digits that it is seen to be above the limit.
fn seen_above(number: f64, limit: f64) -> String {
    let written = |digits| format!("{number:.digits$e}");
    let seen = |text: &String| text.parse::<f64>().is_ok_and(|value| value > limit);
    (1..17).map(written).find(seen).unwrap_or_else(|| written(17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_above_its_limit_is_written_so() {
        assert_eq!(seen_above(0.25, 1e-3), "2.5e-1");
        assert_eq!(seen_above(1.04e-3, 1e-3), "1.04e-3");
        assert_eq!(seen_above(1.000_02e-3, 1e-3), "1.00002e-3");
        assert_eq!(seen_above(f64::INFINITY, 1e-3), "inf");
    }
}

//! The inputs through which a grafted graph takes its adapter.

use super::GraftError;
use crate::model::proto::GraphProto;

/// The graph input that holds `M` of each module: float32 `[modules, rows, r, r]`, where `rows`
/// is 1 (the same adapter for the whole batch) or the batch size (one adapter per row).
pub const MIXING: &str = "tla_mixing";

/// The input of a model that ships: float32 `[rows, groups · width]`, with `rows` as in [`MIXING`].
pub const VALUES: &str = "tla_v";

/// Refuses a graph that takes an adapter already: what it defaults to would come on top of another.
///
/// # Errors
/// If it has an input of a graft.
pub fn refuse_grafted(graph: &GraphProto) -> Result<(), GraftError> {
    let taken = |name: &&str| graph.input.iter().any(|i| i.name() == *name);
    match [VALUES, MIXING].into_iter().find(taken) {
        Some(input) => Err(GraftError::Grafted { input }),
        None => Ok(()),
    }
}

//! A whole adapter: the factors of every module it selects.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::basis::basis_here;
use super::{Factors, ProjectionError, Selection};
use crate::format::{Header, ModuleId};

/// The factors of every selected module, sorted by module. `weights` are canonical [out, in], in
/// any order, and may hold more modules than are selected. `threads` changes only the time; 0
/// means one per core.
pub fn rebuild(
    header: &Header,
    v: &[f32],
    weights: &[(ModuleId, ArrayView2<f32>)],
    threads: usize,
) -> Result<Vec<Factors>, ProjectionError> {
    let known: Vec<_> = weights.iter().map(|(module, _)| *module).collect();
    let selection = Selection::new(header, &known, v)?;
    let mut sorted: Vec<_> = weights.iter().filter(|(m, _)| header.selects(*m)).collect();
    sorted.sort_unstable_by_key(|(module, _)| *module);
    with_threads(threads, || {
        let made: Vec<_> = sorted
            .par_iter()
            .enumerate()
            .map(|(index, (module, w))| {
                let basis = basis_here(w.view(), *module, selection.geometry().rank)?;
                Ok(selection.factors(index, &basis))
            })
            .collect();
        // The first error in module order, whichever thread met one first.
        made.into_iter().collect()
    })?
}

/// Runs on a pool of so many threads.
pub(super) fn with_threads<T: Send>(
    threads: usize,
    work: impl FnOnce() -> T + Send,
) -> Result<T, ProjectionError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| ProjectionError::Threads { threads, reason: error.to_string() })?;
    Ok(pool.install(work))
}

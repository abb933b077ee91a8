//! A whole adapter: which modules it selects, and the factors of each.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::basis::basis_here;
use super::{Factors, Geometry, ProjectionError, factors, group_of, mixing};
use crate::format::{Header, ModuleId, Role};

/// The modules of a model that carry an update, sorted. Refuses a model that lacks a role or a
/// layer the header names, and one with fewer selected modules than groups.
pub fn select(header: &Header, modules: &[ModuleId]) -> Result<Vec<ModuleId>, ProjectionError> {
    header.check()?;
    let mut selected: Vec<_> = modules.iter().copied().filter(|&m| header.selects(m)).collect();
    selected.sort_unstable();
    if let Some(pair) = selected.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ProjectionError::DuplicateModule { module: pair[0] });
    }
    if selected.is_empty() {
        return Err(ProjectionError::NothingSelected);
    }
    for role in header.roles.iter() {
        if !selected.iter().any(|m| m.role == role) {
            return Err(ProjectionError::RoleMissing { role });
        }
    }
    if header.roles.iter().any(|role| role != Role::LmHead) {
        for layer in header.first_layer..header.first_layer + header.layers {
            if selected.binary_search_by_key(&layer, |m| m.layer).is_err() {
                return Err(ProjectionError::LayerMissing { layer });
            }
        }
    }
    if usize::from(header.groups) > selected.len() {
        return Err(ProjectionError::TooManyGroups {
            groups: header.groups,
            modules: selected.len(),
        });
    }
    Ok(selected)
}

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
    let modules = select(header, &known)?;
    let expected = header.parameters();
    if v.len() != expected {
        return Err(ProjectionError::ValueCount { expected, len: v.len() });
    }
    if let Some((index, &value)) = v.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(ProjectionError::NonFiniteValue { index, value });
    }
    let values: Vec<f64> = v.iter().copied().map(f64::from).collect();
    let geometry = Geometry::from(header);
    let mut sorted: Vec<_> = weights.iter().filter(|(m, _)| header.selects(*m)).collect();
    sorted.sort_unstable_by_key(|(module, _)| *module);
    with_threads(threads, || {
        let made: Vec<_> = sorted
            .par_iter()
            .enumerate()
            .map(|(index, (module, w))| {
                let basis = basis_here(w.view(), *module, geometry.rank)?;
                let group = group_of(geometry.tying, header.groups, &modules, index);
                let of_group = &values[group * geometry.width..][..geometry.width];
                let r = mixing(&geometry, *module, of_group);
                Ok(factors(&basis, *module, &geometry, &r))
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

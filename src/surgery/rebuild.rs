//! The factors of an adapter from a model on disk, with one weight in memory at a time.

use super::SurgeryError;
use crate::{
    format::{Header, ModuleId},
    model::{Container, Target, Targets},
    projection::{Basis, Factors, Selection, basis},
};

/// [`crate::projection::rebuild`] of the modules of a model: the same factors, but a weight is
/// read when its turn comes and dropped after.
pub fn rebuild_from(
    model: &dyn Container,
    targets: &Targets,
    header: &Header,
    v: &[f32],
    threads: usize,
) -> Result<Vec<Factors>, SurgeryError> {
    let selection = selection(targets, header, v)?;
    let rank = selection.geometry().rank;
    let each = selected(targets, header).enumerate().map(|(index, target)| {
        let basis = basis_of(model, target, rank, threads)?;
        Ok(selection.factors(index, &basis))
    });
    each.collect()
}

/// What the header selects of the targets.
pub(super) fn selection(
    targets: &Targets,
    header: &Header,
    v: &[f32],
) -> Result<Selection, SurgeryError> {
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    Ok(Selection::new(header, &known, v)?)
}

/// The targets of the modules that carry an update, sorted.
pub(super) fn selected<'a>(
    targets: &'a Targets,
    header: &'a Header,
) -> impl Iterator<Item = &'a Target> {
    targets.targets.iter().filter(|target| header.selects(target.module))
}

/// The basis of one module's weight.
pub(super) fn basis_of(
    model: &dyn Container,
    target: &Target,
    rank: usize,
    threads: usize,
) -> Result<Basis, SurgeryError> {
    let weight = model.weight(target)?;
    Ok(basis(weight.view(), target.module, rank, threads)?)
}

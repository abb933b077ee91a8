//! The factors of an adapter from a model on disk, with one weight in memory at a time.

use super::SurgeryError;
use crate::{
    format::{Header, ModuleId},
    model::{Container, Targets},
    projection::{Factors, Geometry, ProjectionError, basis, factors, group_of, mixing, select},
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
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let modules = select(header, &known)?;
    let expected = header.parameters();
    if v.len() != expected {
        return Err(ProjectionError::ValueCount { expected, len: v.len() }.into());
    }
    if let Some((index, &value)) = v.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(ProjectionError::NonFiniteValue { index, value }.into());
    }
    let values: Vec<f64> = v.iter().copied().map(f64::from).collect();
    let geometry = Geometry::from(header);
    let selected = targets.targets.iter().filter(|t| header.selects(t.module)).enumerate();
    let each = selected.map(|(index, target)| {
        let module = target.module;
        let weight = model.weight(target)?;
        let basis = basis(weight.view(), module, geometry.rank, threads)?;
        let group = group_of(geometry.tying, header.groups, &modules, index);
        let of_group = values.get(group * geometry.width..).unwrap_or_default();
        let of_group = of_group.get(..geometry.width).unwrap_or_default();
        Ok(factors(&basis, module, &geometry, &mixing(&geometry, module, of_group)))
    });
    each.collect()
}

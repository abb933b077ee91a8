//! The factors of an adapter from a model on disk, with one weight in memory at a time.

use super::SurgeryError;
use crate::{
    format::{Header, ModuleId},
    model::{Container, Target, Targets},
    projection::{
        Basis, Factors, Geometry, ProjectionError, basis, factors, group_of, mixing, select,
    },
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
    let selection = Selection::new(targets, header, v)?;
    let each = selection.each.iter().map(|selected| {
        let basis = selection.basis(model, selected, threads)?;
        Ok(selection.factors(selected, &basis))
    });
    each.collect()
}

/// What a header selects of a model, and the values of each.
pub(super) struct Selection<'a> {
    /// How R is made.
    pub geometry: Geometry,
    /// The modules, sorted.
    pub each: Vec<Selected<'a>>,
    values: Vec<f64>,
}

/// One module that carries an update.
pub(super) struct Selected<'a> {
    /// Where it is.
    pub target: &'a Target,
    /// The group of values it takes.
    pub group: usize,
}

impl<'a> Selection<'a> {
    /// Refuses a header the model cannot serve, and values that are not the header's or not finite.
    pub fn new(targets: &'a Targets, header: &Header, v: &[f32]) -> Result<Self, SurgeryError> {
        let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
        let modules = select(header, &known)?;
        let expected = header.parameters();
        if v.len() != expected {
            return Err(ProjectionError::ValueCount { expected, len: v.len() }.into());
        }
        if let Some((index, &value)) = v.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(ProjectionError::NonFiniteValue { index, value }.into());
        }
        let geometry = Geometry::from(header);
        let selected = targets.targets.iter().filter(|t| header.selects(t.module)).enumerate();
        let each = selected.map(|(index, target)| {
            let group = group_of(geometry.tying, header.groups, &modules, index);
            Selected { target, group }
        });
        let values = v.iter().copied().map(f64::from).collect();
        Ok(Self { geometry, each: each.collect(), values })
    }

    /// The basis of one module's weight.
    pub fn basis(
        &self,
        model: &dyn Container,
        selected: &Selected<'_>,
        threads: usize,
    ) -> Result<Basis, SurgeryError> {
        let weight = model.weight(selected.target)?;
        Ok(basis(weight.view(), selected.target.module, self.geometry.rank, threads)?)
    }

    /// The factors of one module from its basis.
    pub fn factors(&self, selected: &Selected<'_>, basis: &Basis) -> Factors {
        let (geometry, module) = (&self.geometry, selected.target.module);
        let of_group = self.values.get(selected.group * geometry.width..).unwrap_or_default();
        let of_group = of_group.get(..geometry.width).unwrap_or_default();
        factors(basis, module, geometry, &mixing(geometry, module, of_group))
    }
}

//! What is added to which weight: one adapter, or several with a weight each.

use super::SurgeryError;
use crate::{
    format::{Header, ModuleId},
    model::{Target, Targets},
    projection::{Factors, select},
};
use std::collections::BTreeMap;

/// An adapter as a part of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Addend<'a> {
    /// Its header, which selects the modules.
    pub header: &'a Header,
    /// The factors of the selected modules, sorted, as [`crate::projection::rebuild`] gives them.
    pub factors: &'a [Factors],
    /// What its update is multiplied by; a finite number.
    pub weight: f64,
}

impl<'a> Addend<'a> {
    /// An adapter that is added as it is.
    pub fn whole(header: &'a Header, factors: &'a [Factors]) -> Self {
        Self { header, factors, weight: 1.0 }
    }
}

/// One adapter's part of the update of a module: weight · α · L·Vᵀ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term<'a> {
    pub factors: &'a Factors,
    pub scale: f64,
    pub weight: f64,
}

/// Every module that one of the adapters selects, with its terms in their order.
pub(super) fn updates<'a>(
    targets: &'a Targets,
    addends: &[Addend<'a>],
) -> Result<BTreeMap<ModuleId, (&'a Target, Vec<Term<'a>>)>, SurgeryError> {
    let mut updates = BTreeMap::<ModuleId, (&Target, Vec<Term>)>::new();
    for &Addend { header, factors, weight } in addends {
        for (target, factors) in pair(targets, header, factors)? {
            check_shape(target, factors)?;
            let term = Term { factors, scale: f64::from(header.scale), weight };
            let (_, terms) = updates.entry(target.module).or_insert((target, Vec::new()));
            terms.push(term);
        }
    }
    Ok(updates)
}

/// The selected modules in order, each with its target and its factors.
fn pair<'a>(
    targets: &'a Targets,
    header: &Header,
    factors: &'a [Factors],
) -> Result<Vec<(&'a Target, &'a Factors)>, SurgeryError> {
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let selected = select(header, &known)?;
    let (expected, found) = (selected.len(), factors.len());
    let other = |module| SurgeryError::OtherFactors { module, expected, found };
    if let Some(extra) = factors.get(expected) {
        return Err(other(extra.module));
    }
    let mut pairs = Vec::with_capacity(expected);
    for (index, &module) in selected.iter().enumerate() {
        let given = factors.get(index).filter(|f| f.module == module);
        match (targets.get(module), given) {
            (Some(target), Some(factors)) => pairs.push((target, factors)),
            _ => return Err(other(module)),
        }
    }
    Ok(pairs)
}

/// Refuses factors that do not make an update of the target's shape.
fn check_shape(target: &Target, factors: &Factors) -> Result<(), SurgeryError> {
    let (rows, cols) = (factors.l.nrows(), factors.v.nrows());
    if (rows, cols) == (target.rows, target.cols) && factors.l.ncols() == factors.v.ncols() {
        return Ok(());
    }
    let (module, out, inp) = (target.module, target.rows, target.cols);
    Err(SurgeryError::FactorShape { module, rows, cols, out, inp })
}

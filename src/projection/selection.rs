//! Which modules of a model an adapter changes, and the values each takes.

use super::{Basis, Factors, Geometry, ProjectionError, factors, group_of, mixing};
use crate::format::{Header, ModuleId, Role};

/// What a header selects of a model, with values for it.
#[derive(Clone, Debug)]
pub struct Selection {
    geometry: Geometry,
    modules: Vec<ModuleId>,
    groups: Vec<usize>,
    values: Vec<f64>,
}

impl Selection {
    /// Of the modules `known` of a model, in any order, those that `header` selects, with `v`
    /// group after group.
    ///
    /// # Errors
    /// As [`select`], and if `v` has not as many values as the header asks for or one is not
    /// finite.
    pub fn new(header: &Header, known: &[ModuleId], v: &[f32]) -> Result<Self, ProjectionError> {
        let modules = select(header, known)?;
        let expected = header.parameters();
        if v.len() != expected {
            return Err(ProjectionError::ValueCount { expected, len: v.len() });
        }
        if let Some((index, &value)) = v.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(ProjectionError::NonFiniteValue { index, value });
        }
        let geometry = Geometry::from(header);
        let group = |index| group_of(geometry.tying, header.groups, &modules, index);
        let groups = (0..modules.len()).map(group).collect();
        Ok(Self { geometry, groups, modules, values: v.iter().copied().map(f64::from).collect() })
    }

    /// How R is made of the values.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The modules that carry an update, sorted.
    pub fn modules(&self) -> &[ModuleId] {
        &self.modules
    }

    /// The group of values of each module.
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// The factors of module number `index` from the basis of its weight.
    ///
    /// # Panics
    /// If there is no such module.
    pub fn factors(&self, index: usize, basis: &Basis) -> Factors {
        let (geometry, module) = (&self.geometry, self.modules[index]);
        let v = &self.values[self.groups[index] * geometry.width..][..geometry.width];
        factors(basis, module, geometry, &mixing(geometry, module, v))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{RoleSet, Tying};

    #[test]
    fn modules_are_those_of_the_header_and_groups_those_of_the_tying() {
        let known = [(1, Role::Up), (0, Role::Q), (1, Role::Q), (0, Role::Up), (0, Role::K)];
        let known = known.map(|(layer, role)| ModuleId { layer, role });
        let roles = RoleSet::from_roles([Role::Q, Role::Up]).unwrap();
        let header = Header { roles, groups: 2, width: 1, ..Header::default() };
        let of = |tying| Selection::new(&Header { tying, ..header }, &known, &[0.5, -1.0]).unwrap();
        let tiled = of(Tying::Tiled);
        assert_eq!(tiled.modules(), [known[1], known[3], known[2], known[0]]);
        assert_eq!(tiled.groups(), [0, 0, 1, 1]);
        assert_eq!(of(Tying::Structured).groups(), [0, 1, 0, 1]);
    }

    #[test]
    fn as_many_groups_as_modules_are_enough_and_one_more_is_not() {
        let known = [0, 1, 2].map(|layer| ModuleId { layer, role: Role::Q });
        let roles = RoleSet::from_roles([Role::Q]).unwrap();
        let header = |groups| Header { roles, groups, ..Header::default() };
        assert_eq!(select(&header(3), &known).unwrap(), known);
        let error = select(&header(4), &known).unwrap_err();
        assert_eq!(error, ProjectionError::TooManyGroups { groups: 4, modules: 3 });
    }
}

//! Which group of values a module takes (`spec/projection.md`, groups).

use crate::format::{ModuleId, Tying};

/// The group of `modules[index]`: ⌊position · groups ÷ number of modules⌋, so that groups are
/// neighbours and differ by at most one module. `modules` are the selected ones, sorted. Under
/// [`Tying::Structured`] the position counts in the order of (role, layer) instead.
///
/// # Panics
/// If `index` is out of bounds.
pub fn group_of(tying: Tying, groups: u16, modules: &[ModuleId], index: usize) -> usize {
    let own = modules[index];
    let position = match tying {
        Tying::Tiled => index,
        Tying::Structured => {
            modules.iter().filter(|m| (m.role, m.layer) < (own.role, own.layer)).count()
        }
    };
    position * usize::from(groups) / modules.len()
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::format::Role;

    #[test]
    fn tiled_groups_are_blocks_in_depth_and_structured_groups_blocks_in_role() {
        let modules: Vec<_> = (0..4)
            .flat_map(|layer| [Role::Q, Role::Up].map(|role| ModuleId::new(layer, role)))
            .collect();
        let groups = |tying, g| -> Vec<_> {
            (0..modules.len()).map(|i| group_of(tying, g, &modules, i)).collect()
        };
        assert_eq!(groups(Tying::Tiled, 4), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(groups(Tying::Structured, 4), [0, 2, 0, 2, 1, 3, 1, 3]);
        assert_eq!(groups(Tying::Tiled, 3), [0, 0, 0, 1, 1, 1, 2, 2]);
        assert_eq!(groups(Tying::Structured, 1), [0; 8]);
        assert_eq!(groups(Tying::Tiled, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

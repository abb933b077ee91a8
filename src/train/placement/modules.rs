//! Where the update should live: which roles, which layers.
//!
//! From one averaged gradient G = dL/dR, before any training (design, "Placement before
//! training"). A set S of n modules holds a share E of the gradient's energy; u·g random
//! directions capture about u·g of its r²·n dimensions, and the best of many seeds more. The
//! score of a set is the share the adapter can be expected to follow: E times the expected capture.
//! All sets a header can name are compared: every subset of the roles over every contiguous range
//! of layers.
//!
//! Then the seed: see [`seed_search`](super::seed_search).

use std::cmp::Ordering;

use super::{
    mean_gradient::MeanGradient,
    sets::{HEAD, Set, Table},
};
use crate::format::{FormatError, ModuleId, Role, RoleSet};

/// Why no placement could be chosen.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum PlacementError {
    /// The gradient is all noise.
    #[error(
        "the surveyed gradient's energy {energy:.2e} does not exceed its noise {noise:.2e}. \
         Raise --survey or --problems, or choose --roles, --layers and a --seed by hand"
    )]
    NoSignal {
        /// ‖mean‖².
        energy: f64,
        /// Trace of the covariance of the mean.
        noise: f64,
    },
    /// No set of modules is large enough for the groups.
    #[error("no set of the model's {modules} modules takes {groups} groups. Use fewer groups")]
    TooManyGroups {
        /// Groups.
        groups: usize,
        /// Modules there are.
        modules: usize,
    },
    /// A module that has no gradient was selected.
    #[error("the gradient has no module {module}. Average it over every module to be placed")]
    NoGradient {
        /// The module.
        module: ModuleId,
    },
    /// A geometry does not fit the gradient.
    #[error("the geometry has {name} {found}. It must be {expected}")]
    Geometry {
        /// Which field.
        name: &'static str,
        /// Its value.
        found: usize,
        /// What is allowed.
        expected: String,
    },
    /// No seed was to be compared.
    #[error("0 seeds were to be searched. Search at least 1")]
    NoSeeds,
    /// A role set could not be made.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A set of modules a header can name.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleChoice {
    /// Roles.
    pub roles: RoleSet,
    /// First layer, as in the header: 0 when `layers` is 0.
    pub first_layer: u16,
    /// Number of layers, as in the header: 0 for all of them.
    pub layers: u16,
    /// The modules this comes to, sorted.
    pub modules: Vec<ModuleId>,
    /// Share of the gradient's energy, noise subtracted, that lies in these modules; at most 1.
    pub energy_share: f64,
    /// The share that u·g directions can be expected to follow, by which sets were compared.
    pub score: f64,
}

/// Chooses the roles and layers for `groups` groups of `width` numbers, when the best of `seeds`
/// projections will be taken (1 for a given one).
///
/// A set's score is its energy times the share of it that the directions can be expected to
/// capture (`expected_capture`).
/// A set must have at least as many modules as groups, and a module in each of its roles and
/// layers, or the header that names it would be refused. Its energy is Σ (‖mean‖² − noise) over
/// its modules, at least 0. Among equal scores the set with fewer modules wins, then the lower
/// first layer, then the lower role bits.
pub fn choose_modules(
    gradient: &MeanGradient,
    width: usize,
    groups: usize,
    seeds: u64,
) -> Result<ModuleChoice, PlacementError> {
    let table = Table::new(gradient);
    if table.signal <= 0.0 {
        return Err(PlacementError::NoSignal { energy: table.energy, noise: table.noise });
    }
    let square = (gradient.rank() * gradient.rank()) as f64;
    let directions = width as f64 * groups as f64;
    let mut best: Option<(f64, Set)> = None;
    table.each_set(|set| {
        if set.modules < groups {
            return;
        }
        let dimensions = square * set.modules as f64;
        let score = set.energy * expected_capture(directions, dimensions, seeds);
        let wins = match &best {
            None => true,
            Some((highest, held)) => match score.total_cmp(highest) {
                Ordering::Equal => set.rank() < held.rank(),
                order => order == Ordering::Greater,
            },
        };
        if wins {
            best = Some((score, set));
        }
    });
    let modules = gradient.modules();
    let Some((score, set)) = best else {
        return Err(PlacementError::TooManyGroups { groups, modules: modules.len() });
    };
    let roles = RoleSet::from_bits(set.roles)?;
    let chosen = |m: &&ModuleId| {
        let in_range = m.role == Role::LmHead || (set.first..=set.last).contains(&m.layer);
        roles.contains(m.role) && in_range
    };
    let all = set.roles == HEAD || (set.first, set.last) == (table.first, table.last);
    Ok(ModuleChoice {
        roles,
        first_layer: if all { 0 } else { set.first },
        layers: if all { 0 } else { set.last - set.first + 1 },
        modules: modules.iter().filter(chosen).copied().collect(),
        energy_share: (set.energy / table.signal).min(1.0),
        score: score / table.signal,
    })
}

/// The share of a gradient's energy that the best of `seeds` random sets of k directions in d
/// dimensions can be expected to capture.
///
/// One set captures a share that is Beta(k/2, (d−k)/2)-distributed: mean k/d, variance
/// 2k(d−k)/(d²(d+2)). The largest of n is placed where the largest of n normal numbers is
/// expected, √(2 ln n) − (ln ln n + ln 4π)/(2√(2 ln n)) deviations above the mean, and at most 1.
fn expected_capture(k: f64, d: f64, seeds: u64) -> f64 {
    if k >= d {
        return 1.0;
    }
    let deviation = (2.0 * k * (d - k) / (d * d * (d + 2.0))).sqrt();
    let above = if seeds < 2 {
        0.0
    } else {
        let log = (seeds as f64).ln();
        let width = (2.0 * log).sqrt();
        (width - (log.ln() + (4.0 * std::f64::consts::PI).ln()) / (2.0 * width)).max(0.0)
    };
    (k / d + above * deviation).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A rank-1 gradient of these energies.
    fn gradient(modules: &[(u16, Role, f64)], noise: f64) -> MeanGradient {
        let ids = modules.iter().map(|(layer, role, _)| ModuleId::new(*layer, *role)).collect();
        let mean = modules.iter().map(|(_, _, energy)| energy.sqrt()).collect();
        MeanGradient::new(1, ids, mean, vec![noise; modules.len()]).unwrap()
    }

    fn four_layers(down: [f64; 4], other: f64) -> MeanGradient {
        let layer = |l: u16| [(l, Role::Q, other), (l, Role::Down, down[usize::from(l)])];
        gradient(&(0..4).flat_map(layer).collect::<Vec<_>>(), 0.0)
    }

    #[test]
    fn a_role_that_holds_the_energy_is_chosen_over_all_layers() {
        let found = choose_modules(&four_layers([1.0; 4], 0.01), 4, 1, 1).unwrap();
        assert_eq!(found.roles, RoleSet::from_roles([Role::Down]).unwrap());
        assert_eq!((found.first_layer, found.layers), (0, 0));
        assert!(found.modules.iter().all(|m| m.role == Role::Down) && found.modules.len() == 4);
        assert!((found.energy_share - 4.0 / 4.04).abs() < 1e-12);
        assert_eq!(found.score, found.energy_share);
    }

    #[test]
    fn few_parameters_go_where_the_energy_is_densest() {
        let found = choose_modules(&four_layers([0.1, 5.0, 4.0, 0.1], 0.1), 2, 1, 1).unwrap();
        assert_eq!((found.first_layer, found.layers), (1, 2));
        let found = choose_modules(&four_layers([0.1, 5.0, 4.0, 0.1], 0.1), 100, 1, 1).unwrap();
        assert_eq!((found.modules.len(), found.energy_share), (8, 1.0));
    }

    #[test]
    fn the_smaller_of_two_equal_sets_wins_then_the_earlier() {
        let found = choose_modules(&four_layers([0.0, 1.0, 0.0, 0.0], 0.0), 8, 1, 1).unwrap();
        assert_eq!((found.first_layer, found.layers, found.modules.len()), (1, 1, 1));
        let found = choose_modules(&four_layers([0.0, 1.0, 0.0, 1.0], 0.0), 1, 1, 1).unwrap();
        assert_eq!((found.first_layer, found.layers), (1, 1));
    }

    #[test]
    fn the_best_of_many_seeds_captures_what_was_measured_for_thirteen_numbers() {
        // Design, "Placement before training": 28 modules of rank 2, 13 numbers.
        assert!((expected_capture(13.0, 112.0, 1) - 0.116).abs() < 1e-3);
        assert!((expected_capture(13.0, 112.0, 6000) - 0.31).abs() < 0.06);
        assert_eq!(expected_capture(13.0, 12.0, 1), 1.0);
        assert!(expected_capture(13.0, 16.0, 6000) > 0.99);
    }

    #[test]
    fn more_seeds_make_larger_sets_worth_while() {
        let energies = four_layers([2.0, 1.0, 1.0, 2.0], 0.01);
        let one = choose_modules(&energies, 2, 1, 1).unwrap();
        let many = choose_modules(&energies, 2, 1, 1_000_000).unwrap();
        assert!(many.modules.len() > one.modules.len());
    }

    #[test]
    fn groups_need_as_many_modules() {
        let found = choose_modules(&four_layers([0.0, 1.0, 0.0, 0.0], 0.0), 1, 3, 1).unwrap();
        assert_eq!(found.modules.len(), 3);
        let error = choose_modules(&four_layers([1.0; 4], 0.0), 1, 9, 1).unwrap_err();
        assert_eq!(error, PlacementError::TooManyGroups { groups: 9, modules: 8 });
    }

    #[test]
    fn the_head_has_no_layer() {
        let modules =
            [(0, Role::Q, 1.0), (1, Role::Q, 1.0), (ModuleId::HEAD_LAYER, Role::LmHead, 8.0)];
        let found = choose_modules(&gradient(&modules, 0.0), 1, 1, 1).unwrap();
        assert_eq!(found.modules, [ModuleId::LM_HEAD]);
        assert_eq!((found.first_layer, found.layers), (0, 0));
        let found = choose_modules(&gradient(&modules, 0.0), 3, 1, 1).unwrap();
        assert_eq!(found.modules.len(), 3);
    }

    #[test]
    fn noise_is_not_energy_and_noise_alone_is_an_error() {
        let modules = [(0, Role::Q, 1.0), (0, Role::Up, 9.0)];
        let found = choose_modules(&gradient(&modules, 1.0), 2, 1, 1).unwrap();
        assert_eq!((found.modules.len(), found.energy_share), (1, 1.0));
        let error = choose_modules(&gradient(&modules, 5.0), 2, 1, 1).unwrap_err();
        assert_eq!(error, PlacementError::NoSignal { energy: 10.0, noise: 10.0 });
    }

    #[test]
    fn a_set_with_a_hole_in_its_layers_is_never_chosen() {
        let modules =
            [(0, Role::Q, 5.0), (0, Role::Up, 0.1), (1, Role::Up, 0.1), (2, Role::Q, 5.0)];
        let found = choose_modules(&gradient(&modules, 0.0), 2, 1, 1).unwrap();
        // q of layers 0 and 2 would hold 10, but layer 1 has none.
        assert_eq!(found.modules.len(), 2);
        assert_eq!((found.first_layer, found.layers), (0, 1));
    }

    proptest! {
        #[test]
        fn the_choice_is_the_best_of_all_sets_a_header_can_name(
            energies in prop::collection::vec(0.0f64..10.0, 12), width in 1usize..14,
        ) {
            use crate::format::Header;
            let roles = [Role::Q, Role::O, Role::Down];
            let modules: Vec<(u16, Role, f64)> = energies.iter().enumerate()
                .map(|(i, e)| ((i / 3) as u16, roles[i % 3], *e)).collect();
            let gradient = gradient(&modules, 0.5);
            let Ok(found) = choose_modules(&gradient, width, 1, 1) else { return Ok(()) };
            let mut best = 0.0f64;
            for bits in 1..8u16 {
                let subset = roles.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
                let set = RoleSet::from_roles(subset.map(|(_, role)| *role)).unwrap();
                for first in 0..4u16 {
                    for layers in 1..=4 - first {
                        let header =
                            Header { roles: set, first_layer: first, layers, ..Header::default() };
                        let inside: Vec<usize> = (0..12)
                            .filter(|i| header.selects(gradient.modules()[*i])).collect();
                        let energy: f64 =
                            inside.iter().map(|i| gradient.energy(*i) - gradient.noise(*i)).sum();
                        let reach = (width as f64 / inside.len() as f64).min(1.0);
                        best = best.max(energy.max(0.0) * reach);
                    }
                }
            }
            let total: f64 = (0..12).map(|i| gradient.energy(i) - gradient.noise(i)).sum();
            prop_assert!((found.score * total - best).abs() < 1e-9);
            let header = Header {
                roles: found.roles, first_layer: found.first_layer, layers: found.layers,
                ..Header::default()
            };
            let named: Vec<ModuleId> =
                gradient.modules().iter().copied().filter(|m| header.selects(*m)).collect();
            prop_assert_eq!(named, found.modules);
        }
    }
}

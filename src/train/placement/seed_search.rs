//! Which seed: how much of the gradient the trained directions follow.
//!
//! v moves R only within the span of the tied P: a unit of v_(group, i) adds Pᵢ to the R of every
//! module in the group. With D the matrix whose column (group, i) stacks those Pᵢ, the energy of
//! the gradient G within reach is Gᵀ·D·(Dᵀ·D)⁺·Dᵀ·G, the squared length of its projection onto
//! the span. Groups share no module, so each is projected on its own.

use rayon::prelude::*;

use super::mean_gradient::MeanGradient;
use super::modules::PlacementError;
use crate::format::{MAX_RANK, ModuleId};
use crate::projection::{Geometry, group_of, projections};

/// A direction is dropped when orthogonalisation leaves less than this of its length.
const TOLERANCE: f64 = 1e-10;

/// The best of the seeds that were compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedChoice {
    /// The seed.
    pub seed: u64,
    /// Share of the selected modules' gradient energy it captures.
    pub captured: f64,
}

/// The share, in \[0, 1\], of the energy of `modules` (sorted, all in `gradient`) that the
/// directions of `geometry` capture. Noise is not subtracted: report it beside
/// [`MeanGradient::snr`].
pub fn captured(
    gradient: &MeanGradient,
    modules: &[ModuleId],
    geometry: &Geometry,
) -> Result<f64, PlacementError> {
    Ok(Selection::new(gradient, modules, geometry)?.captured(geometry))
}

/// The best of `n` seeds from `base` on (wrapping past 2⁶⁴) by [`captured`]; of equal ones the
/// first. Runs on all of rayon's threads; their number does not change the result.
pub fn search_seed(
    gradient: &MeanGradient,
    modules: &[ModuleId],
    geometry: &Geometry,
    base: u64,
    n: u64,
) -> Result<SeedChoice, PlacementError> {
    let selection = Selection::new(gradient, modules, geometry)?;
    let of = |i: u64| {
        let seed = base.wrapping_add(i);
        (i, SeedChoice { seed, captured: selection.captured(&Geometry { seed, ..*geometry }) })
    };
    let better = |a: (u64, SeedChoice), b: (u64, SeedChoice)| {
        let order = a.1.captured.total_cmp(&b.1.captured).then(b.0.cmp(&a.0));
        if order.is_lt() { b } else { a }
    };
    let best = (0..n).into_par_iter().map(of).reduce_with(better);
    best.map(|(_, choice)| choice).ok_or(PlacementError::NoSeeds)
}

/// The gradient of the selected modules, cut into groups.
struct Selection {
    /// Per group: its modules, and their gradients one after the other.
    groups: Vec<(Vec<ModuleId>, Vec<f64>)>,
    energy: f64,
}

impl Selection {
    fn new(
        gradient: &MeanGradient,
        modules: &[ModuleId],
        geometry: &Geometry,
    ) -> Result<Self, PlacementError> {
        let wrong =
            |name, found, expected: String| Err(PlacementError::Geometry { name, found, expected });
        if geometry.rank != gradient.rank() || geometry.rank > usize::from(MAX_RANK) {
            return wrong("rank", geometry.rank, gradient.rank().to_string());
        }
        if geometry.width == 0 || geometry.width > usize::from(u16::MAX) {
            return wrong("width", geometry.width, format!("1 to {}", u16::MAX));
        }
        let Ok(count) = u16::try_from(geometry.groups) else {
            return wrong("groups", geometry.groups, format!("at most {}", u16::MAX));
        };
        if count == 0 || geometry.groups > modules.len() {
            return wrong("groups", geometry.groups, format!("1 to {} (modules)", modules.len()));
        }
        let mut groups = vec![(Vec::new(), Vec::new()); geometry.groups];
        let mut energy = 0.0;
        let mut noise = 0.0;
        for (index, module) in modules.iter().enumerate() {
            let Ok(at) = gradient.modules().binary_search(module) else {
                return Err(PlacementError::NoGradient { module: *module });
            };
            let (members, stacked) = &mut groups[group_of(geometry.tying, count, modules, index)];
            members.push(*module);
            stacked.extend_from_slice(gradient.of(at));
            energy += gradient.energy(at);
            noise += gradient.noise(at);
        }
        if energy <= 0.0 {
            return Err(PlacementError::NoSignal { energy, noise });
        }
        Ok(Self { groups, energy })
    }

    fn captured(&self, geometry: &Geometry) -> f64 {
        let square = geometry.rank * geometry.rank;
        let mut within = 0.0;
        for (members, gradient) in &self.groups {
            let blocks: Vec<Vec<f64>> = members.iter().map(|m| projections(geometry, *m)).collect();
            let columns = (0..geometry.width).map(|i| {
                blocks.iter().flat_map(|b| &b[i * square..(i + 1) * square]).copied().collect()
            });
            within += energy_within(columns, gradient);
        }
        (within / self.energy).clamp(0.0, 1.0)
    }
}

/// ‖Q·Qᵀ·g‖² with Q an orthonormal basis of the columns, by Gram-Schmidt done twice, which is as
/// orthogonal as rounding allows; a column that depends on those before it adds nothing.
fn energy_within(columns: impl Iterator<Item = Vec<f64>>, gradient: &[f64]) -> f64 {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut within = 0.0;
    for mut column in columns {
        if basis.len() == gradient.len() {
            break;
        }
        let length = dot(&column, &column).sqrt();
        for _ in 0..2 {
            for q in &basis {
                let along = dot(q, &column);
                column.iter_mut().zip(q).for_each(|(c, q)| *c -= along * q);
            }
        }
        let left = dot(&column, &column).sqrt();
        if left <= length * TOLERANCE {
            continue;
        }
        column.iter_mut().for_each(|c| *c /= left);
        let along = dot(&column, gradient);
        within += along * along;
        basis.push(column);
    }
    within
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Header, Projection, Role, Tying};
    use crate::policy::sampling::uniform;
    use crate::projection::mixing;

    fn modules() -> Vec<ModuleId> {
        (0..4).flat_map(|l| [Role::Q, Role::Down].map(|role| ModuleId::new(l, role))).collect()
    }

    fn geometry(seed: u64, width: usize, groups: usize) -> Geometry {
        Geometry { seed, width, groups, ..Geometry::from(&Header::default()) }
    }

    fn with(mean: Vec<f64>) -> MeanGradient {
        let variance = vec![0.0; mean.len()];
        MeanGradient::new(2, modules(), mean, variance).unwrap()
    }

    fn random() -> MeanGradient {
        with((0..32).map(|i| uniform(3, 0, 0, i) - 0.5).collect())
    }

    #[test]
    fn a_gradient_that_v_can_make_is_captured_whole() {
        for (groups, tying) in [(1, Tying::Tiled), (3, Tying::Tiled), (3, Tying::Structured)] {
            let geometry = Geometry { tying, ..geometry(5, 4, groups) };
            let v: Vec<f64> = (0..4 * groups as u64).map(|i| uniform(1, 0, 0, i) - 0.5).collect();
            let modules = modules();
            let mean = (0..modules.len()).flat_map(|i| {
                let group = group_of(tying, groups as u16, &modules, i);
                mixing(&geometry, modules[i], &v[4 * group..4 * group + 4])
            });
            let found = captured(&with(mean.collect()), &modules, &geometry).unwrap();
            assert!((found - 1.0).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn capture_agrees_with_the_normal_equations() {
        // One group of one number: (P·G)² / (P·P · G·G).
        let (gradient, geometry) = (random(), geometry(9, 1, 1));
        let p: Vec<f64> = modules().iter().flat_map(|m| projections(&geometry, *m)).collect();
        let g: Vec<f64> = (0..8).flat_map(|i| gradient.of(i).to_vec()).collect();
        let expected = dot(&p, &g).powi(2) / dot(&p, &p) / dot(&g, &g);
        let found = captured(&gradient, &modules(), &geometry).unwrap();
        assert!((found - expected).abs() < 1e-15);
    }

    #[test]
    fn on_average_a_seed_captures_its_share_of_the_dimensions() {
        let gradient = random();
        for (width, groups) in [(4, 1), (8, 1), (2, 4)] {
            let of =
                |seed| captured(&gradient, &modules(), &geometry(seed, width, groups)).unwrap();
            let mean = (0..300).map(of).sum::<f64>() / 300.0;
            let expected = (width * groups) as f64 / 32.0;
            assert!((mean - expected).abs() < 0.03, "{width} × {groups}: {mean}");
        }
    }

    #[test]
    fn more_numbers_never_capture_less_and_enough_capture_all() {
        let gradient = random();
        let mut before = 0.0;
        for width in 1..40 {
            let found = captured(&gradient, &modules(), &geometry(2, width, 1)).unwrap();
            assert!(found >= before - 1e-12, "{width}");
            before = found;
        }
        assert!((before - 1.0).abs() < 1e-12, "{before}");
    }

    #[test]
    fn dependent_directions_count_once() {
        let unit = Geometry { projection: Projection::Unit, ..geometry(0, 4, 1) };
        // Unit P tie all modules' R together, so what is in reach is their common mean.
        let mean: Vec<f64> = (0..32).map(|i| if i % 8 < 4 { 1.0 } else { -1.0 }).collect();
        assert!(captured(&with(mean), &modules(), &unit).unwrap() < 1e-15);
        let all = captured(&with(vec![2.0; 32]), &modules(), &unit).unwrap();
        assert!((all - 1.0).abs() < 1e-12);
        let columns = [vec![1.0, 0.0], vec![2.0, 0.0], vec![1.0, 1e-13]];
        assert_eq!(energy_within(columns.into_iter(), &[3.0, 4.0]), 9.0);
    }

    #[test]
    fn the_search_finds_the_best_seed_and_threads_do_not_matter() {
        let gradient = random();
        let of = |seed| captured(&gradient, &modules(), &geometry(seed, 3, 1)).unwrap();
        let best = (100..400).map(|seed| (seed, of(seed))).max_by(|a, b| a.1.total_cmp(&b.1));
        let (seed, share) = best.unwrap();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let search = || search_seed(&gradient, &modules(), &geometry(0, 3, 1), 100, 300);
            assert_eq!(pool.install(search), Ok(SeedChoice { seed, captured: share }));
        }
        assert!(share > 3.0 / 32.0 * 2.0, "{share}");
    }

    #[test]
    fn equal_seeds_give_the_first_and_no_seeds_an_error() {
        let unit = Geometry { projection: Projection::Unit, ..geometry(0, 4, 1) };
        let found = search_seed(&random(), &modules(), &unit, u64::MAX - 1, 5).unwrap();
        assert_eq!(found.seed, u64::MAX - 1);
        let none = search_seed(&random(), &modules(), &unit, 0, 0);
        assert_eq!(none, Err(PlacementError::NoSeeds));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let of = |modules: &[ModuleId], geometry| captured(&random(), modules, &geometry);
        let other = [ModuleId::new(9, Role::Q)];
        assert_eq!(
            of(&other, geometry(0, 1, 1)),
            Err(PlacementError::NoGradient { module: other[0] })
        );
        for bad in [
            geometry(0, 0, 1),
            geometry(0, 1, 0),
            geometry(0, 1, 9),
            Geometry { rank: 3, ..geometry(0, 1, 1) },
        ] {
            assert!(matches!(of(&modules(), bad), Err(PlacementError::Geometry { .. })), "{bad:?}");
        }
        let zero = captured(&with(vec![0.0; 32]), &modules(), &geometry(0, 1, 1));
        assert!(matches!(zero, Err(PlacementError::NoSignal { .. })));
    }
}

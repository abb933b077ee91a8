//! From a group's values to the r×r matrix R of a module.

use super::stream;
use crate::format::{Header, ModuleId, Projection, Split, Tying};

/// What of a header decides ΔW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Rank r.
    pub rank: usize,
    /// Values per group, u.
    pub width: usize,
    /// Groups, g.
    pub groups: usize,
    /// Which modules share a group.
    pub tying: Tying,
    /// Where R comes from.
    pub projection: Projection,
    /// Where the singular values go.
    pub split: Split,
    /// Seed of P.
    pub seed: u64,
    /// Factor α.
    pub scale: f32,
}

impl From<&Header> for Geometry {
    fn from(header: &Header) -> Self {
        Self {
            rank: usize::from(header.rank),
            width: usize::from(header.width),
            groups: usize::from(header.groups),
            tying: header.tying,
            projection: header.projection,
            split: header.split,
            seed: header.seed,
            scale: header.scale,
        }
    }
}

/// P₀ … Pᵤ₋₁ of a module, u·r·r entries, each Pᵢ row-major. Under [`Projection::Unit`] the one of
/// Pᵢ is its entry i.
pub fn projections(geometry: &Geometry, module: ModuleId) -> Vec<f64> {
    let square = geometry.rank * geometry.rank;
    let mut out = vec![0.0; geometry.width * square];
    for (i, p) in (0..).zip(out.chunks_exact_mut(square)) {
        match geometry.projection {
            Projection::Seeded => {
                // A rank comes from a byte of a header.
                stream::matrix(geometry.seed, module, i, geometry.rank as u8, p);
            }
            Projection::Unit => {
                if let Some(one) = p.get_mut(usize::from(i)) {
                    *one = 1.0;
                }
            }
        }
    }
    out
}

/// R = Σᵢ vᵢ·Pᵢ, r×r row-major, each entry summed from +0 in increasing i. `group_values` are the
/// u values of the module's group.
pub fn mixing(geometry: &Geometry, module: ModuleId, group_values: &[f64]) -> Vec<f64> {
    let square = geometry.rank * geometry.rank;
    let mut r = vec![0.0; square];
    for (p, &v) in projections(geometry, module).chunks_exact(square).zip(group_values) {
        r.iter_mut().zip(p).for_each(|(r, p)| *r += v * p);
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Role;

    const MODULE: ModuleId = ModuleId::new(1, Role::O);

    #[test]
    fn a_unit_projection_lays_the_values_out_row_major() {
        let header =
            Header { projection: Projection::Unit, rank: 3, width: 9, ..Header::default() };
        let values: Vec<f64> = (1..10).map(f64::from).collect();
        assert_eq!(mixing(&Geometry::from(&header), MODULE, &values), values);
    }

    #[test]
    fn mixing_sums_the_projections_in_order() {
        let geometry = Geometry::from(&Header::default());
        let values: Vec<f64> = (0..13).map(|i| 0.1 * f64::from(i)).collect();
        let p = projections(&geometry, MODULE);
        let mut expected = [0.0; 4];
        for i in 0..13 {
            for k in 0..4 {
                expected[k] += values[i] * p[4 * i + k];
            }
        }
        assert_eq!(mixing(&geometry, MODULE, &values), expected);
    }
}

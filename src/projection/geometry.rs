//! From a group's values to the r×r matrix R of a module.

use super::stream::{self, entry};
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
#[cfg(feature = "std")]
pub fn projections(geometry: &Geometry, module: ModuleId) -> Vec<f64> {
    let square = geometry.rank * geometry.rank;
    let mut out = vec![0.0; geometry.width * square];
    for (i, p) in (0..).zip(out.chunks_exact_mut(square)) {
        match geometry.projection {
            Projection::Seeded => {
                p.iter_mut().zip(entries(geometry, module, i)).for_each(|(p, entry)| *p = entry);
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
#[cfg(feature = "std")]
pub fn mixing(geometry: &Geometry, module: ModuleId, group_values: &[f64]) -> Vec<f64> {
    let mut r = vec![0.0; geometry.rank * geometry.rank];
    mixing_into(geometry, module, group_values.iter().copied(), &mut r);
    r
}

/// [`mixing`] without a heap: R at the head of `out`, or `None` when it has no room for r² entries.
pub fn mixing_into<'a>(
    geometry: &Geometry,
    module: ModuleId,
    group_values: impl IntoIterator<Item = f64>,
    out: &'a mut [f64],
) -> Option<&'a mut [f64]> {
    let r = out.get_mut(..geometry.rank * geometry.rank)?;
    r.fill(0.0);
    for (i, v) in (0..).zip(group_values) {
        match geometry.projection {
            Projection::Seeded => {
                r.iter_mut().zip(entries(geometry, module, i)).for_each(|(r, p)| *r += v * p);
            }
            Projection::Unit => {
                if let Some(r) = r.get_mut(usize::from(i)) {
                    *r += v;
                }
            }
        }
    }
    Some(r)
}

/// R[row, col] alone, in no memory at all, for the price of a hash per value; `None` when either
/// lies beyond the rank.
pub fn mixing_entry(
    geometry: &Geometry,
    module: ModuleId,
    group_values: impl IntoIterator<Item = f64>,
    row: usize,
    col: usize,
) -> Option<f64> {
    let Geometry { rank, seed, .. } = *geometry;
    if row >= rank || col >= rank {
        return None;
    }
    let at = row * rank + col;
    let p = |i: u16| match geometry.projection {
        Projection::Seeded => entry(seed, module, i, rank as u8, at as u16),
        Projection::Unit => f64::from(u8::from(usize::from(i) == at)),
    };
    Some((0..).zip(group_values).fold(0.0, |sum, (i, v)| sum + v * p(i)))
}

/// The entries of Pᵢ; a rank comes from a byte of a header.
fn entries(geometry: &Geometry, module: ModuleId, i: u16) -> impl Iterator<Item = f64> {
    stream::matrix(geometry.seed, module, i, geometry.rank as u8)
}

#[cfg(all(test, feature = "std"))]
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
    fn without_a_heap_the_entries_are_the_same_bits_and_what_has_no_place_is_refused() {
        let seeded = |rank, width| Header { rank, width, ..Header::default() };
        for header in [
            seeded(1, 1),
            seeded(2, 13),
            seeded(3, 70),
            seeded(64, 2),
            Header { projection: Projection::Unit, ..seeded(3, 9) },
        ] {
            let (geometry, rank) = (Geometry::from(&header), usize::from(header.rank));
            let v = (0..header.width).map(|i| f64::from(i) / 7.0 - 1.0);
            let whole = mixing(&geometry, MODULE, &v.clone().collect::<Vec<_>>());
            let mut out = [f64::NAN; 64 * 64];
            let square = rank * rank;
            assert_eq!(mixing_into(&geometry, MODULE, v.clone(), &mut out[..square - 1]), None);
            assert_eq!(mixing_into(&geometry, MODULE, v.clone(), &mut out).unwrap(), whole);
            for at in [0, rank - 1, square / 2, square - 1] {
                let entry =
                    mixing_entry(&geometry, MODULE, v.clone(), at / rank, at % rank).unwrap();
                assert_eq!(entry.to_bits(), whole[at].to_bits(), "rank {rank}, entry {at}");
            }
            assert_eq!(mixing_entry(&geometry, MODULE, v.clone(), rank, 0), None);
            assert_eq!(mixing_entry(&geometry, MODULE, v, 0, rank), None);
        }
    }

    #[test]
    fn projections_are_the_entries_of_each_p_one_after_the_other() {
        let geometry = Geometry::from(&Header { rank: 3, width: 4, ..Header::default() });
        let p = projections(&geometry, MODULE);
        let expected: Vec<f64> =
            (0..4).flat_map(|i| (0..9).map(move |k| entry(7, MODULE, i, 3, k))).collect();
        assert_eq!(p, expected);
        let unit = Header { projection: Projection::Unit, rank: 3, width: 9, ..Header::default() };
        let identity = projections(&Geometry::from(&unit), MODULE);
        assert!(identity.iter().enumerate().all(|(k, &p)| p == f64::from(u8::from(k % 10 == 0))));
        assert_eq!(identity.len(), 81);
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

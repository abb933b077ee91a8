//! ΔW as two thin factors: how they are made, multiplied, digested and merged.

use ndarray::{Array2, ArrayView2};
use sha2::{Digest, Sha256};

use super::{Basis, Geometry};
use crate::format::{ModuleId, Split};

const DOMAIN: &[u8; 16] = b"tla-factors-v1\0\0";

/// ΔW = α·L·Vᵀ of one module; α is in the header, not in L.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// The module.
    pub module: ModuleId,
    /// Left factor [out, r].
    pub l: Array2<f64>,
    /// Right factor [in, r].
    pub v: Array2<f64>,
}

/// The factors of a module from its basis and its R (`mixing`, r×r row-major).
///
/// Paper: L[o, a] = Σ_b (u[o, b]·σ_b)·R[b, a]. PEFT: √σ_b for σ_b, and the sum times √σ_a.
pub fn factors(basis: &Basis, module: ModuleId, geometry: &Geometry, mixing: &[f64]) -> Factors {
    let rank = basis.sigma.len();
    let weight: Vec<f64> = match geometry.split {
        Split::Paper => basis.sigma.clone(),
        Split::Peft => basis.sigma.iter().map(|s| s.sqrt()).collect(),
    };
    let mut l = Array2::zeros(basis.u.dim());
    for (u, mut l) in basis.u.rows().into_iter().zip(l.rows_mut()) {
        for a in 0..rank {
            let mut sum = 0.0;
            for b in 0..rank {
                sum += u[b] * weight[b] * mixing[b * rank + a];
            }
            l[a] = match geometry.split {
                Split::Paper => sum,
                Split::Peft => sum * weight[a],
            };
        }
    }
    Factors { module, l, v: basis.v.clone() }
}

/// One row of ΔW: `out[i]` = α·Σₖ l[row, k]·v[i, k], summed from +0 in increasing k.
pub fn delta_row(factors: &Factors, scale: f32, row: usize, out: &mut [f64]) {
    let (l, scale) = (factors.l.row(row), f64::from(scale));
    for (out, v) in out.iter_mut().zip(factors.v.rows()) {
        let mut sum = 0.0;
        for (l, v) in l.iter().zip(v) {
            sum += l * v;
        }
        *out = scale * sum;
    }
}

/// ΔW [out, in], row by row as [`delta_row`].
pub fn delta(factors: &Factors, scale: f32) -> Array2<f64> {
    let mut out = Array2::zeros((factors.l.nrows(), factors.v.nrows()));
    let cols = out.ncols().max(1);
    for (row, out) in
        out.as_slice_mut().into_iter().flat_map(|s| s.chunks_exact_mut(cols)).enumerate()
    {
        delta_row(factors, scale, row, out);
    }
    out
}

/// The merged weight: the exact w plus ΔW in f64, rounded once to f32.
pub fn merged_f32(w: f32, delta: f64) -> f32 {
    (f64::from(w) + delta) as f32
}

/// What an adapter must rebuild to: SHA-256 over every module's L and V, given sorted by module
/// (`spec/projection.md`, factors digest). It proves nothing about α or the weights beyond the
/// factors.
pub fn factors_digest<'a>(factors: impl IntoIterator<Item = &'a Factors>) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    for Factors { module, l, v } in factors {
        hash.update(module.layer.to_le_bytes());
        hash.update(u16::from(module.role.code()).to_le_bytes());
        hash.update((l.ncols() as u32).to_le_bytes());
        hash.update((l.nrows() as u64).to_le_bytes());
        hash.update((v.nrows() as u64).to_le_bytes());
        update(&mut hash, l.view());
        update(&mut hash, v.view());
    }
    hash.finalize().into()
}

/// Row-major little-endian f64, −0 as +0.
fn update(hash: &mut Sha256, matrix: ArrayView2<f64>) {
    let mut bytes = [0; 1024];
    let mut values = matrix.iter();
    loop {
        let mut len = 0;
        for (slot, value) in bytes.chunks_exact_mut(8).zip(&mut values) {
            slot.copy_from_slice(&(value + 0.0).to_le_bytes());
            len += 8;
        }
        hash.update(&bytes[..len]);
        if len < bytes.len() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::format::{Header, Role};

    const MODULE: ModuleId = ModuleId::new(2, Role::Up);

    fn basis() -> Basis {
        Basis {
            u: array![[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]],
            sigma: vec![4.0, 9.0],
            v: array![[0.0, 1.0], [1.0, 0.0]],
            residual: 0.0,
            gap: 1.0,
            steps: 1,
        }
    }

    #[test]
    fn the_two_splits_put_the_singular_values_where_they_say() {
        let mut geometry = Geometry::from(&Header::default());
        let r = [1.0, 2.0, 3.0, 5.0];
        assert_eq!(
            factors(&basis(), MODULE, &geometry, &r).l,
            array![[4., 8.], [-27., -45.], [0., 0.]]
        );
        geometry.split = Split::Peft;
        assert_eq!(
            factors(&basis(), MODULE, &geometry, &r).l,
            array![[4., 12.], [-18., -45.], [0., 0.]]
        );
    }

    #[test]
    fn delta_is_scaled_left_times_right_transposed() {
        let geometry = Geometry::from(&Header::default());
        let f = factors(&basis(), MODULE, &geometry, &[1.0, 2.0, 3.0, 5.0]);
        assert_eq!(delta(&f, 0.5), array![[4.0, 2.0], [-22.5, -13.5], [0.0, 0.0]]);
        assert_eq!(merged_f32(1.0, 1e-9), 1.0);
        assert_eq!(merged_f32(1.0, 1.2e-7), 1.000_000_1);
    }

    #[test]
    fn the_digest_does_not_see_the_sign_of_zero_and_sees_all_else() {
        let module = MODULE;
        let zeros = |sign: f64| Factors {
            module,
            l: Array2::from_elem((3, 2), 0.0 * sign),
            v: Array2::from_elem((200, 2), 0.0 * sign),
        };
        let plain = factors_digest(&[zeros(1.0)]);
        assert_eq!(plain, factors_digest(&[zeros(-1.0)]));
        let mut other = zeros(1.0);
        other.v[[199, 1]] = 1e-300;
        assert_ne!(plain, factors_digest(&[other]));
        let turned = Factors { l: Array2::zeros((2, 3)), ..zeros(1.0) };
        assert_ne!(plain, factors_digest(&[turned]));
        assert_ne!(plain, factors_digest(&[zeros(1.0), zeros(1.0)]));
    }
}

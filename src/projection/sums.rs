//! Sums in the order of the spec, written so that the compiler can use SIMD without changing it.

use rayon::prelude::*;

/// Lanes of every long sum.
pub(super) const LANES: usize = 8;

/// A chunk of a vector that one thread updates.
const COLUMNS: usize = 1024;

/// Work below which threads cost more than they save; decides nothing but time.
const SMALL: usize = 1 << 15;

/// The tree over the lanes that ends every dot product.
pub(super) fn tree(l: &[f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Σ aᵢbᵢ: lane i mod 8 takes product i, in increasing i.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[l] += a * b;
    }
    tree(&lanes)
}

/// √Σ aᵢ².
pub(super) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Divides each entry.
pub(super) fn divide(a: &mut [f64], by: f64) {
    a.iter_mut().for_each(|x| *x /= by);
}

/// Removes from `z` its parts along the orthonormal rows of `basis`, by classical Gram–Schmidt
/// done twice, and returns the summed coefficients of both rounds.
pub(super) fn orthogonalise(z: &mut [f64], basis: &[f64]) -> Vec<f64> {
    let mut total = vec![0.0; basis.len() / z.len()];
    for _ in 0..2 {
        let round = coefficients(z, basis);
        subtract(z, basis, &round);
        total.iter_mut().zip(&round).for_each(|(t, h)| *t += h);
    }
    total
}

fn coefficients(z: &[f64], basis: &[f64]) -> Vec<f64> {
    if basis.len() < SMALL {
        basis.chunks_exact(z.len()).map(|q| dot(q, z)).collect()
    } else {
        basis.par_chunks_exact(z.len()).map(|q| dot(q, z)).collect()
    }
}

fn subtract(z: &mut [f64], basis: &[f64], coefficients: &[f64]) {
    let n = z.len();
    let chunk = |start: usize, z: &mut [f64]| {
        for (q, &h) in basis.chunks_exact(n).zip(coefficients) {
            for (z, q) in z.iter_mut().zip(&q[start..]) {
                *z -= h * q;
            }
        }
    };
    if basis.len() < SMALL {
        chunk(0, z);
    } else {
        z.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, z)| chunk(i * COLUMNS, z));
    }
}

/// Σᵢ coefficientᵢ · rowᵢ, each entry summed from +0 in increasing i.
pub(super) fn combine(rows: &[f64], n: usize, coefficients: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; n];
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, out)| {
        for (q, &s) in rows.chunks_exact(n).zip(coefficients) {
            for (out, q) in out.iter_mut().zip(&q[i * COLUMNS..]) {
                *out += s * q;
            }
        }
    });
    out
}

/// The completion of an orthonormal set: the first unit vector eⱼ of which at least 1/(2n) of the
/// square lies outside the span of the rows of `basis`, made orthonormal to them. `None` when
/// the rows span the space already.
pub(super) fn completion(basis: &[f64], n: usize) -> Option<Vec<f64>> {
    if basis.len() >= n * n {
        return None;
    }
    let enough = 1.0 / (2.0 * n as f64);
    let outside = |j: usize| basis.chunks_exact(n).fold(1.0, |left, q| left - q[j] * q[j]);
    let j = (0..n).find(|&j| outside(j) >= enough)?;
    let mut unit = vec![0.0; n];
    unit[j] = 1.0;
    orthogonalise(&mut unit, basis);
    let length = norm(&unit);
    divide(&mut unit, length);
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_product_sums_in_eight_lanes_and_one_tree() {
        let a: Vec<f64> = (0..21).map(|i| 1.0 / (f64::from(i) + 3.0)).collect();
        let b: Vec<f64> = (0..21).map(|i| 1e3 / (f64::from(i) - 7.5)).collect();
        let mut lanes = [0.0; 8];
        for i in 0..21 {
            lanes[i % 8] += a[i] * b[i];
        }
        let [c, d, e, f, g, h, i, j] = lanes;
        assert_eq!(dot(&a, &b), ((c + g) + (e + i)) + ((d + h) + (f + j)));
    }

    #[test]
    fn a_combination_adds_each_row_times_its_coefficient() {
        let rows = [1.0, 2.0, 10.0, 20.0];
        assert_eq!(combine(&rows, 2, &[3.0, 0.5]), [8.0, 16.0]);
    }

    #[test]
    fn a_set_can_be_completed_until_it_spans_the_space() {
        let n = 5;
        let mut basis = Vec::new();
        while let Some(next) = completion(&basis, n) {
            basis.extend(next);
        }
        assert_eq!(basis.len(), n * n);
        for (i, a) in basis.chunks_exact(n).enumerate() {
            for (j, b) in basis.chunks_exact(n).enumerate() {
                assert!((dot(a, b) - f64::from(u8::from(i == j))).abs() < 1e-14);
            }
        }
    }
}

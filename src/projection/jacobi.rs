//! Eigenvalues and eigenvectors of a small symmetric matrix by cyclic Jacobi rotations.

/// Sweeps after which the result is taken as it is; six to ten are usual.
const MAX_SWEEPS: usize = 30;

/// Entries at most this fraction of the largest count as zero: 2⁻⁵⁴.
const NEGLIGIBLE: f64 = 1.0 / (1u64 << 54) as f64;

/// Eigenvalues in decreasing order, ties in order of their place on the diagonal.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    /// Row k is the eigenvector of value k.
    pub(super) vectors: Vec<f64>,
}

/// Diagonalises the symmetric p×p matrix `a`, of which both triangles are given.
pub(super) fn eigen(mut a: Vec<f64>, p: usize) -> Eigen {
    let mut vectors = vec![0.0; p * p];
    (0..p).for_each(|i| vectors[i * p + i] = 1.0);
    let largest = a.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let small = NEGLIGIBLE * largest;
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for i in 0..p {
            for j in i + 1..p {
                if a[i * p + j].abs() > small {
                    rotate(&mut a, &mut vectors, p, i, j);
                    rotated = true;
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut order: Vec<usize> = (0..p).collect();
    order.sort_by(|&i, &j| a[j * p + j].total_cmp(&a[i * p + i]));
    Eigen {
        values: order.iter().map(|&i| a[i * p + i]).collect(),
        vectors: order.iter().flat_map(|&i| &vectors[i * p..][..p]).copied().collect(),
    }
}

/// Makes entry (i, j), i < j, zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], p: usize, i: usize, j: usize) {
    let (a_ij, a_ii, a_jj) = (a[i * p + j], a[i * p + i], a[j * p + j]);
    let tau = (a_jj - a_ii) / (2.0 * a_ij);
    let root = (1.0 + tau * tau).sqrt();
    let t = if tau >= 0.0 { 1.0 / (tau + root) } else { -1.0 / (root - tau) };
    let c = 1.0 / (1.0 + t * t).sqrt();
    let s = t * c;
    turn(a, p, i, j, c, s);
    turn(vectors, p, i, j, c, s);
    for k in 0..p {
        a[k * p + i] = a[i * p + k];
        a[k * p + j] = a[j * p + k];
    }
    a[i * p + i] = a_ii - t * a_ij;
    a[j * p + j] = a_jj + t * a_ij;
    a[i * p + j] = 0.0;
    a[j * p + i] = 0.0;
}

/// Turns rows i < j: (c·rowᵢ − s·rowⱼ, s·rowᵢ + c·rowⱼ).
fn turn(a: &mut [f64], p: usize, i: usize, j: usize, c: f64, s: f64) {
    let (head, tail) = a.split_at_mut(j * p);
    for (x, y) in head[i * p..][..p].iter_mut().zip(&mut tail[..p]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_diagonalise_and_are_orthonormal() {
        for p in [1, 2, 3, 17, 40] {
            let mut a = vec![0.0; p * p];
            for i in 0..p {
                for j in 0..=i {
                    let x = ((i * 31 + j * 17) % 23) as f64 - 11.0;
                    (a[i * p + j], a[j * p + i]) = (x, x);
                }
            }
            let Eigen { values, vectors } = eigen(a.clone(), p);
            assert!(values.is_sorted_by(|x, y| x >= y));
            for (k, v) in vectors.chunks_exact(p).enumerate() {
                for i in 0..p {
                    let av: f64 = (0..p).map(|j| a[i * p + j] * v[j]).sum();
                    assert!((av - values[k] * v[i]).abs() < 1e-11, "{p} {k}");
                }
            }
        }
    }

    #[test]
    fn matrices_without_anything_to_rotate_come_back() {
        assert_eq!(eigen(vec![0.0; 9], 3).values, [0.0; 3]);
        let Eigen { values, vectors } = eigen(vec![1.0, 0.0, 0.0, 2.0], 2);
        assert_eq!((values, vectors), (vec![2.0, 1.0], vec![0.0, 1.0, 1.0, 0.0]));
        assert!(eigen(vec![1e-90, 1e-200, 1e-200, 1e80], 2).values.iter().all(|x| x.is_finite()));
    }
}

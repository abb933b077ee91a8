//! The canonical truncated SVD of one weight matrix.

use ndarray::{Array2, ArrayView2};

use super::ProjectionError;
use super::gram::{Gram, Pass};
use super::lanczos::{NonFinite, leading};
use super::rebuild::with_threads;
use super::sums::{completion, divide, norm, orthogonalise};
use crate::format::{MAX_RANK, ModuleId};

/// A singular value at most this fraction of the first is 0: 2⁻²⁴, the rounding of f32 weights.
const ZERO: f64 = 1.0 / (1u64 << 24) as f64;

/// Neighbouring singular values closer than this fraction of the first, 2⁻¹⁶, make a basis that only
/// this arithmetic finds: one of rounding 2⁻²⁴, such as a decomposition in f32, may turn its vectors by
/// 2⁻⁸ and more.
const CLOSE: f64 = 1.0 / (1u64 << 16) as f64;

/// U, Σ and V of the leading singular triplets of W [out, in], and how well they are determined.
///
/// Columns are orthonormal. A rank beyond the smaller side of W adds zero columns and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// Left singular vectors [out, r].
    pub u: Array2<f64>,
    /// Singular values, largest first up to rounding; 0 from 2⁻²⁴ of the first downwards.
    pub sigma: Vec<f64>,
    /// Right singular vectors [in, r]; the entry of largest magnitude of each is positive.
    pub v: Array2<f64>,
    /// Largest ‖WᵀW v − σ²v‖ ÷ σ₁² as measured; about 1e-10 when the search converged.
    pub residual: f64,
    /// Smallest difference of neighbouring values among σ₁ … σᵣ₊₁, divided by σ₁. Small means
    /// that the vectors are these by convention only.
    pub gap: f64,
    /// Passes over W the search took.
    pub steps: usize,
}

impl Basis {
    /// Whether another method would find these vectors too: no neighbouring singular values are
    /// closer than 2⁻¹⁶ of the first.
    pub fn is_determined(&self) -> bool {
        self.gap >= CLOSE
    }
}

/// The basis of the canonical weight `w` [out, in] of a module (`spec/projection.md`, basis).
/// `threads` changes only the time; 0 means one per core.
pub fn basis(
    w: ArrayView2<f32>,
    module: ModuleId,
    rank: usize,
    threads: usize,
) -> Result<Basis, ProjectionError> {
    with_threads(threads, || basis_here(w, module, rank))?
}

/// [`basis`] on the thread pool of the caller.
pub(super) fn basis_here(
    w: ArrayView2<f32>,
    module: ModuleId,
    rank: usize,
) -> Result<Basis, ProjectionError> {
    if rank == 0 || rank > usize::from(MAX_RANK) {
        return Err(ProjectionError::Rank { rank });
    }
    let (rows, cols) = w.dim();
    if rows == 0 || cols == 0 {
        return Err(ProjectionError::EmptyWeight { module, rows, cols });
    }
    let standard = w.as_standard_layout();
    let Some(contiguous) = standard.as_slice() else {
        return Err(ProjectionError::EmptyWeight { module, rows, cols });
    };
    let mut gram = Gram::new(contiguous, rows, cols);
    let found = leading(&mut gram, module, rank).map_err(|NonFinite| non_finite(w, module))?;
    let mut v = Vec::with_capacity(rank * cols);
    for z in found.vectors.chunks_exact(cols) {
        let mut z = z.to_vec();
        orthogonalise(&mut z, &v);
        let length = norm(&z);
        let signed = signed_like_largest(&z, length);
        divide(&mut z, signed);
        v.extend(z);
    }
    let image = gram.pass(&v);
    let lengths: Vec<f64> = image.t.chunks_exact(rows).map(norm).collect();
    let (u, sigma) = left(&image.t, &lengths, rows, rank);
    Ok(Basis {
        residual: residual(&image, &v, &lengths, cols),
        gap: gap(&lengths, found.next.sqrt(), rank),
        steps: found.steps,
        u: as_columns(&u, rows, rank),
        v: as_columns(&v, cols, rank),
        sigma,
    })
}

/// `length`, negative when the entry of largest magnitude (the first of equals) is.
fn signed_like_largest(z: &[f64], length: f64) -> f64 {
    let largest = z.iter().fold(0.0f64, |m, &x| if x.abs() > m.abs() { x } else { m });
    if largest < 0.0 { -length } else { length }
}

/// Left vectors as rows, and singular values, from t = W v.
fn left(t: &[f64], lengths: &[f64], rows: usize, rank: usize) -> (Vec<f64>, Vec<f64>) {
    let mut u = Vec::with_capacity(rank * rows);
    let mut sigma = vec![0.0; rank];
    for ((t, &length), sigma) in t.chunks_exact(rows).zip(lengths).zip(&mut sigma) {
        if length > ZERO * lengths[0] {
            let mut z = t.to_vec();
            divide(&mut z, length);
            orthogonalise(&mut z, &u);
            let left = norm(&z);
            if left > 0.5 {
                divide(&mut z, left);
                u.extend(z);
                *sigma = length;
                continue;
            }
        }
        u.extend(completion(&u, rows).into_iter().flatten());
    }
    (u, sigma)
}

fn residual(image: &Pass, v: &[f64], lengths: &[f64], cols: usize) -> f64 {
    let first = lengths[0] * lengths[0];
    let mut worst: f64 = 0.0;
    for ((y, v), length) in image.y.chunks_exact(cols).zip(v.chunks_exact(cols)).zip(lengths) {
        let square = length * length;
        let difference: Vec<f64> = y.iter().zip(v).map(|(y, v)| y - square * v).collect();
        let share = if first > 0.0 { norm(&difference) / first } else { 0.0 };
        worst = worst.max(share);
    }
    worst
}

fn gap(lengths: &[f64], next: f64, rank: usize) -> f64 {
    let after = if lengths.len() < rank { 0.0 } else { next };
    let followers = lengths[1..].iter().chain([&after]);
    let smallest = lengths.iter().zip(followers).map(|(a, b)| a - b).fold(f64::INFINITY, f64::min);
    // Without any weight 0 ÷ 0, of which `max` makes 0.
    (smallest / lengths[0]).max(0.0)
}

/// Rows of `n` as columns of an n×rank matrix; missing ones are zero.
fn as_columns(rows: &[f64], n: usize, rank: usize) -> Array2<f64> {
    let mut out = Array2::zeros((n, rank));
    for (mut column, row) in out.columns_mut().into_iter().zip(rows.chunks_exact(n)) {
        column.iter_mut().zip(row).for_each(|(out, x)| *out = *x);
    }
    out
}

fn non_finite(w: ArrayView2<f32>, module: ModuleId) -> ProjectionError {
    let found = w.indexed_iter().find(|(_, value)| !value.is_finite());
    let ((row, col), &value) = found.unwrap_or(((0, 0), &f32::NAN));
    ProjectionError::NonFiniteWeight { module, row, col, value }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::format::Role;

    const MODULE: ModuleId = ModuleId::new(0, Role::Q);

    #[test]
    fn a_diagonal_matrix_gives_its_entries_and_unit_vectors() {
        let w = array![[0.0f32, 3.0, 0.0], [-5.0, 0.0, 0.0]];
        let b = basis(w.view(), MODULE, 2, 1).unwrap();
        let close = |a: &Array2<f64>, b: Array2<f64>| (a - &b).iter().all(|x| x.abs() < 1e-14);
        assert!((b.sigma[0] - 5.0).abs() < 1e-14 && (b.sigma[1] - 3.0).abs() < 1e-14);
        assert!(close(&b.v, array![[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), "{:?}", b.v);
        assert!(close(&b.u, array![[0.0, 1.0], [-1.0, 0.0]]), "{:?}", b.u);
        assert!(b.residual < 1e-15 && (b.gap - 0.4).abs() < 1e-12);
        assert_eq!(b.steps, 2);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut w = Array2::from_elem((4, 5), 1.0f32);
            w[[2, 3]] = value;
            let error = basis(w.view(), MODULE, 2, 1).unwrap_err();
            assert!(
                matches!(error, ProjectionError::NonFiniteWeight { row: 2, col: 3, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn the_first_of_the_largest_entries_gives_the_sign() {
        assert_eq!(signed_like_largest(&[1.0, 2.0, -2.0], 3.0), 3.0);
        assert_eq!(signed_like_largest(&[1.0, -2.0, 2.0], 3.0), -3.0);
        assert_eq!(signed_like_largest(&[0.0, 0.0], 3.0), 3.0);
    }

    #[test]
    fn a_value_at_the_limit_is_zero_and_its_vector_completes_the_others() {
        let (u, sigma) = left(&[1.0, 0.0, 0.0, ZERO], &[1.0, ZERO], 2, 2);
        assert_eq!((u, sigma), (vec![1.0, 0.0, 0.0, 1.0], vec![1.0, 0.0]));
        let above = 1.5 * ZERO;
        let (u, sigma) = left(&[1.0, 0.0, 0.0, above], &[1.0, above], 2, 2);
        assert_eq!((u, sigma), (vec![1.0, 0.0, 0.0, 1.0], vec![1.0, above]));
        // Half of the second lies along the first.
        let (u, sigma) = left(&[1.0, 0.0, 0.75, 0.5], &[1.0, 1.0], 2, 2);
        assert_eq!((u, sigma), (vec![1.0, 0.0, 0.0, 1.0], vec![1.0, 0.0]));
    }

    #[test]
    fn the_residual_is_the_worst_of_all_vectors_and_none_without_weight() {
        let of = |y: [f64; 3], lengths: [f64; 3]| {
            let image = Pass { y: y.to_vec(), t: Vec::new() };
            residual(&image, &[1.0, 1.0, 1.0], &lengths, 1)
        };
        assert_eq!(of([4.0, 1.0, 1.0], [2.0, 1.0, 1.0]), 0.0);
        assert_eq!(of([5.0, 1.0, 1.0], [2.0, 1.0, 1.0]), 0.25);
        assert_eq!(of([4.5, 3.0, 2.0], [2.0, 1.0, 1.0]), 0.5);
        assert_eq!(of([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), 0.0);
    }

    #[test]
    fn a_basis_is_determined_from_a_gap_of_2_to_the_minus_16_on() {
        let of = |gap: f32| {
            let w = array![[1.0f32, 0.0], [0.0, 1.0 - gap]];
            basis(w.view(), MODULE, 2, 1).unwrap()
        };
        let limit = 2f32.powi(-16);
        assert!(of(2.0 * limit).is_determined());
        assert!(of(limit).is_determined());
        assert!(!of(0.5 * limit).is_determined());
        assert!(!of(0.0).is_determined());
    }

    #[test]
    fn the_gap_reaches_to_the_first_value_left_out() {
        assert_eq!(gap(&[4.0, 2.0], 1.0, 2), 0.25);
        // A smaller side than the rank leaves none out.
        assert_eq!(gap(&[4.0, 2.0], 1.0, 3), 0.5);
        assert_eq!(gap(&[4.0, 4.0], 1.0, 2), 0.0);
        assert_eq!(gap(&[4.0, 2.0], 3.0, 2), 0.0);
        assert_eq!(gap(&[0.0], 0.0, 1), 0.0);
    }

    #[test]
    fn ranks_and_shapes_out_of_range_are_errors() {
        let w = Array2::from_elem((4, 5), 1.0f32);
        assert!(basis(w.view(), MODULE, 64, 1).is_ok());
        assert_eq!(basis(w.view(), MODULE, 0, 1), Err(ProjectionError::Rank { rank: 0 }));
        assert_eq!(basis(w.view(), MODULE, 65, 1), Err(ProjectionError::Rank { rank: 65 }));
        let empty = Array2::<f32>::zeros((0, 5));
        assert!(matches!(
            basis(empty.view(), MODULE, 1, 1),
            Err(ProjectionError::EmptyWeight { rows: 0, cols: 5, .. })
        ));
    }
}

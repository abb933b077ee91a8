//! The leading eigenvectors of WᵀW by block Lanczos with full reorthogonalisation.
//!
//! A block, not a single vector, so that a singular value repeated up to [`BLOCK`] times among
//! the leading ones is found as often as it occurs, and W is read fewer times.

use super::gram::Gram;
use super::jacobi::{Eigen, eigen};
use super::stream;
use super::sums::{combine, completion, divide, norm, orthogonalise};
use crate::format::ModuleId;

/// Vectors per pass over W, at most.
const BLOCK: usize = 4;

/// A Ritz pair has converged when its residual is at most this fraction of its value: 2⁻³³.
const TOLERANCE: f64 = 1.0 / (1u64 << 33) as f64;

/// ... or this fraction of the largest value, the level of rounding: 2⁻⁴⁶.
const FLOOR: f64 = 1.0 / (1u64 << 46) as f64;

/// A new direction shorter than this fraction of the longest product so far is rounding: 2⁻⁴⁰.
const BREAKDOWN: f64 = 1.0 / (1u64 << 40) as f64;

/// A start vector of which less than this fraction is new gives way to a unit vector: 2⁻²⁰.
const NOTHING_NEW: f64 = 1.0 / (1u64 << 20) as f64;

/// Dimension of the Krylov space at which the search stops, converged or not.
const fn cap(rank: usize) -> usize {
    8 * rank + 240
}

/// The leading eigenpairs of WᵀW, as good as they got.
pub(super) struct Leading {
    /// min(rank, rows, cols) rows of `cols`: eigenvectors by decreasing value.
    pub(super) vectors: Vec<f64>,
    /// The first value left out, 0 when there is none.
    pub(super) next: f64,
    /// Passes over W.
    pub(super) steps: usize,
}

/// W is not finite.
pub(super) struct NonFinite;

struct Krylov {
    n: usize,
    /// Orthonormal rows, `n` each.
    q: Vec<f64>,
    /// Column j: the coefficients of WᵀW·qⱼ over the rows of `q` known when it was made.
    columns: Vec<Vec<f64>>,
    /// Start vectors drawn so far.
    drawn: u32,
}

/// Searches until the leading `rank` pairs have converged or the cap is reached.
pub(super) fn leading(
    gram: &mut Gram,
    module: ModuleId,
    rank: usize,
) -> Result<Leading, NonFinite> {
    let n = gram.cols();
    let wanted = rank.min(n).min(gram.rows());
    let mut space = Krylov { n, q: Vec::new(), columns: Vec::new(), drawn: 0 };
    let (mut longest, mut next_check, mut steps) = (0f64, wanted, 0);
    loop {
        if space.dimension() == space.processed() {
            (0..BLOCK.min(wanted)).for_each(|_| space.draw(module));
        }
        let y = gram.pass(&space.q[space.processed() * n..]).y;
        steps += 1;
        if !y.iter().all(|y| y.is_finite()) {
            return Err(NonFinite);
        }
        for z in y.chunks_exact(n) {
            space.extend(z, &mut longest);
        }
        let p = space.processed();
        let stop = space.dimension() == p || p >= cap(rank);
        if p >= wanted && (stop || p >= next_check) {
            let ritz = eigen(space.projected(), p);
            if stop || space.converged(&ritz, wanted) {
                let next = ritz.values.get(wanted).map_or(0.0, |&x| x.max(0.0));
                return Ok(Leading { vectors: space.lift(&ritz, wanted), next, steps });
            }
            next_check = p + (p / 8).max(1);
        }
    }
}

impl Krylov {
    fn dimension(&self) -> usize {
        self.q.len() / self.n
    }

    fn processed(&self) -> usize {
        self.columns.len()
    }

    /// Appends one vector orthonormal to all before it, unless they span the space.
    fn draw(&mut self, module: ModuleId) {
        let mut z = vec![0.0; self.n];
        stream::start(module, self.drawn, &mut z);
        self.drawn += 1;
        let before = norm(&z);
        orthogonalise(&mut z, &self.q);
        let after = norm(&z);
        if after > NOTHING_NEW * before {
            divide(&mut z, after);
            self.q.extend(z);
        } else if let Some(unit) = completion(&self.q, self.n) {
            self.q.extend(unit);
        }
    }

    /// Takes z = WᵀW·q of the first row of `q` not yet processed.
    fn extend(&mut self, z: &[f64], longest: &mut f64) {
        let mut z = z.to_vec();
        let before = norm(&z);
        *longest = longest.max(before);
        let mut column = orthogonalise(&mut z, &self.q);
        let beta = norm(&z);
        if self.dimension() < self.n && beta > BREAKDOWN * *longest {
            divide(&mut z, beta);
            self.q.extend(z);
            column.push(beta);
        }
        self.columns.push(column);
    }

    /// QᵀWᵀWQ over the processed rows: the upper triangle as computed, mirrored.
    fn projected(&self) -> Vec<f64> {
        let p = self.processed();
        let mut a = vec![0.0; p * p];
        for (j, column) in self.columns.iter().enumerate() {
            for (i, &x) in column.iter().enumerate().take(j + 1) {
                (a[i * p + j], a[j * p + i]) = (x, x);
            }
        }
        a
    }

    /// Whether the residuals of the leading pairs, which lie in the rows not yet processed, are
    /// small enough.
    fn converged(&self, ritz: &Eigen, wanted: usize) -> bool {
        let p = self.processed();
        ritz.vectors.chunks_exact(p).zip(&ritz.values).take(wanted).all(|(s, &value)| {
            let mut square = 0.0;
            for row in p..self.dimension() {
                let mut part = 0.0;
                for (column, s) in self.columns.iter().zip(s) {
                    if let Some(b) = column.get(row) {
                        part += b * s;
                    }
                }
                square += part * part;
            }
            let residual = square.sqrt();
            residual <= TOLERANCE * value || residual <= FLOOR * ritz.values[0]
        })
    }

    fn lift(&self, ritz: &Eigen, wanted: usize) -> Vec<f64> {
        let p = self.processed();
        ritz.vectors
            .chunks_exact(p)
            .take(wanted)
            .flat_map(|s| combine(&self.q, self.n, s))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Role;

    #[test]
    fn the_cap_is_the_one_of_the_spec() {
        assert_eq!([1, 2, 64].map(cap), [248, 256, 752]);
    }

    #[test]
    fn a_start_vector_with_little_that_is_new_gives_way_to_a_unit_vector() {
        let n = 3;
        let start_of = |layer| {
            let mut start = vec![0.0; n];
            stream::start(ModuleId::new(layer, Role::Q), 0, &mut start);
            start
        };
        let module = ModuleId::new((0..).find(|&l| norm(&start_of(l)) > 1.5).unwrap(), Role::Q);
        let start = start_of(module.layer);
        let before = norm(&start);
        // Orthogonal to the start vector, and short beside it.
        let mut aside = vec![-start[1], start[0], 0.0];
        let length = norm(&aside);
        divide(&mut aside, length);
        for (share, is_new) in [(0.95 * NOTHING_NEW, false), (1.05 * NOTHING_NEW, true)] {
            let tilted = start.iter().zip(&aside).map(|(x, a)| x / before + share * a);
            let mut known: Vec<f64> = tilted.collect();
            let length = norm(&known);
            divide(&mut known, length);
            let mut space = Krylov { n, q: known.clone(), columns: Vec::new(), drawn: 0 };
            space.draw(module);
            let unit = completion(&known, n).unwrap();
            let drawn = &space.q[n..];
            assert_eq!(drawn != unit, is_new, "{drawn:?} {unit:?}");
        }
    }
}

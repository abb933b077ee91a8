//! One pass over W: y = Wᵀ(W x) and t = W x for a few vectors x at once.
//!
//! W is read once, in row order, on either side of square: t of a row is a sum along the row, and
//! the row then adds t·w to y while it is still in cache.
//!
//! Small arrays are indexed, not iterated over: a reference into one would keep the sums in memory
//! instead of registers.
#![allow(clippy::needless_range_loop, reason = "see above")]

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::sums::{LANES, tree};

/// Rows whose share of y is summed alone. Part of the result's definition.
const BLOCK_ROWS: usize = 128;

/// A weight matrix seen through its Gram operator.
pub(super) struct Gram<'a> {
    w: &'a [f32],
    rows: usize,
    cols: usize,
    /// Each block's share of y, kept between passes so that its pages are touched once.
    shares: Vec<f64>,
}

/// What one pass yields for c vectors.
pub(super) struct Pass {
    /// c rows of `cols`: Wᵀ W x.
    pub(super) y: Vec<f64>,
    /// c rows of `rows`: W x.
    pub(super) t: Vec<f64>,
}

impl<'a> Gram<'a> {
    /// The operator of W [rows, cols], row-major and not empty.
    pub(super) fn new(w: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { w, rows, cols, shares: Vec::new() }
    }

    /// Rows (out).
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (in).
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// One pass for the c rows of `x`, `cols` each.
    pub(super) fn pass(&mut self, x: &[f64]) -> Pass {
        let (n, c) = (self.cols, x.len() / self.cols);
        self.shares.resize(self.rows.div_ceil(BLOCK_ROWS) * c * n, 0.0);
        let mut t_by_row = vec![0.0; self.rows * c];
        self.shares
            .par_chunks_mut(c * n)
            .zip(t_by_row.par_chunks_mut(BLOCK_ROWS * c))
            .zip(self.w.par_chunks(BLOCK_ROWS * n))
            .for_each(|((y, t), w)| Arch::new().dispatch(Block { w, n, x, y, t }));
        let mut t = vec![0.0; self.rows * c];
        for (row, of_row) in t_by_row.chunks_exact(c).enumerate() {
            for (v, &value) in of_row.iter().enumerate() {
                t[v * self.rows + row] = value;
            }
        }
        Pass { y: sum_blocks(&self.shares, c * n), t }
    }
}

/// Adds the blocks' shares in order.
fn sum_blocks(shares: &[f64], len: usize) -> Vec<f64> {
    const COLUMNS: usize = 1024;
    let (first, rest) = shares.split_at(len);
    let mut y = first.to_vec();
    y.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, y)| {
        for share in rest.chunks_exact(len) {
            y.iter_mut().zip(&share[i * COLUMNS..]).for_each(|(y, share)| *y += share);
        }
    });
    y
}

/// One block of rows. Everything it calls is inlined into one body, which `pulp` compiles for
/// each instruction set and picks at run time: a wider one does the same operations, more at once.
struct Block<'a> {
    w: &'a [f32],
    n: usize,
    x: &'a [f64],
    y: &'a mut [f64],
    t: &'a mut [f64],
}

impl NullaryFnOnce for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { w, n, x, y, t } = self;
        let c = x.len() / n;
        y.fill(0.0);
        let whole = w.len() / n / 4 * 4;
        let ((w, w_rest), (t, t_rest)) = (w.split_at(whole * n), t.split_at_mut(whole * c));
        for (w, t) in w.chunks_exact(4 * n).zip(t.chunks_exact_mut(4 * c)) {
            let (mut x, mut y, mut v) = (x, &mut *y, 0);
            while x.len() >= 2 * n {
                let (pair, more_x) = x.split_at(2 * n);
                let (shares, more_y) = y.split_at_mut(2 * n);
                let products = four_by_two(w, n, pair, shares);
                for r in 0..4 {
                    t[r * c + v] = products[r][0];
                    t[r * c + v + 1] = products[r][1];
                }
                (x, y, v) = (more_x, more_y, v + 2);
            }
            if !x.is_empty() {
                let products = four_by_one(w, n, x, y);
                for r in 0..4 {
                    t[r * c + v] = products[r];
                }
            }
        }
        for (w, t) in w_rest.chunks_exact(n).zip(t_rest.chunks_exact_mut(c)) {
            for ((x, y), t) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(t) {
                *t = ended(&lanes([w], [x])[0][0], w, x);
                add([w], [*t], y);
            }
        }
    }
}

/// The products of four rows with two vectors, which they add to the vectors' shares.
#[inline(always)]
fn four_by_two(w: &[f32], n: usize, x: &[f64], y: &mut [f64]) -> [[f64; 2]; 4] {
    let (x, z) = x.split_at(n);
    let (y, share_of_z) = y.split_at_mut(n);
    let (a, b, c, d) = (&w[..n], &w[n..2 * n], &w[2 * n..3 * n], &w[3 * n..]);
    let [of_a, of_b] = lanes([a, b], [x, z]);
    let [of_c, of_d] = lanes([c, d], [x, z]);
    let t = [
        [ended(&of_a[0], a, x), ended(&of_a[1], a, z)],
        [ended(&of_b[0], b, x), ended(&of_b[1], b, z)],
        [ended(&of_c[0], c, x), ended(&of_c[1], c, z)],
        [ended(&of_d[0], d, x), ended(&of_d[1], d, z)],
    ];
    add_to_two([a, b, c, d], t, y, share_of_z);
    t
}

/// [`four_by_two`] for one vector.
#[inline(always)]
fn four_by_one(w: &[f32], n: usize, x: &[f64], y: &mut [f64]) -> [f64; 4] {
    let (a, b, c, d) = (&w[..n], &w[n..2 * n], &w[2 * n..3 * n], &w[3 * n..]);
    let [[of_a], [of_b]] = lanes([a, b], [x]);
    let [[of_c], [of_d]] = lanes([c, d], [x]);
    let t = [ended(&of_a, a, x), ended(&of_b, b, x), ended(&of_c, c, x), ended(&of_d, d, x)];
    add([a, b, c, d], t, y);
    t
}

/// The lanes of the dot products of R rows with V vectors, up to the last whole eight entries.
#[inline(always)]
fn lanes<const R: usize, const V: usize>(w: [&[f32]; R], x: [&[f64]; V]) -> [[[f64; LANES]; V]; R] {
    let whole = x[0].len() / LANES;
    let mut rows: [&[[f32; LANES]]; R] = [&[]; R];
    let mut vectors: [&[[f64; LANES]]; V] = [&[]; V];
    for r in 0..R {
        rows[r] = &w[r].as_chunks().0[..whole];
    }
    for v in 0..V {
        vectors[v] = &x[v].as_chunks().0[..whole];
    }
    let mut lanes = [[[0.0; LANES]; V]; R];
    for i in 0..whole {
        for r in 0..R {
            for v in 0..V {
                for l in 0..LANES {
                    lanes[r][v][l] += f64::from(rows[r][i][l]) * vectors[v][i][l];
                }
            }
        }
    }
    lanes
}

/// The dot product as [`super::sums::dot`] sums it, from the lanes of its whole eights. The rest is
/// padded with zeros: a lane starts at +0 and is never −0, so adding +0 changes none.
#[inline(always)]
fn ended(lanes: &[f64; LANES], w: &[f32], x: &[f64]) -> f64 {
    let (mut last_w, mut last_x) = ([0.0; LANES], [0.0; LANES]);
    let (w, x) = (w.as_chunks::<LANES>().1, x.as_chunks::<LANES>().1);
    last_w[..w.len()].copy_from_slice(w);
    last_x[..x.len()].copy_from_slice(x);
    let mut lanes = *lanes;
    for l in 0..LANES {
        lanes[l] += f64::from(last_w[l]) * last_x[l];
    }
    tree(&lanes)
}

/// y += tᵣ·wᵣ for R rows, in row order.
#[inline(always)]
fn add<const R: usize>(w: [&[f32]; R], t: [f64; R], y: &mut [f64]) {
    let n = y.len();
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &w[r][..n];
    }
    for i in 0..n {
        let mut sum = y[i];
        for r in 0..R {
            sum += t[r] * f64::from(rows[r][i]);
        }
        y[i] = sum;
    }
}

/// [`add`] for two vectors: a weight is widened once for both.
#[inline(always)]
fn add_to_two<const R: usize>(w: [&[f32]; R], t: [[f64; 2]; R], y: &mut [f64], z: &mut [f64]) {
    let n = y.len();
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &w[r][..n];
    }
    let z = &mut z[..n];
    for i in 0..n {
        let (mut a, mut b) = (y[i], z[i]);
        for r in 0..R {
            let w = f64::from(rows[r][i]);
            a += t[r][0] * w;
            b += t[r][1] * w;
        }
        (y[i], z[i]) = (a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::sums::dot;

    #[test]
    fn a_pass_is_the_plain_loop_bit_for_bit() {
        for (rows, cols, c) in
            [(1, 1, 1), (5, 1, 2), (3, 5, 2), (130, 19, 3), (261, 8, 4), (6, 300, 1)]
        {
            let value = |i: usize| ((i * 7919 % 1009) as f64 - 504.0) / 97.0;
            let w: Vec<f32> = (0..rows * cols).map(|i| value(i) as f32).collect();
            let x: Vec<f64> = (0..c * cols).map(|i| value(i + 31)).collect();
            let pass = Gram::new(&w, rows, cols).pass(&x);
            for v in 0..c {
                let x = &x[v * cols..][..cols];
                let mut y: Option<Vec<f64>> = None;
                for (b, block) in w.chunks(BLOCK_ROWS * cols).enumerate() {
                    let mut share = vec![0.0; cols];
                    for (r, row) in block.chunks_exact(cols).enumerate() {
                        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                        let t = dot(&row, x);
                        assert_eq!(t, pass.t[v * rows + b * BLOCK_ROWS + r]);
                        share.iter_mut().zip(&row).for_each(|(y, w)| *y += t * w);
                    }
                    y = Some(match y {
                        None => share,
                        Some(y) => y.iter().zip(share).map(|(y, s)| y + s).collect(),
                    });
                }
                assert_eq!(y.unwrap(), pass.y[v * cols..][..cols]);
            }
        }
    }
}

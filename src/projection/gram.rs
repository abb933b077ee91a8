//! One pass over W: y = Wᵀ(W x) and t = W x for a few vectors x at once.
//!
//! W is read once, in row order, on either side of square: t of a row is a sum along the row, and
//! the row then adds t·w to y while it is still in cache.

use rayon::prelude::*;

use super::sums::{LANES, tree};

/// Rows whose share of y is summed alone. Part of the result's definition.
const BLOCK_ROWS: usize = 128;

/// Rows that update y together, to load and store it less often. Changes no sum.
const TILE_ROWS: usize = 4;

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
            .for_each(|((y, t), w)| block(w, n, x, y, t));
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

fn block(w: &[f32], n: usize, x: &[f64], y: &mut [f64], t: &mut [f64]) {
    let c = x.len() / n;
    y.fill(0.0);
    for (w, t) in w.chunks(TILE_ROWS * n).zip(t.chunks_mut(TILE_ROWS * c)) {
        for (v, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            if w.len() == TILE_ROWS * n {
                let sums = tile::<TILE_ROWS>(w, n, x, y);
                (0..TILE_ROWS).for_each(|r| t[r * c + v] = sums[r]);
            } else {
                for (r, w) in w.chunks_exact(n).enumerate() {
                    [t[r * c + v]] = tile::<1>(w, n, x, y);
                }
            }
        }
    }
}

/// The products of R rows with x, which they add to y in row order.
fn tile<const R: usize>(w: &[f32], n: usize, x: &[f64], y: &mut [f64]) -> [f64; R] {
    let rows: [&[f32]; R] = core::array::from_fn(|r| &w[r * n..][..n]);
    let mut t = [0.0; R];
    let mut pairs = rows.chunks_exact(2);
    for (t, pair) in t.chunks_exact_mut(2).zip(&mut pairs) {
        t.copy_from_slice(&row_dots([pair[0], pair[1]], x));
    }
    if let &[last] = pairs.remainder() {
        [t[R - 1]] = row_dots([last], x);
    }
    add_rows(rows, &t, y);
    t
}

/// The dot products of R rows with x, each as [`super::sums::dot`] sums it. Two at a time keep
/// the adders busy; more would not fit the registers.
fn row_dots<const R: usize>(w: [&[f32]; R], x: &[f64]) -> [f64; R] {
    let mut lanes = [[0.0; LANES]; R];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let main = w.map(|w| &w.as_chunks::<LANES>().0[..x.len()]);
    for (i, x) in x.iter().enumerate() {
        for r in 0..R {
            for l in 0..LANES {
                lanes[r][l] += f64::from(main[r][i][l]) * x[l];
            }
        }
    }
    for r in 0..R {
        for (l, (&w, x)) in w[r][x.len() * LANES..].iter().zip(x_rest).enumerate() {
            lanes[r][l] += f64::from(w) * x;
        }
    }
    lanes.map(|lanes| tree(&lanes))
}

/// y += tᵣ·wᵣ for R rows, in row order.
fn add_rows<const R: usize>(w: [&[f32]; R], t: &[f64; R], y: &mut [f64]) {
    let n = y.len();
    let w = w.map(|w| &w[..n]);
    for i in 0..n {
        let mut sum = y[i];
        for r in 0..R {
            sum += t[r] * f64::from(w[r][i]);
        }
        y[i] = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::sums::dot;

    #[test]
    fn a_pass_is_the_plain_loop_bit_for_bit() {
        for (rows, cols, c) in [(1, 1, 1), (3, 5, 2), (130, 19, 3), (261, 8, 4), (6, 300, 1)] {
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

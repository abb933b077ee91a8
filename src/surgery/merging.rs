//! W' = round(W + ΔW), a few megabytes at a time, in the order in which W is stored.
//!
//! W may be stored as it is or turned. Every number comes out the same: each sum runs in the order
//! that `spec/projection.md` gives it, whatever the order in which the weights come.

use super::{
    ModuleSurvival, SurgeryError,
    addend::Term,
    rounding::{to_bf16, to_f16},
};
use crate::{
    model::{ElementType, ModelError, Target},
    projection::{Factors, merged_f32},
};
use half::{bf16, f16};
use rayon::{ThreadPool, prelude::*};
use std::io::Read;

/// Bytes of a weight that are merged at once; at least a row.
const PIECE: usize = 4 << 20;

/// Values whose updates are computed together; they fit the first cache.
const BLOCK: usize = 512;

/// The update of a stored matrix: `outer` rows of `inner` values.
#[derive(Debug)]
pub(super) struct Update<'a> {
    target: &'a Target,
    terms: Vec<Factored>,
    /// Whether a stored row is a column of the canonical weight.
    turned: bool,
    outer: usize,
    inner: usize,
}

/// One term, laid out for the stored order.
#[derive(Debug)]
struct Factored {
    rank: usize,
    /// `[outer, rank]`.
    outer: Vec<f64>,
    /// `[rank, inner]`.
    inner: Vec<f64>,
    scale: f64,
    weight: f64,
}

impl Factored {
    fn new(term: &Term, turned: bool) -> Self {
        let Factors { l, v, .. } = term.factors;
        let (outer, inner) = if turned { (v, l) } else { (l, v) };
        Self {
            rank: l.ncols(),
            outer: outer.iter().copied().collect(),
            inner: inner.t().iter().copied().collect(),
            scale: term.scale,
            weight: term.weight,
        }
    }

    /// weight · α · Σₖ of the values `from..` of a stored row, the sum from +0 in increasing k.
    fn delta(&self, row: usize, from: usize, out: &mut [f64]) {
        let width = self.inner.len() / self.rank.max(1);
        out.fill(0.0);
        for k in 0..self.rank {
            let left = self.outer[row * self.rank + k];
            let right = &self.inner[k * width + from..][..out.len()];
            out.iter_mut().zip(right).for_each(|(out, right)| *out += left * right);
        }
        out.iter_mut().for_each(|out| *out = self.weight * (self.scale * *out));
    }
}

/// ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩ of a row of the canonical weight, as far as it is merged.
type Products = (f64, f64);

/// A stored row and value in it whose sum is not finite, and the sum.
type Place = (usize, usize, f32);

impl<'a> Update<'a> {
    /// Of a matrix that is stored `turned`, `[in, out]`, or canonical, `[out, in]`.
    pub fn new(target: &'a Target, terms: &[Term], turned: bool) -> Result<Self, SurgeryError> {
        if let ElementType::Other(_) = target.dtype {
            let (name, dtype) = (target.initializer.clone(), target.dtype.name());
            return Err(ModelError::NotFloat { name, dtype }.into());
        }
        let (outer, inner) = match turned {
            true => (target.cols, target.rows),
            false => (target.rows, target.cols),
        };
        let terms = terms.iter().map(|term| Factored::new(term, turned)).collect();
        Ok(Self { target, terms, turned, outer, inner })
    }

    /// Hands the merged bytes of the matrix, which `source` has from front to end, to `each`.
    pub fn merge<E: From<SurgeryError>>(
        &self,
        pool: &ThreadPool,
        mut source: impl FnMut(&mut [u8]) -> Result<(), SurgeryError>,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<ModuleSurvival, E> {
        let size = self.target.dtype.size().unwrap_or(1) as usize;
        let row = self.inner.saturating_mul(size).max(1);
        let rows = (PIECE / row).max(1);
        let mut buffer = vec![0; rows.min(self.outer) * row];
        let mut products = vec![(0.0, 0.0); self.target.rows];
        for first in (0..self.outer).step_by(rows) {
            let count = rows.min(self.outer - first);
            let piece = &mut buffer[..count * row];
            source(piece)?;
            let merged = pool.install(|| match self.turned {
                true => self.columns(first, row, size, piece, &mut products),
                false => self.rows(first, row, piece, &mut products[first..first + count]),
            });
            merged.map_err(|place| self.not_finite(place))?;
            each(piece)?;
        }
        let sum = |part: fn(&Products) -> f64| products.iter().map(part).fold(0.0, |a, x| a + x);
        Ok(ModuleSurvival { module: self.target.module, kept: sum(|p| p.0), wanted: sum(|p| p.1) })
    }

    fn not_finite(&self, (row, value, sum): Place) -> SurgeryError {
        let (row, col) = if self.turned { (value, row) } else { (row, value) };
        SurgeryError::NotFinite { module: self.target.module, row, col, value: sum }
    }

    /// Merges whole rows, `first` and those after it, each with its own products.
    fn rows(
        &self,
        first: usize,
        row: usize,
        piece: &mut [u8],
        products: &mut [Products],
    ) -> Result<(), Place> {
        let size = row / self.inner.max(1);
        let merge =
            |work: &mut Work, (index, (bytes, products)): (usize, (&mut [u8], &mut Products))| {
                let (mut kept, mut wanted) = (0.0, 0.0);
                for (block, bytes) in bytes.chunks_mut(BLOCK * size).enumerate() {
                    self.block(work, first + index, block * BLOCK, bytes)?;
                    for (moved, delta) in work.filled(bytes.len() / size) {
                        kept += moved * delta;
                        wanted += delta * delta;
                    }
                }
                *products = (kept, wanted);
                Ok(())
            };
        let rows = piece.par_chunks_mut(row).zip(products).enumerate();
        first_of(rows.map_init(Work::default, merge).collect())
    }

    /// Merges whole rows, each value of which belongs to another row of the canonical weight.
    fn columns(
        &self,
        first: usize,
        row: usize,
        size: usize,
        piece: &mut [u8],
        products: &mut [Products],
    ) -> Result<(), Place> {
        let mut blocks: Vec<Vec<&mut [u8]>> = Vec::new();
        blocks.resize_with(self.inner.div_ceil(BLOCK), Vec::new);
        for row in piece.chunks_mut(row) {
            blocks.iter_mut().zip(row.chunks_mut(BLOCK * size)).for_each(|(list, b)| list.push(b));
        }
        let merge =
            |work: &mut Work,
             (block, (rows, products)): (usize, (Vec<&mut [u8]>, &mut [Products]))| {
                for (index, bytes) in rows.into_iter().enumerate() {
                    self.block(work, first + index, block * BLOCK, bytes)?;
                    let filled = work.filled(products.len());
                    for ((kept, wanted), (moved, delta)) in products.iter_mut().zip(filled) {
                        *kept += moved * delta;
                        *wanted += delta * delta;
                    }
                }
                Ok(())
            };
        let blocks = blocks.into_par_iter().zip(products.par_chunks_mut(BLOCK)).enumerate();
        first_of(blocks.map_init(Work::default, merge).collect())
    }

    /// Merges the values `from..` of a stored row in place; leaves what it did in `work`.
    fn block(
        &self,
        work: &mut Work,
        row: usize,
        from: usize,
        bytes: &mut [u8],
    ) -> Result<(), Place> {
        let size = self.target.dtype.size().unwrap_or(1) as usize;
        let count = bytes.len() / size;
        let Work { delta, term, moved } = work;
        let (delta, term, moved) = (&mut delta[..count], &mut term[..count], &mut moved[..count]);
        let mut terms = self.terms.iter();
        match terms.next() {
            Some(only) => only.delta(row, from, delta),
            None => delta.fill(0.0),
        }
        for next in terms {
            next.delta(row, from, term);
            delta.iter_mut().zip(&*term).for_each(|(sum, x)| *sum += x);
        }
        let merged = match self.target.dtype {
            ElementType::F32 => add(bytes, delta, moved, f32::from_le_bytes, |w, d| {
                let merged = merged_f32(w, d);
                (merged.to_le_bytes(), merged)
            }),
            ElementType::F16 => add(
                bytes,
                delta,
                moved,
                |b| f16::from_le_bytes(b).to_f32(),
                |w, d| {
                    let merged = to_f16(f64::from(w) + d);
                    (merged.to_le_bytes(), merged.to_f32())
                },
            ),
            // `new` refuses other types.
            ElementType::Bf16 | ElementType::Other(_) => add(
                bytes,
                delta,
                moved,
                |b| bf16::from_le_bytes(b).to_f32(),
                |w, d| {
                    let merged = to_bf16(f64::from(w) + d);
                    (merged.to_le_bytes(), merged.to_f32())
                },
            ),
        };
        merged.map_err(|(index, value)| (row, from + index, value))
    }
}

/// What one thread works with.
struct Work {
    /// ΔW.
    delta: [f64; BLOCK],
    term: [f64; BLOCK],
    /// W' − W.
    moved: [f64; BLOCK],
}

impl Default for Work {
    fn default() -> Self {
        Self { delta: [0.0; BLOCK], term: [0.0; BLOCK], moved: [0.0; BLOCK] }
    }
}

impl Work {
    fn filled(&self, count: usize) -> impl Iterator<Item = (f64, f64)> {
        self.moved[..count].iter().copied().zip(self.delta[..count].iter().copied())
    }
}

/// Adds `delta` to values in place; `round` rounds the sum once: its bytes, and its value. The
/// first value whose sum is not finite is an error.
fn add<const N: usize>(
    bytes: &mut [u8],
    delta: &[f64],
    moved: &mut [f64],
    read: impl Fn([u8; N]) -> f32,
    round: impl Fn(f32, f64) -> ([u8; N], f32),
) -> Result<(), (usize, f32)> {
    let (values, _) = bytes.as_chunks_mut::<N>();
    let mut finite = true;
    for ((stored, &d), moved) in values.iter_mut().zip(delta).zip(&mut *moved) {
        let w = read(*stored);
        let (rounded, merged) = round(w, d);
        finite &= merged.is_finite();
        *moved = f64::from(merged) - f64::from(w);
        *stored = rounded;
    }
    let first =
        || values.iter().map(|stored| read(*stored)).enumerate().find(|(_, x)| !x.is_finite());
    match if finite { None } else { first() } {
        None => Ok(()),
        Some(found) => Err(found),
    }
}

/// The error that comes first in the order of storage, whichever thread met one first.
fn first_of(results: Vec<Result<(), Place>>) -> Result<(), Place> {
    let places = results.into_iter().filter_map(Result::err);
    match places.min_by_key(|&(row, value, _)| (row, value)) {
        None => Ok(()),
        Some(place) => Err(place),
    }
}

pub(super) fn pool(threads: usize) -> Result<ThreadPool, SurgeryError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    built.map_err(|e| SurgeryError::Threads { threads, reason: e.to_string() })
}

/// Fills pieces from a reader; `failed` says why it could not.
pub(super) fn from_reader(
    mut source: impl Read,
    failed: impl Fn(std::io::Error) -> ModelError,
) -> impl FnMut(&mut [u8]) -> Result<(), SurgeryError> {
    move |piece| Ok(source.read_exact(piece).map_err(&failed)?)
}

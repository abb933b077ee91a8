//! The arithmetic of a merge, a block of values at a time.
//!
//! Everything a block needs fits the first cache. What [`Rows`] and [`Columns`] call is inlined into
//! one body, which `pulp` compiles for each instruction set and picks at run time: a wider one does
//! the same operations, more at once, and none is fused, so the bits are the same.

use super::{
    addend::Term,
    rounding::{odd_to_bf16, to_bf16, to_f16, to_odd},
};
use crate::{
    model::ElementType,
    projection::{Factors, merged_f32},
};
use half::{f16, slice::HalfFloatSliceExt};
use pulp::NullaryFnOnce;

/// Values whose updates are computed together.
pub(super) const BLOCK: usize = 256;

/// Rows whose sums run beside each other: a sum must wait for its last addition, not for others.
pub(super) const GROUP: usize = 4;

/// One term of an update, laid out for the stored order.
#[derive(Debug)]
pub(super) struct Factored {
    rank: usize,
    /// `[outer, rank]`.
    outer: Vec<f64>,
    /// `[rank, inner]`.
    inner: Vec<f64>,
    scale: f64,
    weight: f64,
}

/// A stored row and value in it whose sum is not finite, and the sum.
pub(super) type Place = (usize, usize, f32);

impl Factored {
    /// `turned` says that a stored row is a column of the canonical weight.
    pub fn new(term: &Term, turned: bool) -> Self {
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
    #[inline(always)]
    fn delta(&self, row: usize, from: usize, out: &mut [f64]) {
        let width = self.inner.len() / self.rank.max(1);
        let (scale, weight) = (self.scale, self.weight);
        let left = &self.outer[row * self.rank..][..self.rank];
        if let &[a, b] = left {
            let [x, y] = [0, 1].map(|k| &self.inner[k * width + from..][..out.len()]);
            for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = weight * (scale * (0.0 + a * x + b * y));
            }
            return;
        }
        out.fill(0.0);
        for (k, left) in left.iter().enumerate() {
            let right = &self.inner[k * width + from..][..out.len()];
            out.iter_mut().zip(right).for_each(|(out, right)| *out += left * right);
        }
        out.iter_mut().for_each(|out| *out = weight * (scale * *out));
    }
}

/// What one thread works with.
pub(super) struct Work {
    /// ΔW.
    delta: [f64; BLOCK],
    term: [f64; BLOCK],
    /// W.
    before: [f32; BLOCK],
    /// W', in f32 rounded to odd until it has its own type.
    after: [f32; BLOCK],
    halves: [f16; BLOCK],
    /// (W' − W)·ΔW and ΔW·ΔW of each row of a group.
    kept: [[f64; BLOCK]; GROUP],
    wanted: [[f64; BLOCK]; GROUP],
}

impl Default for Work {
    fn default() -> Self {
        Self {
            delta: [0.0; BLOCK],
            term: [0.0; BLOCK],
            before: [0.0; BLOCK],
            after: [0.0; BLOCK],
            halves: [f16::ZERO; BLOCK],
            kept: [[0.0; BLOCK]; GROUP],
            wanted: [[0.0; BLOCK]; GROUP],
        }
    }
}

impl Work {
    /// Merges the values `from..` of a stored row in place; leaves W, W' and ΔW.
    #[inline(always)]
    fn block(
        &mut self,
        terms: &[Factored],
        element: ElementType,
        (row, from): (usize, usize),
        bytes: &mut [u8],
    ) -> Result<(), Place> {
        let count = match element {
            ElementType::F32 => bytes.len() / 4,
            _ => bytes.len() / 2,
        };
        let Self { delta, term, before, after, halves, .. } = self;
        let (delta, term) = (&mut delta[..count], &mut term[..count]);
        let (before, after) = (&mut before[..count], &mut after[..count]);
        let halves = &mut halves[..count];
        match terms.split_first() {
            None => delta.fill(0.0),
            Some((first, others)) => {
                first.delta(row, from, delta);
                for other in others {
                    other.delta(row, from, term);
                    delta.iter_mut().zip(&*term).for_each(|(sum, x)| *sum += x);
                }
            }
        }
        let mut finite = true;
        match element {
            ElementType::F32 => {
                let stored = bytes.as_chunks_mut::<4>().0;
                before.iter_mut().zip(&*stored).for_each(|(w, b)| *w = f32::from_le_bytes(*b));
                for ((after, &w), &d) in after.iter_mut().zip(&*before).zip(&*delta) {
                    *after = merged_f32(w, d);
                    finite &= after.is_finite();
                }
                if finite {
                    stored.iter_mut().zip(&*after).for_each(|(b, w)| *b = w.to_le_bytes());
                }
            }
            ElementType::F16 => {
                let stored = bytes.as_chunks_mut::<2>().0;
                halves.iter_mut().zip(&*stored).for_each(|(h, b)| *h = f16::from_le_bytes(*b));
                halves.convert_to_f32_slice(before);
                odd_sums(before, delta, after);
                halves.convert_from_f32_slice(after);
                halves.convert_to_f32_slice(after);
                after.iter().for_each(|w| finite &= w.is_finite());
                if finite {
                    stored.iter_mut().zip(&*halves).for_each(|(b, h)| *b = h.to_le_bytes());
                }
            }
            // No update is made for other types.
            ElementType::Bf16 | ElementType::Other(_) => {
                let stored = bytes.as_chunks_mut::<2>().0;
                for (w, b) in before.iter_mut().zip(&*stored) {
                    *w = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
                odd_sums(before, delta, after);
                for after in after.iter_mut() {
                    // Rounding may turn a NaN into a number.
                    finite &= after.is_finite();
                    *after = f32::from_bits(u32::from(odd_to_bf16(*after)) << 16);
                    finite &= after.is_finite();
                }
                if finite {
                    for (b, w) in stored.iter_mut().zip(&*after) {
                        *b = ((w.to_bits() >> 16) as u16).to_le_bytes();
                    }
                }
            }
        }
        match finite {
            true => Ok(()),
            false => Err(not_finite(element, (row, from), before, delta)),
        }
    }
}

/// W + ΔW in f64, rounded to an odd f32.
#[inline(always)]
fn odd_sums(before: &[f32], delta: &[f64], after: &mut [f32]) {
    for ((after, &w), &d) in after.iter_mut().zip(before).zip(delta) {
        *after = to_odd(f64::from(w) + d);
    }
}

#[cold]
fn not_finite(
    element: ElementType,
    (row, from): (usize, usize),
    before: &[f32],
    delta: &[f64],
) -> Place {
    let sums = before.iter().zip(delta).map(|(&w, &d)| match element {
        ElementType::F32 => merged_f32(w, d),
        ElementType::F16 => to_f16(f64::from(w) + d).to_f32(),
        _ => to_bf16(f64::from(w) + d).to_f32(),
    });
    let first = sums.enumerate().find(|(_, sum)| !sum.is_finite());
    let (index, sum) = first.unwrap_or((0, f32::NAN));
    (row, from + index, sum)
}

/// Merges a few whole rows, [`GROUP`] at most, each with its own sums.
pub(super) struct Rows<'a> {
    pub work: &'a mut Work,
    pub terms: &'a [Factored],
    pub element: ElementType,
    /// The first stored row.
    pub first: usize,
    /// Values of a row.
    pub inner: usize,
    pub bytes: &'a mut [u8],
    /// ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩ of each row.
    pub kept: &'a mut [f64],
    pub wanted: &'a mut [f64],
}

impl NullaryFnOnce for Rows<'_> {
    type Output = Result<(), Place>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { work, terms, element, first, inner, bytes, kept, wanted } = self;
        let size = if element == ElementType::F32 { 4 } else { 2 };
        let (mut kept_sums, mut wanted_sums) = ([0.0; GROUP], [0.0; GROUP]);
        let mut failed: Option<Place> = None;
        for from in (0..inner).step_by(BLOCK) {
            let count = BLOCK.min(inner - from);
            for (r, row) in bytes.chunks_exact_mut(inner * size).enumerate() {
                let block = &mut row[from * size..][..count * size];
                if let Err(place) = work.block(terms, element, (first + r, from), block) {
                    let before = |known: &Place| (known.0, known.1) < (place.0, place.1);
                    failed = failed.filter(before).or(Some(place));
                }
                let Work { delta, before, after, kept, wanted, .. } = &mut *work;
                let (kept, wanted) = (&mut kept[r][..count], &mut wanted[r][..count]);
                let moved = after.iter().zip(&*before).map(|(a, b)| f64::from(*a) - f64::from(*b));
                let all = kept.iter_mut().zip(wanted).zip(moved.zip(&*delta));
                all.for_each(|((kept, wanted), (moved, delta))| {
                    *kept = moved * delta;
                    *wanted = delta * delta;
                });
            }
            for i in 0..count {
                for r in 0..GROUP {
                    kept_sums[r] += work.kept[r][i];
                    wanted_sums[r] += work.wanted[r][i];
                }
            }
        }
        kept.iter_mut().zip(kept_sums).for_each(|(kept, sum)| *kept = sum);
        wanted.iter_mut().zip(wanted_sums).for_each(|(wanted, sum)| *wanted = sum);
        failed.map_or(Ok(()), Err)
    }
}

/// Merges the same values of several rows, each of which belongs to another row of the canonical
/// weight.
pub(super) struct Columns<'a> {
    pub work: &'a mut Work,
    pub terms: &'a [Factored],
    pub element: ElementType,
    /// The first stored row, and the first value of each.
    pub first: (usize, usize),
    pub rows: Vec<&'a mut [u8]>,
    /// ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩ of each value's row, as far as it is merged.
    pub kept: &'a mut [f64],
    pub wanted: &'a mut [f64],
}

impl NullaryFnOnce for Columns<'_> {
    type Output = Result<(), Place>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { work, terms, element, first: (first, from), rows, kept, wanted } = self;
        for (index, bytes) in rows.into_iter().enumerate() {
            work.block(terms, element, (first + index, from), bytes)?;
            let Work { delta, before, after, .. } = &*work;
            let moved = after.iter().zip(before).map(|(a, b)| f64::from(*a) - f64::from(*b));
            let all = kept.iter_mut().zip(&mut *wanted).zip(moved.zip(delta));
            all.for_each(|((kept, wanted), (moved, delta))| {
                *kept += moved * delta;
                *wanted += delta * delta;
            });
        }
        Ok(())
    }
}

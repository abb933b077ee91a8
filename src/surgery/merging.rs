//! W' = round(W + ΔW), a few megabytes at a time, in the order in which W is stored.
//!
//! W may be stored as it is or turned. Every number comes out the same: each sum runs in the order
//! that `spec/projection.md` gives it, whatever the order in which the weights come.

use super::{
    ModuleSurvival, SurgeryError,
    addend::Term,
    kernel::{BLOCK, Columns, Factored, GROUP, Place, Rows, Work},
    workers::Workers,
};
use crate::model::{ElementType, ModelError, Target};
use pulp::Arch;
use rayon::prelude::*;
use std::io::Read;

/// Bytes of a weight that are merged at once; at least a row.
const PIECE: usize = 1 << 20;

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

/// ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩ of each row of the canonical weight, as far as it is merged.
struct Products {
    kept: Vec<f64>,
    wanted: Vec<f64>,
}

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
        workers: &Workers,
        source: impl FnMut(&mut [u8]) -> Result<(), SurgeryError> + Send,
        each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<ModuleSurvival, E> {
        let size = self.target.dtype.size().unwrap_or(1) as usize;
        let row = self.inner.saturating_mul(size).max(1);
        let rows = (PIECE / row).max(1);
        let pieces = (0..self.outer).step_by(rows).map(|first| rows.min(self.outer - first) * row);
        let pieces: Vec<usize> = pieces.collect();
        let none = || vec![0.0; self.target.rows];
        let mut products = Products { kept: none(), wanted: none() };
        let change = |index: usize, piece: &mut [u8]| {
            let first = index * rows;
            let merged = match self.turned {
                true => self.columns(first, row, size, piece, &mut products),
                false => self.rows(first, row, piece, &mut products),
            };
            merged.map_err(|place| self.not_finite(place))
        };
        workers.stream(&pieces, source, change, each)?;
        let sum = |part: &[f64]| part.iter().fold(0.0, |a, x| a + x);
        let (kept, wanted) = (sum(&products.kept), sum(&products.wanted));
        Ok(ModuleSurvival { module: self.target.module, kept, wanted })
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
        products: &mut Products,
    ) -> Result<(), Place> {
        let own = first..first + piece.len() / row;
        let kept = products.kept[own.clone()].par_chunks_mut(GROUP);
        let wanted = products.wanted[own].par_chunks_mut(GROUP);
        let groups = piece.par_chunks_mut(GROUP * row).zip(kept.zip(wanted)).enumerate();
        let merge = |work: &mut Work, (index, (bytes, (kept, wanted)))| {
            let (terms, element, inner) = (&self.terms[..], self.target.dtype, self.inner);
            let first = first + index * GROUP;
            Arch::new().dispatch(Rows { work, terms, element, first, inner, bytes, kept, wanted })
        };
        first_of(groups.map_init(Work::default, merge).collect())
    }

    /// Merges whole rows, each value of which belongs to another row of the canonical weight.
    fn columns(
        &self,
        first: usize,
        row: usize,
        size: usize,
        piece: &mut [u8],
        products: &mut Products,
    ) -> Result<(), Place> {
        let mut blocks: Vec<Vec<&mut [u8]>> = Vec::new();
        blocks.resize_with(self.inner.div_ceil(BLOCK), Vec::new);
        for row in piece.chunks_mut(row) {
            blocks.iter_mut().zip(row.chunks_mut(BLOCK * size)).for_each(|(list, b)| list.push(b));
        }
        let kept = products.kept.par_chunks_mut(BLOCK);
        let wanted = products.wanted.par_chunks_mut(BLOCK);
        let blocks = blocks.into_par_iter().zip(kept.zip(wanted)).enumerate();
        let merge = |work: &mut Work, (index, (rows, (kept, wanted)))| {
            let (terms, element) = (&self.terms[..], self.target.dtype);
            let first = (first, index * BLOCK);
            Arch::new().dispatch(Columns { work, terms, element, first, rows, kept, wanted })
        };
        first_of(blocks.map_init(Work::default, merge).collect())
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

/// Fills pieces from a reader; `failed` says why it could not.
pub(super) fn from_reader(
    mut source: impl Read,
    failed: impl Fn(std::io::Error) -> ModelError,
) -> impl FnMut(&mut [u8]) -> Result<(), SurgeryError> {
    move |piece| Ok(source.read_exact(piece).map_err(&failed)?)
}

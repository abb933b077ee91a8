//! Merging a matrix that is held whole: one that several modules are packed into, or of integers.

use super::{ModuleSurvival, SurgeryError, addend::Term, merging::Update, workers::Workers};
use crate::model::{
    ElementType, ModelError, OnnxModel, Quantisation, Target, proto::TensorProto, scale_bytes,
};
use ndarray::Array2;

/// A module in a stored matrix, and its update.
pub(super) type Part<'a> = (&'a Target, Vec<Term<'a>>);

/// Merges the modules of a packed matrix of floats into its stored `bytes`. `turned` says that a
/// stored row is a column of the canonical weight.
pub(super) fn packed(
    workers: &Workers,
    parts: &[Part<'_>],
    bytes: &mut [u8],
    turned: bool,
) -> Result<Vec<ModuleSurvival>, SurgeryError> {
    let mut left = Vec::with_capacity(parts.len());
    for (target, terms) in parts {
        let size = target.dtype.size().unwrap_or(1) as usize;
        let first = target.part.map_or(0, |part| part.first);
        // Where the module lies in each stored row: all rows but some columns, or the other way.
        let (row, from, length, rows) = match turned {
            true => (target.stored_rows(), first, target.rows, 0..target.cols),
            false => (target.cols, 0, target.cols, first..first + target.rows),
        };
        let place = |r: usize| (r * row + from) * size..(r * row + from + length) * size;
        let own: Vec<u8> = rows.clone().flat_map(|r| bytes[place(r)].iter().copied()).collect();
        let mut merged = Vec::with_capacity(own.len());
        let mut rest = &own[..];
        let source = |piece: &mut [u8]| {
            let (next, later) = rest.split_at(piece.len());
            piece.copy_from_slice(next);
            rest = later;
            Ok(())
        };
        let update = Update::new(target, terms, turned)?;
        left.push(update.merge(workers, source, |piece| {
            merged.extend_from_slice(piece);
            Ok::<_, SurgeryError>(())
        })?);
        for (r, values) in rows.zip(merged.chunks_exact((length * size).max(1))) {
            bytes[place(r)].copy_from_slice(values);
        }
    }
    Ok(left)
}

/// The stored bytes of a merged matrix of integers.
#[derive(Debug)]
pub(super) struct Integers {
    pub values: Vec<u8>,
    /// Of the scales and the zero points, if the grid was fitted anew.
    pub scales: Vec<u8>,
    pub zeros: Vec<u8>,
    pub left: Vec<ModuleSurvival>,
}

/// Merges modules into a matrix of integers: to the nearest values of the grid it has, or with
/// `fit` of one that is fitted to the merged values.
pub(super) fn integers(
    model: &OnnxModel,
    tensor: &TensorProto,
    quantisation: &Quantisation,
    parts: &[Part<'_>],
    fit: bool,
) -> Result<Integers, SurgeryError> {
    let mut grid = quantisation.grid(model, tensor)?;
    let before = grid.values();
    let mut wanted = before.mapv(f64::from);
    for (target, terms) in parts {
        for row in 0..target.rows {
            for (col, &delta) in delta_row(terms, row, target.cols).iter().enumerate() {
                let value = &mut wanted[stored_at(target, row, col)];
                *value += delta;
                if !value.is_finite() {
                    let (module, value) = (target.module, *value as f32);
                    return Err(SurgeryError::NotFinite { module, row, col, value });
                }
            }
        }
    }
    let (scales, zeros) = quantisation.beside();
    let beside = |name: &str| -> Result<&TensorProto, ModelError> {
        model.initializer(name).ok_or_else(|| ModelError::NoInitializer { name: name.into() })
    };
    let scales = beside(scales)?;
    let zeros = zeros.map(beside).transpose()?;
    match fit {
        true => grid.fit(&wanted, zeros.is_some(), ElementType::of(scales)),
        false => grid.round(&wanted),
    }
    let after = grid.values();
    let left = parts.iter().map(|(target, _)| survival(target, &before, &wanted, &after)).collect();
    let old = model.tensor_bytes(tensor)?;
    Ok(Integers {
        values: quantisation.integer_bytes(&grid, ElementType::of(tensor), &old),
        scales: scale_bytes(&grid, ElementType::of(scales)),
        zeros: match zeros {
            Some(zeros) => {
                let old = model.tensor_bytes(zeros)?;
                quantisation.zero_bytes(&grid, ElementType::of(zeros), &old)
            }
            None => Vec::new(),
        },
        left,
    })
}

/// Where a value of the canonical weight is stored.
fn stored_at(target: &Target, row: usize, col: usize) -> [usize; 2] {
    let row = row + target.part.map_or(0, |part| part.first);
    if target.stored_transposed { [col, row] } else { [row, col] }
}

/// A row of the update: Σ weight · (α · Σₖ lₖ·vₖ), the inner sum from +0.
fn delta_row(terms: &[Term<'_>], row: usize, cols: usize) -> Vec<f64> {
    let mut delta = vec![0.0; cols];
    for (index, term) in terms.iter().enumerate() {
        let l = term.factors.l.row(row);
        for (delta, v) in delta.iter_mut().zip(term.factors.v.rows()) {
            let mut sum = 0.0;
            for (l, v) in l.iter().zip(v) {
                sum += l * v;
            }
            let share = term.weight * (term.scale * sum);
            *delta = if index == 0 { share } else { *delta + share };
        }
    }
    delta
}

/// What is left of a module's part of the update, which is the wanted values less those before.
fn survival(
    target: &Target,
    before: &Array2<f32>,
    wanted: &Array2<f64>,
    after: &Array2<f32>,
) -> ModuleSurvival {
    let mut left = ModuleSurvival { module: target.module, kept: 0.0, wanted: 0.0 };
    for row in 0..target.rows {
        for col in 0..target.cols {
            let at = stored_at(target, row, col);
            let from = f64::from(before[at]);
            let delta = wanted[at] - from;
            left.kept += (f64::from(after[at]) - from) * delta;
            left.wanted += delta * delta;
        }
    }
    left
}

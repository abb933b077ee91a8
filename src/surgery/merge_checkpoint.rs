//! Writing an adapter into a safetensors checkpoint: files like those it was made from, headers
//! and all, in which the values of the selected modules are others.

use super::{
    ModuleSurvival, SurgeryError, Survival,
    merge::{check_shape, pair, pool},
    rounding::{to_bf16, to_f16},
};
use crate::{
    format::{Header, ModuleId},
    model::{Checkpoint, ElementType, ModelError, Shard, Target, Targets},
    projection::{Factors, delta_row, merged_f32},
};
use half::{bf16, f16};
use rayon::{ThreadPool, prelude::*};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

/// Bytes of a weight that are merged at once; at least a row.
const PIECE: usize = 4 << 20;

/// A merge whose files are written one after the other.
///
/// Memory holds the factors and a few megabytes, or a few rows of the widest matrix.
#[derive(Debug)]
pub struct CheckpointMerge<'a> {
    base: &'a Checkpoint,
    modules: BTreeMap<&'a str, (&'a Target, &'a Factors)>,
    scale: f32,
    pool: ThreadPool,
    done: BTreeMap<ModuleId, ModuleSurvival>,
}

impl<'a> CheckpointMerge<'a> {
    /// Plans a merge. `factors` are those of the selected modules, sorted; whether the adapter
    /// belongs to this base is for the caller to check. `threads` changes only the time; 0 means
    /// one per core.
    pub fn new(
        base: &'a Checkpoint,
        targets: &'a Targets,
        header: &Header,
        factors: &'a [Factors],
        threads: usize,
    ) -> Result<Self, SurgeryError> {
        let pairs = pair(targets, header, factors)?;
        pairs.iter().try_for_each(|(target, factors)| check_shape(target, factors))?;
        let modules = pairs.into_iter().map(|p| (p.0.initializer.as_str(), p)).collect();
        let (scale, pool) = (header.scale, pool(threads)?);
        Ok(Self { base, modules, scale, pool, done: BTreeMap::new() })
    }

    /// Writes the merged copy of a file of the base to the empty file `out`, which is to be at
    /// `path`.
    pub fn write(
        &mut self,
        shard: &Shard,
        out: &mut File,
        path: &Path,
    ) -> Result<(), SurgeryError> {
        let failed = |source| SurgeryError::Write { path: path.into(), source };
        let mut source = shard.open()?;
        let mut written = 0;
        for tensor in shard.tensors().iter().filter(|t| t.bytes > 0) {
            if self.changes(&tensor.name) {
                copy(&mut source, written..tensor.offset, out).map_err(failed)?;
                self.tensor(&tensor.name, |piece| out.write_all(piece).map_err(failed))?;
                written = tensor.end();
            }
        }
        copy(&mut source, written..shard.size(), out).map_err(failed)
    }

    /// Whether the merge changes the tensor of this name.
    pub(super) fn changes(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    /// Hands the merged bytes of a tensor that [`changes`](Self::changes) to `each`, in pieces.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), SurgeryError>,
    ) -> Result<(), SurgeryError> {
        let none = || ModelError::NoInitializer { name: name.into() };
        let &(target, factors) = self.modules.get(name).ok_or_else(none)?;
        let mut reader = self.base.reader(name)?;
        // The reader has rows × row bytes, because the tensor fills its shape.
        let row = (reader.left() / target.rows.max(1) as u64).max(1) as usize;
        let rows = (PIECE / row).max(1);
        let mut left = ModuleSurvival { module: target.module, kept: 0.0, wanted: 0.0 };
        let mut buffer = vec![0; rows.min(target.rows) * row];
        for first in (0..target.rows).step_by(rows) {
            let piece = &mut buffer[..rows.min(target.rows - first) * row];
            reader.read(piece)?;
            for (kept, wanted) in self.merge_rows(target, factors, first, row, piece)? {
                left.kept += kept;
                left.wanted += wanted;
            }
            each(piece)?;
        }
        self.done.insert(target.module, left);
        Ok(())
    }

    /// Merges whole rows in place, `first` and those after it, of `row` bytes each; ⟨W' − W, ΔW⟩
    /// and ⟨ΔW, ΔW⟩ of each.
    fn merge_rows(
        &self,
        target: &Target,
        factors: &Factors,
        first: usize,
        row: usize,
        piece: &mut [u8],
    ) -> Result<Vec<(f64, f64)>, SurgeryError> {
        let (module, scale) = (target.module, self.scale);
        let merge_row = |delta: &mut Vec<f64>, (index, bytes): (usize, &mut [u8])| {
            let row = first + index;
            delta_row(factors, scale, row, delta);
            let products = match target.dtype {
                ElementType::F32 => merge_f32(bytes, delta),
                ElementType::F16 => merge_f16(bytes, delta),
                ElementType::Bf16 => merge_bf16(bytes, delta),
                ElementType::Other(_) => {
                    let (name, dtype) = (target.initializer.clone(), target.dtype.name());
                    return Err(ModelError::NotFloat { name, dtype }.into());
                }
            };
            products.map_err(|(col, value)| SurgeryError::NotFinite { module, row, col, value })
        };
        let rows: Vec<_> = self.pool.install(|| {
            let rows = piece.par_chunks_mut(row).enumerate();
            rows.map_init(|| vec![0.0; target.cols], merge_row).collect()
        });
        // The first error in row order, whichever thread met one first.
        rows.into_iter().collect()
    }

    /// What is left of the update, once every file is written.
    pub fn survival(self) -> Survival {
        Survival { modules: self.done.into_values().collect() }
    }
}

/// Copies a range of a file to the end of another: by the system, where it can.
fn copy(source: &mut File, range: Range<u64>, out: &mut File) -> io::Result<()> {
    let length = range.end.saturating_sub(range.start);
    source.seek(SeekFrom::Start(range.start))?;
    match io::copy(&mut source.take(length), out)? == length {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the input was cut short")),
    }
}

/// ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩ of a row, or the first column whose sum is not finite.
type Products = Result<(f64, f64), (usize, f32)>;

fn merge_f32(bytes: &mut [u8], delta: &[f64]) -> Products {
    merge_row(bytes, delta, f32::from_le_bytes, |w, d| {
        let merged = merged_f32(w, d);
        (merged.to_le_bytes(), merged)
    })
}

fn merge_f16(bytes: &mut [u8], delta: &[f64]) -> Products {
    let read = |bytes| f16::from_le_bytes(bytes).to_f32();
    merge_row(bytes, delta, read, |w, d| {
        let merged = to_f16(f64::from(w) + d);
        (merged.to_le_bytes(), merged.to_f32())
    })
}

fn merge_bf16(bytes: &mut [u8], delta: &[f64]) -> Products {
    let read = |bytes| bf16::from_le_bytes(bytes).to_f32();
    merge_row(bytes, delta, read, |w, d| {
        let merged = to_bf16(f64::from(w) + d);
        (merged.to_le_bytes(), merged.to_f32())
    })
}

/// Merges one row in place. `add` rounds the sum once: its bytes, and its value.
fn merge_row<const N: usize>(
    bytes: &mut [u8],
    delta: &[f64],
    read: impl Fn([u8; N]) -> f32,
    add: impl Fn(f32, f64) -> ([u8; N], f32),
) -> Products {
    let (mut kept, mut wanted) = (0.0, 0.0);
    let (values, _) = bytes.as_chunks_mut::<N>();
    for (col, (stored, &d)) in values.iter_mut().zip(delta).enumerate() {
        let w = read(*stored);
        let (rounded, merged) = add(w, d);
        if !merged.is_finite() {
            return Err((col, merged));
        }
        kept += (f64::from(merged) - f64::from(w)) * d;
        wanted += d * d;
        *stored = rounded;
    }
    Ok((kept, wanted))
}

//! Whether a safetensors checkpoint is exactly a base with an adapter merged into it.

use super::{Addend, CheckpointMerge, Mismatch, SurgeryError};
use crate::{
    format::Header,
    model::{Checkpoint, ElementType, Shard, Targets, Tensor, TensorReader},
    projection::Factors,
};
use std::collections::BTreeSet;

/// Merges the adapter into the base again and compares the result with `merged`: type, shape and
/// bytes of every tensor, and the files' properties. The empty list is the proof. How the
/// tensors are ordered and distributed over files does not matter, nor do unknown fields of the
/// headers.
pub fn verify_checkpoint(
    base: &Checkpoint,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    merged: &Checkpoint,
    threads: usize,
) -> Result<Vec<Mismatch>, SurgeryError> {
    let mut expected =
        CheckpointMerge::new(base, targets, &[Addend::whole(header, factors)], threads)?;
    let mut mismatches = Vec::new();
    if properties(base) != properties(merged) {
        mismatches.push(Mismatch { what: "metadata".into(), detail: "differs".into(), count: 1 });
    }
    let mut report = |name: &str, detail: String, count| {
        mismatches.push(Mismatch { what: format!("tensor {name:?}"), detail, count });
    };
    for tensor in base.shards().iter().flat_map(Shard::tensors) {
        let name = &tensor.name;
        let Some(other) = merged.tensor(name) else {
            report(name, "is missing".into(), 1);
            continue;
        };
        if (&tensor.dtype, &tensor.shape, tensor.bytes) != (&other.dtype, &other.shape, other.bytes)
        {
            report(name, "has another type or shape".into(), 1);
            continue;
        }
        let mut comparison = Comparison::new(tensor, merged.reader(name)?);
        match expected.changes(name) {
            true => expected.tensor(name, |piece| comparison.next(piece))?,
            false => {
                let mut reader = base.reader(name)?;
                let mut piece = vec![0; reader.left().min(1 << 20) as usize];
                while reader.left() > 0 {
                    let size = reader.left().min(piece.len() as u64) as usize;
                    reader.read(&mut piece[..size])?;
                    comparison.next(&piece[..size])?;
                }
            }
        }
        if let Some((detail, count)) = comparison.difference() {
            report(name, detail, count);
        }
    }
    for tensor in merged.tensors().filter(|tensor| base.tensor(&tensor.name).is_none()) {
        report(&tensor.name, "is not in the base".into(), 1);
    }
    Ok(mismatches)
}

fn properties(checkpoint: &Checkpoint) -> BTreeSet<(&String, &String)> {
    checkpoint.shards().iter().flat_map(Shard::metadata).collect()
}

/// The values of a tensor, compared piece by piece with what they should be.
struct Comparison {
    found: TensorReader,
    element: Option<ElementType>,
    /// Bytes of a value, or 1 if it is not known.
    size: usize,
    values: u64,
    compared: u64,
    differing: usize,
    first: Option<String>,
    buffer: Vec<u8>,
}

impl Comparison {
    fn new(tensor: &Tensor, found: TensorReader) -> Self {
        let element = tensor.element();
        let size = element.and_then(ElementType::size).unwrap_or(1);
        let values = tensor.bytes / size;
        let (size, buffer) = (size as usize, Vec::new());
        Self { found, element, size, values, compared: 0, differing: 0, first: None, buffer }
    }

    /// Compares the next bytes, whole values of them.
    fn next(&mut self, expected: &[u8]) -> Result<(), SurgeryError> {
        self.buffer.resize(expected.len(), 0);
        self.found.read(&mut self.buffer)?;
        if self.buffer != expected {
            let pairs = expected.chunks(self.size).zip(self.buffer.chunks(self.size));
            for (index, (want, have)) in pairs.enumerate().filter(|(_, (a, b))| a != b) {
                self.differing += 1;
                if self.first.is_none() {
                    let number = self.compared + index as u64;
                    let (want, have) = (self.show(want), self.show(have));
                    self.first = Some(format!("number {number}: {have} where {want} is expected"));
                }
            }
        }
        self.compared += (expected.len() / self.size) as u64;
        Ok(())
    }

    fn show(&self, value: &[u8]) -> String {
        match (self.element, value) {
            (Some(ElementType::F32), &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).to_string(),
            (Some(ElementType::F16), &[a, b]) => half::f16::from_le_bytes([a, b]).to_string(),
            (Some(ElementType::Bf16), &[a, b]) => half::bf16::from_le_bytes([a, b]).to_string(),
            _ => format!("{value:02x?}"),
        }
    }

    /// The first difference, and how many there are.
    fn difference(self) -> Option<(String, usize)> {
        let Self { differing, values, .. } = self;
        let what = if self.element.is_some() { "values" } else { "bytes" };
        let first = self.first?;
        Some((format!("{differing} of {values} {what} differ, first {first}"), differing))
    }
}

//! Writing an adapter into a safetensors checkpoint: files like those it was made from, headers
//! and all, in which the values of the selected modules are others.

use super::{
    Addend, ModuleSurvival, SurgeryError, Survival,
    addend::updates,
    merging::Update,
    whole::{Part, packed},
    workers::Workers,
};
use crate::{
    format::ModuleId,
    model::{Checkpoint, ModelError, Shard, Targets},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

/// A merge whose files are written one after the other.
///
/// Memory holds the factors and a few megabytes, or a few rows of the widest matrix.
#[derive(Debug)]
pub struct CheckpointMerge<'a> {
    base: &'a Checkpoint,
    updates: BTreeMap<&'a str, Vec<Part<'a>>>,
    workers: Workers,
    done: BTreeMap<ModuleId, ModuleSurvival>,
}

impl<'a> CheckpointMerge<'a> {
    /// Plans a merge. Whether the adapters belong to this base is for the caller to check.
    /// `threads` changes only the time; 0 means one per core.
    pub fn new(
        base: &'a Checkpoint,
        targets: &'a Targets,
        addends: &[Addend<'a>],
        threads: usize,
    ) -> Result<Self, SurgeryError> {
        let mut planned = BTreeMap::<&str, Vec<Part<'a>>>::new();
        for (target, terms) in updates(targets, addends)?.into_values() {
            // Refused now, whatever has been written by then.
            Update::new(target, &[], false)?;
            planned.entry(&target.initializer).or_default().push((target, terms));
        }
        let updates = planned;
        Ok(Self { base, updates, workers: Workers::new(threads)?, done: BTreeMap::new() })
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
        self.updates.contains_key(name)
    }

    /// Hands the merged bytes of a tensor that [`changes`](Self::changes) to `each`, in pieces.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), SurgeryError>,
    ) -> Result<(), SurgeryError> {
        let none = || ModelError::NoInitializer { name: name.into() };
        let parts = self.updates.get(name).ok_or_else(none)?;
        let mut reader = self.base.reader(name)?;
        let left = match &parts[..] {
            [(target, terms)] if target.part.is_none() => {
                let update = Update::new(target, terms, false)?;
                vec![update.merge(&self.workers, |piece| Ok(reader.read(piece)?), each)?]
            }
            parts => {
                let mut bytes = vec![0; reader.left() as usize];
                reader.read(&mut bytes)?;
                let left = packed(&self.workers, parts, &mut bytes, false)?;
                each(&bytes)?;
                left
            }
        };
        self.done.extend(left.into_iter().map(|left| (left.module, left)));
        Ok(())
    }

    /// What is left of the update, once every file is written.
    pub fn survival(&self) -> Survival {
        Survival { modules: self.done.values().copied().collect() }
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

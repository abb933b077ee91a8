//! The bytes of one tensor, in pieces.

use super::{CheckpointError, Shard, Tensor};
use crate::model::ModelError;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

/// Bytes that are read at once where nothing else decides.
pub(super) const PIECE: usize = 1 << 20;

/// Reads a tensor's bytes from its first to its last.
#[derive(Debug)]
pub struct TensorReader {
    file: File,
    path: PathBuf,
    left: u64,
}

impl TensorReader {
    /// Opens the file of `tensor`, if it is still the one whose header was read.
    pub(super) fn new(shard: &Shard, tensor: &Tensor) -> Result<Self, ModelError> {
        let mut file = shard.open()?;
        let io = |e| ModelError::io("read", &shard.path, e);
        file.seek(SeekFrom::Start(tensor.offset)).map_err(io)?;
        Ok(Self { file, path: shard.path.clone(), left: tensor.bytes })
    }

    /// Leaves only `length` bytes from `skip` on of what was not read yet.
    pub(super) fn narrow(&mut self, skip: u64, length: u64) -> Result<(), ModelError> {
        let fits = skip.checked_add(length).is_some_and(|end| end <= self.left);
        let from = i64::try_from(skip).ok().filter(|_| fits);
        let from = from.ok_or_else(|| CheckpointError::Changed { path: self.path.clone() })?;
        let io = |e| ModelError::io("read", &self.path, e);
        self.file.seek(SeekFrom::Current(from)).map_err(io)?;
        self.left = length;
        Ok(())
    }

    /// Bytes not read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Fills `buffer` with the next bytes, which must be that many.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(), ModelError> {
        let changed = || CheckpointError::Changed { path: self.path.clone() };
        self.left = self.left.checked_sub(buffer.len() as u64).ok_or_else(changed)?;
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed().into()),
            Err(e) => Err(ModelError::io("read", &self.path, e)),
        }
    }

    /// Hands all that is left to `each`, in pieces of `size` bytes and a rest.
    pub fn pieces(
        &mut self,
        size: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let mut buffer = vec![0; self.left.min(size as u64) as usize];
        while self.left > 0 {
            let piece = self.left.min(buffer.len() as u64) as usize;
            self.read(&mut buffer[..piece])?;
            each(&buffer[..piece])?;
        }
        Ok(())
    }
}

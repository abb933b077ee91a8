//! The base digest: which weights an adapter belongs to. Defined in spec/projection.md,
//! section "Base digest".

use super::{Container, ModelError, Target, Targets};
use crate::format::ModuleId;
use ndarray::ArrayView2;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

const DOMAIN: &[u8; 16] = b"tla-base-v1\0\0\0\0\0";

/// Rows of a weight stored the other way round that are gathered at once: a cache line of each of
/// its columns.
const BAND: usize = 16;

/// SHA-256 of f32 values as they come, little-endian.
#[derive(Default)]
pub(super) struct ValueHasher(Sha256);

impl ValueHasher {
    pub(super) fn update(&mut self, values: &[f32]) {
        if cfg!(target_endian = "little") {
            self.0.update(bytemuck::cast_slice::<f32, u8>(values));
        } else {
            values.iter().for_each(|x| self.0.update(x.to_le_bytes()));
        }
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// SHA-256 of the f32 values of a canonical weight `[out, in]`, row-major, little-endian.
pub fn module_digest(weight: ArrayView2<f32>) -> [u8; 32] {
    let mut hasher = ValueHasher::default();
    if let Some(values) = weight.as_slice() {
        hasher.update(values);
        return hasher.finish();
    }
    let (rows, cols) = weight.dim();
    let mut band = vec![0f32; BAND * cols];
    for from in (0..rows).step_by(BAND) {
        let size = BAND.min(rows - from);
        for (c, column) in weight.columns().into_iter().enumerate() {
            for r in 0..size {
                band[r * cols + c] = column[from + r];
            }
        }
        hasher.update(&band[..size * cols]);
    }
    hasher.finish()
}

/// The digest of the seven linear roles in every layer, or of those that a user's rules name,
/// whatever an adapter targets.
///
/// Refuses a model in which any of them cannot be read. Modules are hashed in parallel and
/// joined in order, so the number of threads does not show.
pub fn base_digest(model: &dyn Container, targets: &Targets) -> Result<[u8; 32], ModelError> {
    let complete = covered(targets)?;
    let records =
        complete.par_iter().map(|target| record(model, target)).collect::<Result<Vec<_>, _>>()?;
    let mut hasher = Sha256::new();
    hasher.update(DOMAIN);
    records.iter().for_each(|record| hasher.update(record));
    Ok(hasher.finalize().into())
}

fn covered(targets: &Targets) -> Result<Vec<&Target>, ModelError> {
    let layers = u16::try_from(targets.layers).unwrap_or(u16::MAX);
    (0..layers)
        .flat_map(|layer| targets.covered.iter().map(move |role| ModuleId { layer, role }))
        .map(|module| targets.get(module).ok_or(ModelError::NoDigest { module }))
        .collect()
}

fn record(model: &dyn Container, target: &Target) -> Result<[u8; 43], ModelError> {
    let Target { module, rows, cols, .. } = *target;
    let size = |n| u32::try_from(n).map_err(|_| ModelError::MatrixTooLarge { module, rows, cols });
    let mut record = [0; 43];
    record[..2].copy_from_slice(&module.layer.to_le_bytes());
    record[2] = module.role.code();
    record[3..7].copy_from_slice(&size(rows)?.to_le_bytes());
    record[7..11].copy_from_slice(&size(cols)?.to_le_bytes());
    record[11..].copy_from_slice(&model.module_digest(target)?);
    Ok(record)
}

//! The model an adapter belongs to.

use super::{CliError, threads::Threads};
use crate::{
    format::Header,
    model::{OnnxModel, Targets, base_digest, find_targets},
    projection::{Factors, rebuild},
};
use std::path::Path;

/// A loaded model and its modules.
pub struct Base {
    /// The file.
    pub model: OnnxModel,
    /// What in it can be adapted.
    pub targets: Targets,
}

impl Base {
    /// Loads an .onnx file, or the `model.onnx` of a folder.
    pub fn load(path: &Path) -> Result<Self, CliError> {
        let model = OnnxModel::load(path)?;
        let targets = find_targets(&model)?;
        Ok(Self { model, targets })
    }

    /// The base digest.
    pub fn digest(&self, threads: &Threads) -> Result<[u8; 32], CliError> {
        Ok(threads.install(|| base_digest(&self.model, &self.targets))??)
    }

    /// The factors of the modules the header selects, sorted by module.
    pub fn factors(
        &self,
        header: &Header,
        v: &[f32],
        threads: &Threads,
    ) -> Result<Vec<Factors>, CliError> {
        let selected = self.targets.targets.iter().filter(|t| header.selects(t.module));
        let weights = selected
            .map(|target| Ok((target.module, self.model.weight(target)?)))
            .collect::<Result<Vec<_>, CliError>>()?;
        let views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
        Ok(rebuild(header, v, &views, threads.count())?)
    }
}

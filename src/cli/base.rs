//! The model an adapter belongs to.

use super::{CliError, names::Names, threads::Threads};
use crate::{
    format::{Header, RoleSet},
    model::{Model, ModelError, Targets, base_digest},
    projection::Factors,
    surgery::{SurgeryError, rebuild_from},
};
use std::path::Path;

/// A loaded model and its modules.
pub struct Base {
    /// The graph or the checkpoint.
    pub model: Model,
    /// What in it can be adapted.
    pub targets: Targets,
}

impl Base {
    /// Loads an .onnx file, a .safetensors file, an index of several, or a folder with one.
    pub fn load(path: &Path, names: &Names) -> Result<Self, CliError> {
        let model = Model::load(path)?;
        let targets = model.container().targets_by(&names.naming())?;
        Ok(Self { model, targets })
    }

    /// What the base digest covers, where that is not all seven roles; empty where it is.
    pub fn coverage(&self) -> String {
        if self.targets.covered == RoleSet::LINEAR {
            return String::new();
        }
        let roles = self.targets.covered.iter().map(|role| role.name());
        format!(" of the roles {} alone", roles.collect::<Vec<_>>().join(" "))
    }

    /// The base digest.
    pub fn digest(&self, threads: &Threads) -> Result<[u8; 32], CliError> {
        Ok(threads.install(|| base_digest(self.model.container(), &self.targets))??)
    }

    /// The base digest, none of a model in which a module it covers cannot be read.
    pub fn digest_if_any(&self, threads: &Threads) -> Result<Option<[u8; 32]>, CliError> {
        match self.digest(threads) {
            Ok(digest) => Ok(Some(digest)),
            Err(CliError::Model(ModelError::NoDigest { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The factors of the modules the header selects, sorted by module.
    pub fn factors(
        &self,
        header: &Header,
        v: &[f32],
        threads: &Threads,
    ) -> Result<Vec<Factors>, CliError> {
        let model = self.model.container();
        rebuild_from(model, &self.targets, header, v, threads.count()).map_err(
            |error| match error {
                SurgeryError::Projection(error) => error.into(),
                other => other.into(),
            },
        )
    }
}

//! What the two containers of a model have in common, and telling them apart.

use super::{
    Checkpoint, ModelError, Naming, OnnxModel, Target, Targets, find_targets_by, module_digest,
};
use ndarray::Array2;
use std::path::{Path, PathBuf};

/// A stored model, whatever the format of its files: modules and their weights.
pub trait Container: Sync {
    /// Which format it is.
    fn kind(&self) -> Kind;

    /// The folder in which tokenizer and configurations are looked for.
    fn home(&self) -> PathBuf;

    /// Every file the model is read from.
    fn files(&self) -> Vec<PathBuf>;

    /// What in it can be adapted.
    fn targets(&self) -> Result<Targets, ModelError> {
        self.targets_by(&Naming::default())
    }

    /// What in it can be adapted, where the user's rules come before the known names.
    fn targets_by(&self, naming: &Naming) -> Result<Targets, ModelError>;

    /// The canonical weight of a module: `[out, in]`, row-major.
    fn weight(&self, target: &Target) -> Result<Array2<f32>, ModelError>;

    /// [`module_digest`] of a module's weight.
    fn module_digest(&self, target: &Target) -> Result<[u8; 32], ModelError> {
        Ok(module_digest(self.weight(target)?.view()))
    }
}

/// The format of a container, and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ONNX.
    Onnx {
        /// Highest version of the default operator set; 0 if it is not imported.
        opset: i64,
        /// Who wrote the file, as it says itself.
        producer: String,
    },
    /// A safetensors checkpoint.
    Safetensors {
        /// Files with weights.
        files: usize,
    },
}

impl Kind {
    /// The name of the format, which is the ending of its files: "onnx", "safetensors".
    pub fn name(&self) -> &'static str {
        match self {
            Self::Onnx { .. } => "onnx",
            Self::Safetensors { .. } => "safetensors",
        }
    }
}

impl Container for OnnxModel {
    fn kind(&self) -> Kind {
        let standard =
            self.proto.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx"));
        let producer = [self.proto.producer_name(), self.proto.producer_version()].join(" ");
        Kind::Onnx {
            opset: standard.map(|o| o.version()).max().unwrap_or(0),
            producer: producer.trim().into(),
        }
    }

    fn home(&self) -> PathBuf {
        OnnxModel::home(self)
    }

    fn files(&self) -> Vec<PathBuf> {
        OnnxModel::files(self)
    }

    fn targets_by(&self, naming: &Naming) -> Result<Targets, ModelError> {
        find_targets_by(self, naming)
    }

    fn weight(&self, target: &Target) -> Result<Array2<f32>, ModelError> {
        OnnxModel::weight(self, target)
    }

    fn module_digest(&self, target: &Target) -> Result<[u8; 32], ModelError> {
        self.canonical(target, module_digest)
    }
}

/// A model of either format.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Model {
    /// An exported graph.
    Onnx(OnnxModel),
    /// A checkpoint.
    Safetensors(Checkpoint),
}

impl Model {
    /// Reads an .onnx file, a .safetensors file, the index of several, or what a folder holds:
    /// `model.onnx`, else `model.safetensors`, else `model.safetensors.index.json`, else the only graph
    /// in its folder `onnx`.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let named = match path.is_dir() {
            true if path.join("model.onnx").exists() => None,
            true => Checkpoint::in_folder(path),
            false => Some(path.to_owned()).filter(|path| Checkpoint::is_named(path)),
        };
        match named {
            Some(path) => Checkpoint::load(&path).map(Self::Safetensors),
            None => OnnxModel::load(path).map(Self::Onnx),
        }
    }

    /// What both have in common.
    pub fn container(&self) -> &dyn Container {
        match self {
            Self::Onnx(model) => model,
            Self::Safetensors(checkpoint) => checkpoint,
        }
    }
}

//! What `inspect` tells about a model.

use super::{ModelError, OnnxModel, Skipped, Target, Targets, base_digest};
use serde::Serialize;

/// One adaptable module, as `inspect` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetLine {
    /// Layer number from 0.
    pub layer: u16,
    /// Role by its lower-case name.
    pub role: &'static str,
    /// Output size.
    pub rows: usize,
    /// Input size.
    pub cols: usize,
    /// Element type by its ONNX name.
    pub dtype: String,
    /// The node.
    pub node: String,
    /// The initializer.
    pub initializer: String,
    /// Whether something else reads the initializer too.
    pub shared: bool,
}

impl From<&Target> for TargetLine {
    fn from(target: &Target) -> Self {
        Self {
            layer: target.module.layer,
            role: target.module.role.name(),
            rows: target.rows,
            cols: target.cols,
            dtype: target.dtype.clone(),
            node: target.node.clone(),
            initializer: target.initializer.clone(),
            shared: target.shared,
        }
    }
}

/// A model in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The base digest; `None` if a linear role of some layer cannot be read.
    pub base_digest: Option<[u8; 32]>,
    /// Number of layers.
    pub layers: usize,
    /// Highest version of the default operator set; 0 if it is not imported.
    pub opset: i64,
    /// Who wrote the file, as it says itself.
    pub producer: String,
    /// Bytes of the weights that can be adapted.
    pub adaptable_bytes: u64,
    /// The modules that can be adapted, sorted.
    pub targets: Vec<TargetLine>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Summarises a model. An incomplete one has no digest; any other failure is an error.
pub fn summarize(model: &OnnxModel, targets: &Targets) -> Result<Summary, ModelError> {
    let base_digest = match base_digest(model, targets) {
        Ok(digest) => Some(digest),
        Err(ModelError::NoDigest { .. }) => None,
        Err(other) => return Err(other),
    };
    let standard = model.proto.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx"));
    let producer = [model.proto.producer_name(), model.proto.producer_version()].join(" ");
    let bytes = |t: &Target| (t.rows as u64).saturating_mul(t.cols as u64).saturating_mul(4);
    Ok(Summary {
        base_digest,
        layers: targets.layers,
        opset: standard.map(|o| o.version()).max().unwrap_or(0),
        producer: producer.trim().into(),
        adaptable_bytes: targets.targets.iter().map(bytes).sum(),
        targets: targets.targets.iter().map(TargetLine::from).collect(),
        skipped: targets.skipped.clone(),
    })
}

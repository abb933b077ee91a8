//! What `inspect` tells about a model.

use super::{Container, Kind, ModelError, Skipped, Target, Targets, base_digest};
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
    /// How the weight is stored: the element type by its ONNX name, or bits and blocks.
    pub dtype: String,
    /// The node; null in a checkpoint, which has no graph.
    pub node: Option<String>,
    /// The initializer, or the tensor of a checkpoint.
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
            dtype: target.stored_as(),
            node: target.node.as_ref().map(|node| node.name.clone()),
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
    /// The format, and what the model says of itself.
    pub kind: Kind,
    /// Bytes of the weights that can be adapted; of integers those of the integers alone.
    pub adaptable_bytes: u64,
    /// The modules that can be adapted, sorted.
    pub targets: Vec<TargetLine>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Summarises a model. An incomplete one has no digest; any other failure is an error.
pub fn summarize(model: &dyn Container, targets: &Targets) -> Result<Summary, ModelError> {
    let base_digest = match base_digest(model, targets) {
        Ok(digest) => Some(digest),
        Err(ModelError::NoDigest { .. }) => None,
        Err(other) => return Err(other),
    };
    let bytes = |t: &Target| {
        let values = (t.rows as u64).saturating_mul(t.cols as u64);
        values.saturating_mul(t.bits()).div_ceil(8)
    };
    Ok(Summary {
        base_digest,
        layers: targets.layers,
        kind: model.kind(),
        adaptable_bytes: targets.targets.iter().map(bytes).sum(),
        targets: targets.targets.iter().map(TargetLine::from).collect(),
        skipped: targets.skipped.clone(),
    })
}

//! Which tensor of a checkpoint is which module.

use super::{Checkpoint, CheckpointError, Tensor};
use crate::{
    format::ModuleId,
    model::{
        ModelError, Skipped, Target, Targets,
        linear::{role_of, tensor_layer},
        targets::incomplete_layers,
    },
};
use std::collections::BTreeMap;

/// Finds the modules of a checkpoint by the names its tensors have in transformers. Refuses one
/// in which nothing can be adapted; other matrices are in [`Targets::skipped`].
pub(super) fn find(checkpoint: &Checkpoint) -> Result<Targets, ModelError> {
    let mut found = BTreeMap::<ModuleId, Target>::new();
    let mut skipped = Vec::new();
    let mut layers = 0;
    for tensor in checkpoint.tensors() {
        if let Some((layer, _)) = tensor_layer(&tensor.name) {
            layers = layers.max(usize::from(layer) + 1);
        }
        match examine(tensor) {
            Verdict::Target(target) => drop(found.insert(target.module, target)),
            Verdict::Skip(reason) => skipped.push(Skipped { name: tensor.name.clone(), reason }),
            Verdict::NotLinear => {}
        }
    }
    if found.is_empty() {
        let first = skipped.first().map(|s| format!("{}: {}", s.name, s.reason));
        return Err(CheckpointError::NothingToAdapt {
            path: checkpoint.path().into(),
            skipped: skipped.len(),
            first: first.unwrap_or_else(|| "there was none".into()),
        }
        .into());
    }
    if checkpoint.tensor(HEAD).is_none() {
        let reason = format!("{NO_HEAD}; its matrix is the embedding's and not stored again");
        skipped.push(Skipped { name: HEAD.into(), reason });
    }
    skipped.extend(incomplete_layers(layers, &found));
    Ok(Targets { targets: found.into_values().collect(), skipped, layers })
}

const HEAD: &str = "lm_head.weight";
const NO_HEAD: &str = "the head is not among the seven linear roles";

enum Verdict {
    Target(Target),
    Skip(String),
    NotLinear,
}

fn examine(tensor: &Tensor) -> Verdict {
    let path = tensor.name.strip_suffix(".weight").unwrap_or_default();
    let module = tensor_layer(path).and_then(|(layer, rest)| {
        let (block, projection) = rest.split_once('.')?;
        Some(ModuleId { layer, role: role_of(block, projection)? })
    });
    let Some(module) = module else { return other(tensor, path) };
    let Some(dtype) = tensor.element() else {
        return Verdict::Skip(format!(
            "its values are {}; this version adapts F32, F16 and BF16, use a checkpoint in one of them",
            tensor.dtype
        ));
    };
    let &[rows, cols] = &tensor.shape[..] else {
        return Verdict::Skip(format!("it has the shape {:?}, not two sizes", tensor.shape));
    };
    if rows == 0 || cols == 0 {
        return Verdict::Skip("it is empty".into());
    }
    Verdict::Target(Target {
        module,
        rows,
        cols,
        dtype,
        initializer: tensor.name.clone(),
        stored_transposed: false,
        shared: false,
        node: None,
    })
}

/// A tensor that is no module's weight. Of a packed or quantised one, the tensor that holds the
/// values is named, not its scales.
fn other(tensor: &Tensor, path: &str) -> Verdict {
    let name = &tensor.name;
    if name == HEAD {
        return Verdict::Skip(NO_HEAD.into());
    }
    if ["qweight", "weight_packed"].iter().any(|end| name.rsplit('.').next() == Some(end)) {
        return Verdict::Skip(
            "a quantised weight, which this version does not adapt; use the checkpoint it was made from"
                .into(),
        );
    }
    if path.is_empty() || tensor.shape.len() != 2 || path.ends_with("embed_tokens") {
        return Verdict::NotLinear;
    }
    if path.ends_with("qkv_proj") || path.ends_with("gate_up_proj") {
        return Verdict::Skip(
            "a packed projection, which this version does not cut into its modules".into(),
        );
    }
    Verdict::Skip(
        "it is not named like model.layers.0.self_attn.q_proj.weight, so its role is unknown"
            .into(),
    )
}

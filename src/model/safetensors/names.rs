//! Which tensor of a checkpoint is which module.

use super::{Checkpoint, CheckpointError, Tensor, config::Heads};
use crate::{
    format::{ModuleId, Role},
    model::{
        Container, ModelError, Naming, Part, Skipped, Target, Targets,
        naming::{Claim, layer_of_tensor},
    },
};
use std::collections::BTreeMap;

/// Finds the modules of a checkpoint by the names its tensors have in transformers, or by the
/// user's rules. Refuses one in which nothing can be adapted or two tensors claim one module; other
/// matrices are in [`Targets::skipped`].
pub(super) fn find(checkpoint: &Checkpoint, naming: &Naming) -> Result<Targets, ModelError> {
    let heads = Heads::read(&checkpoint.home());
    let mut found = BTreeMap::<ModuleId, Target>::new();
    let mut claims = BTreeMap::<ModuleId, &str>::new();
    let mut skipped = Vec::new();
    let mut layers = 0;
    let names = || {
        let names = checkpoint.tensors().flat_map(|tensor| {
            [tensor.name.as_str()].into_iter().chain(tensor.name.strip_suffix(".weight"))
        });
        names.map(str::to_owned).collect()
    };
    if let Some(rule) = naming.unused(names) {
        return Err(ModelError::UnusedRule { rule });
    }
    for tensor in checkpoint.tensors() {
        if let Some(layer) = layer_of_tensor(&tensor.name) {
            layers = layers.max(usize::from(layer) + 1);
        }
        let Some(claim) = naming.of_tensor(&tensor.name) else {
            if let Some(reason) = other(tensor) {
                skipped.push(Skipped { name: tensor.name.clone(), reason });
            }
            continue;
        };
        for module in claim.modules() {
            if module != ModuleId::LM_HEAD {
                layers = layers.max(usize::from(module.layer) + 1);
            }
            if let Some(first) = claims.insert(module, &tensor.name) {
                let (first, second) = (first.to_owned(), tensor.name.clone());
                return Err(ModelError::ClaimedTwice { module, first, second });
            }
        }
        match examine(tensor, claim, heads.as_ref()) {
            Ok(targets) => found.extend(targets.into_iter().map(|t| (t.module, t))),
            Err(reason) => skipped.push(Skipped { name: tensor.name.clone(), reason }),
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
    if checkpoint.tensor(HEAD).is_none() && checkpoint.tensor(EMBEDDING).is_some() {
        let reason = "the head's matrix is the embedding's and not stored again".into();
        skipped.push(Skipped { name: HEAD.into(), reason });
    }
    Ok(Targets::complete(found, skipped, layers, naming.covered()))
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The modules of a tensor, or why they cannot be adapted.
fn examine(tensor: &Tensor, claim: Claim, heads: Option<&Heads>) -> Result<Vec<Target>, String> {
    let dtype = tensor.element().ok_or_else(|| {
        format!(
            "its values are {}; this version adapts F32, F16 and BF16, use a checkpoint in one of them",
            tensor.dtype
        )
    })?;
    let &[rows, cols] = &tensor.shape[..] else {
        return Err(format!("it has the shape {:?}, not two sizes", tensor.shape));
    };
    if rows == 0 || cols == 0 {
        return Err("it is empty".into());
    }
    let sizes = sizes(claim, rows, heads)?;
    let packed = sizes.len() > 1;
    let mut first = 0;
    let mut targets = Vec::with_capacity(sizes.len());
    for (module, own) in claim.modules().zip(sizes) {
        targets.push(Target {
            module,
            rows: own,
            cols,
            dtype,
            computed_in: dtype,
            initializer: tensor.name.clone(),
            stored_transposed: false,
            part: packed.then_some(Part { first, of: rows }),
            quantisation: None,
            shared: false,
            node: None,
        });
        first += own;
    }
    Ok(targets)
}

/// Rows of each module of a claim.
fn sizes(claim: Claim, rows: usize, heads: Option<&Heads>) -> Result<Vec<usize>, String> {
    match claim.roles {
        [_] => Ok(vec![rows]),
        [Role::Gate, Role::Up] if rows.is_multiple_of(2) => Ok(vec![rows / 2; 2]),
        [Role::Q, Role::K, Role::V] => {
            let heads = heads.ok_or(
                "a packed projection, and no config.json beside the checkpoint says how many heads \
                 it has; put it there",
            )?;
            heads.rows(rows).ok_or_else(|| {
                format!("a packed projection of {rows} rows, which do not fit config.json")
            })
        }
        _ => Err(format!("a packed projection of {rows} rows, an odd number")),
    }
}

/// Why a matrix that no name leads to is left out. Of a quantised one, the tensor that holds the
/// values is named, not its scales.
fn other(tensor: &Tensor) -> Option<String> {
    let name = &tensor.name;
    if ["qweight", "weight_packed"].iter().any(|end| name.rsplit('.').next() == Some(end)) {
        let reason = "a quantised weight, which this version does not adapt; use the checkpoint it \
                      was made from";
        return Some(reason.into());
    }
    let path = name.strip_suffix(".weight")?;
    if tensor.shape.len() != 2 || path.ends_with("embed_tokens") {
        return None;
    }
    Some(
        "it is not named like model.layers.0.self_attn.q_proj.weight, so its role is unknown; name \
         it with --module NAME=ROLE"
            .into(),
    )
}

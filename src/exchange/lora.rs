//! An adapter as a LoRA directory that PEFT reads: B = α·L and A = Vᵀ, each entry rounded once.

use super::{ExchangeError, paths::path_of};
use crate::{
    format::{Header, ModuleId},
    model::Targets,
    projection::Factors,
};
use ndarray::{Array2, ArrayView2};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// The two files of a LoRA directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lora {
    /// `adapter_config.json`.
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub tensors: Vec<u8>,
}

/// The adapter of these `factors`, sorted by module as [`crate::projection::rebuild`] gives them,
/// of the model with these targets.
///
/// α is in B and `lora_alpha` equals the rank, so that PEFT multiplies by 1. `base` is the name
/// under which the model can be loaded, if it has one.
///
/// # Errors
/// If a module has no path of its own in transformers, or an entry is too large for f32.
pub fn lora(
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    base: Option<&str>,
) -> Result<Lora, ExchangeError> {
    let mut suffixes = BTreeSet::new();
    let mut paths = BTreeSet::new();
    let mut layers = BTreeSet::new();
    let mut named = Vec::with_capacity(2 * factors.len());
    for Factors { module, l, v } in factors {
        let target = targets
            .get(*module)
            .ok_or_else(|| ExchangeError::UnknownModule { name: module.to_string() })?;
        let path = path_of(targets, target)?;
        suffixes.insert(path.rsplit('.').next().unwrap_or_default().to_owned());
        paths.insert(path.clone());
        if *module != ModuleId::LM_HEAD {
            layers.insert(module.layer);
        }
        let alpha = f64::from(header.scale);
        let rounded = |matrix: ArrayView2<f64>, by: f64| {
            let exact: Array2<f64> = matrix.mapv(|x| by * x);
            match exact.iter().find(|x| !(**x as f32).is_finite()) {
                Some(&value) => Err(ExchangeError::TooLarge { module: *module, value }),
                None => Ok(exact),
            }
        };
        let name = |factor: &str| format!("base_model.model.{path}.{factor}.weight");
        named.push((name("lora_A"), rounded(v.t(), 1.0)?));
        named.push((name("lora_B"), rounded(l.view(), alpha)?));
    }
    let bytes: Vec<(String, [usize; 2], Vec<u8>)> = named
        .into_iter()
        .map(|(name, matrix)| {
            let bytes = matrix.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
            (name, [matrix.nrows(), matrix.ncols()], bytes)
        })
        .collect();
    let failed = |e: safetensors::SafeTensorError| ExchangeError::Tensors { reason: e.to_string() };
    let views = bytes.iter().map(|(name, shape, bytes)| {
        Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(failed)?))
    });
    let views = views.collect::<Result<Vec<_>, ExchangeError>>()?;
    // One entry: the crate writes a map of several in no fixed order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = safetensors::serialize(views, Some(metadata)).map_err(failed)?;

    let every = layers.is_empty() || layers.len() == targets.layers;
    // PEFT leaves out what lies in no layer when layers are named, so that a head needs whole paths.
    let has_head = factors.iter().any(|f| f.module == ModuleId::LM_HEAD);
    let (modules, every) = if has_head && !every { (paths, true) } else { (suffixes, every) };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": null,
        "inference_mode": true,
        "r": header.rank,
        "lora_alpha": header.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
        "target_modules": modules,
        "layers_to_transform": (!every).then_some(layers),
        "layers_pattern": (!every).then_some("layers"),
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": null,
        "auto_mapping": null,
    });
    let mut config = serde_json::to_vec_pretty(&config)
        .map_err(|e| ExchangeError::Tensors { reason: e.to_string() })?;
    config.push(b'\n');
    Ok(Lora { config, tensors })
}

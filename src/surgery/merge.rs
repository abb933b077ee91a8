//! Writing an adapter into the weights: W' = round(W + ΔW), once, from a pristine base.

use super::{Edit, ModuleSurvival, Patch, SurgeryError, Survival, free_name, refuse_grafted};
use crate::{
    format::{Header, ModuleId},
    model::{
        ModelError, OnnxModel, Target, Targets, f32_tensor,
        proto::{ModelProto, TensorProto},
    },
    projection::{Factors, delta_row, merged_f32, select},
};
use ndarray::{Array2, ArrayViewMut1};
use prost::bytes::Bytes;
use rayon::prelude::*;

/// A merged model and what rounding left of the update.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The base with other weights; all else is as it was.
    pub proto: ModelProto,
    /// Of every selected module.
    pub survival: Survival,
}

/// Merges an adapter into a model (`spec/projection.md`, merged weights).
///
/// `factors` are those of the selected modules, sorted, as [`crate::projection::rebuild`] gives
/// them; whether the adapter belongs to this base is for the caller to check against the base
/// digest. A matrix that other nodes read too is copied for its node first. Weights that lay in
/// an external file come out inline. A grafted model is refused, because its default would come on
/// top. `threads` changes only the time; 0 means one per core.
pub fn merge(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    threads: usize,
) -> Result<Merged, SurgeryError> {
    refuse_grafted(model.graph())?;
    let pairs = pair(targets, header, factors)?;
    let pool = pool(threads)?;
    let mut patch = Patch::default();
    let mut survival = Survival::default();
    for (target, factors) in pairs {
        let (weight, left) =
            pool.install(|| merged_weight(model, target, factors, header.scale))?;
        patch.edits.extend(placed(model, target, &weight)?);
        survival.modules.push(left);
    }
    let mut proto = model.proto.clone();
    patch.apply(proto.graph.get_or_insert_default())?;
    Ok(Merged { proto, survival })
}

pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, SurgeryError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    built.map_err(|e| SurgeryError::Threads { threads, reason: e.to_string() })
}

/// The selected modules in order, each with its target and its factors.
pub(super) fn pair<'a>(
    targets: &'a Targets,
    header: &Header,
    factors: &'a [Factors],
) -> Result<Vec<(&'a Target, &'a Factors)>, SurgeryError> {
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let selected = select(header, &known)?;
    let (expected, found) = (selected.len(), factors.len());
    let other = |module| SurgeryError::OtherFactors { module, expected, found };
    if let Some(extra) = factors.get(expected) {
        return Err(other(extra.module));
    }
    let mut pairs = Vec::with_capacity(expected);
    for (index, &module) in selected.iter().enumerate() {
        let given = factors.get(index).filter(|f| f.module == module);
        match (targets.get(module), given) {
            (Some(target), Some(factors)) => pairs.push((target, factors)),
            _ => return Err(other(module)),
        }
    }
    Ok(pairs)
}

/// Refuses factors that do not make an update of the target's shape.
pub(super) fn check_shape(target: &Target, factors: &Factors) -> Result<(), SurgeryError> {
    let (rows, cols) = (factors.l.nrows(), factors.v.nrows());
    if (rows, cols) == (target.rows, target.cols) && factors.l.ncols() == factors.v.ncols() {
        return Ok(());
    }
    let (module, out, inp) = (target.module, target.rows, target.cols);
    Err(SurgeryError::FactorShape { module, rows, cols, out, inp })
}

/// W' canonical, [out, in], and what is left of ΔW. One row of ΔW per thread is in memory.
fn merged_weight(
    model: &OnnxModel,
    target: &Target,
    factors: &Factors,
    scale: f32,
) -> Result<(Array2<f32>, ModuleSurvival), SurgeryError> {
    let (module, cols) = (target.module, target.cols);
    check_shape(target, factors)?;
    let mut weight = model.weight(target)?;
    let mut views: Vec<_> = weight.rows_mut().into_iter().enumerate().collect();
    let products = views
        .par_iter_mut()
        .map_init(
            || vec![0.0; cols],
            |delta, (row, weights)| {
                delta_row(factors, scale, *row, delta);
                merge_row(weights, delta).map_err(|(col, value)| (*row, col, value))
            },
        )
        .collect::<Vec<_>>();
    let mut left = ModuleSurvival { module, kept: 0.0, wanted: 0.0 };
    for products in products {
        let (kept, wanted) = products.map_err(|(row, col, value)| SurgeryError::NotFinite {
            module,
            row,
            col,
            value,
        })?;
        left.kept += kept;
        left.wanted += wanted;
    }
    Ok((weight, left))
}

/// Merges one row in place; the row's ⟨W' − W, ΔW⟩ and ⟨ΔW, ΔW⟩, or the first column whose sum
/// is not finite.
fn merge_row(weights: &mut ArrayViewMut1<f32>, delta: &[f64]) -> Result<(f64, f64), (usize, f32)> {
    let (mut kept, mut wanted) = (0.0, 0.0);
    for (col, (w, &d)) in weights.iter_mut().zip(delta).enumerate() {
        let merged = merged_f32(*w, d);
        if !merged.is_finite() {
            return Err((col, merged));
        }
        kept += (f64::from(merged) - f64::from(*w)) * d;
        wanted += d * d;
        *w = merged;
    }
    Ok((kept, wanted))
}

/// The edits that make `weight` the weight of the target's node and of no other.
fn placed(
    model: &OnnxModel,
    target: &Target,
    weight: &Array2<f32>,
) -> Result<Vec<Edit>, SurgeryError> {
    let name = &target.initializer;
    let old =
        model.initializer(name).ok_or_else(|| ModelError::NoInitializer { name: name.clone() })?;
    if !target.shared {
        let raw = bytes(weight, target.stored_transposed);
        let tensor = with_data(old, raw);
        return Ok(vec![Edit::ReplaceTensor { name: name.clone(), tensor }]);
    }
    let version = model.proto.ir_version();
    if version < 4 {
        return Err(SurgeryError::OldIr { module: target.module, version });
    }
    let graph = model.graph();
    let own = free_name(graph, &format!("{name}.{}", target.module));
    let site = target.node.as_ref().ok_or(ModelError::NoInitializer { name: name.clone() })?;
    let (node_index, slot) = (site.index, site.weight_slot);
    let node = graph.node.get(node_index);
    let from = node.and_then(|n| n.input.get(slot)).cloned().unwrap_or_default();
    // The copy is read directly, whatever Identity or Transpose led to the original, so it has
    // the layout of MatMul's right operand.
    let tensor = f32_tensor(&own, &[target.cols, target.rows], bytes(weight, true));
    Ok(vec![Edit::AddInitializer(tensor), Edit::RewireInput { node_index, slot, from, to: own }])
}

fn bytes(weight: &Array2<f32>, transposed: bool) -> Bytes {
    let turned = transposed.then(|| weight.t().as_standard_layout().into_owned());
    let mut bytes = Vec::with_capacity(weight.len() * 4);
    turned
        .as_ref()
        .unwrap_or(weight)
        .iter()
        .for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    bytes.into()
}

/// `old` with other values, inline.
fn with_data(old: &TensorProto, raw: Bytes) -> TensorProto {
    TensorProto {
        name: old.name.clone(),
        dims: old.dims.clone(),
        data_type: old.data_type,
        doc_string: old.doc_string.clone(),
        metadata_props: old.metadata_props.clone(),
        raw_data: Some(raw),
        ..TensorProto::default()
    }
}

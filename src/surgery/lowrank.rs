//! The low-rank path beside a weight: `Y = X·Wᵀ + ((X·V)·M)·Lᵀ`.
//!
//! `M = α·Rᵀ` of every module is one graph input, so one graph serves training, placement (the
//! gradient by R of every module at once) and evaluation, whatever the geometry of v.

use ndarray::{Array2, ArrayView2};

use super::{Edit, Patch};
use crate::{
    format::ModuleId,
    model::{
        NodeSite, Target,
        node::{Attribute, Dim, node, tensor_f32, tensor_i64, tensor_value, with_attribute},
        proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
    },
};

/// The graph input that holds `M` of each module: float32 `[modules, rows, r, r]`, where `rows`
/// is 1 (the same adapter for the whole batch) or the batch size (one adapter per row).
pub const MIXING: &str = "tla_mixing";

/// Factors that do not belong to the graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraftError {
    /// The node of a target is not where the target says.
    #[error("{module} was not found in this graph. Find the targets of the model again")]
    NotTheGraph {
        /// The module.
        module: ModuleId,
    },
    /// A factor of another shape than the weight.
    #[error(
        "a factor of {module} is {found:?}, its weight asks for {expected:?}. Rebuild the adapter from this base"
    )]
    FactorShape {
        /// The module.
        module: ModuleId,
        /// Shape of the factor.
        found: Vec<usize>,
        /// Shape the weight asks for.
        expected: [usize; 2],
    },
}

/// What is frozen of one module's path.
#[derive(Debug, Clone)]
pub struct LowRank<'a> {
    /// The matrix the path runs beside.
    pub target: &'a Target,
    /// `U·Σ` (or `U·√Σ`), `[out, r]`.
    pub left: Array2<f32>,
    /// `V` (or `V·√Σ`), `[in, r]`.
    pub right: Array2<f32>,
}

/// The tensor that holds `M` of one module, `[rows, r, r]`: what a gradient is taken by.
pub fn mixing_of(module: ModuleId) -> String {
    format!("tla/{module}/mixing")
}

/// Plans the path beside each of `paths`, in that order, at the given rank.
///
/// # Errors
/// If a factor is not of the target's shape.
pub fn lowrank_patch(
    graph: &GraphProto,
    paths: &[LowRank<'_>],
    rank: usize,
) -> Result<Patch, GraftError> {
    let mut patch = Patch::default();
    let sites = paths.iter().map(|p| Ok(site(p.target)?.index));
    let Some(first) = sites.collect::<Result<Vec<_>, _>>()?.into_iter().min() else {
        return Ok(patch);
    };
    let r = rank as i64;
    let dims = [
        Dim::Fixed(paths.len() as i64),
        Dim::Named("tla_rows".to_owned()),
        Dim::Fixed(r),
        Dim::Fixed(r),
    ];
    patch.edits.push(Edit::AddInput(tensor_value(MIXING, DataType::Float, &dims)));
    patch.edits.push(Edit::AddInitializer(tensor_i64("tla/first", &[1], &[0])));
    patch.edits.push(Edit::InsertAfter { node_index: first, nodes: split(paths) });
    for path in paths {
        path.extend(graph, &mut patch, rank)?;
    }
    Ok(patch)
}

/// The node of a target in the graph it was found in.
fn site(target: &Target) -> Result<&NodeSite, GraftError> {
    target.node.as_ref().ok_or(GraftError::NotTheGraph { module: target.module })
}

/// One slice of the input for each module.
fn split(paths: &[LowRank<'_>]) -> Vec<NodeProto> {
    let slices: Vec<String> =
        paths.iter().map(|p| format!("tla/{}/slice", p.target.module)).collect();
    let outputs: Vec<&str> = slices.iter().map(String::as_str).collect();
    let parts = Attribute::Int(paths.len() as i64);
    let cut =
        with_attribute(node("Split", "tla/split", &[MIXING], &outputs), "axis", Attribute::Int(0));
    let mut nodes = vec![with_attribute(cut, "num_outputs", parts)];
    for (path, slice) in paths.iter().zip(&slices) {
        let mixing = mixing_of(path.target.module);
        nodes.push(node("Squeeze", &mixing, &[slice, "tla/first"], &[&mixing]));
    }
    nodes
}

impl LowRank<'_> {
    /// The base product gets another name; the sum takes the one everybody reads.
    fn extend(&self, graph: &GraphProto, patch: &mut Patch, rank: usize) -> Result<(), GraftError> {
        let target = self.target;
        let module = target.module;
        let site = site(target)?;
        let product = graph.node.get(site.index);
        let ends = product
            .and_then(|n| Some((n.input.get(1 - site.weight_slot.min(1))?, n.output.first()?)));
        let (input, output) = ends.ok_or(GraftError::NotTheGraph { module })?;
        let name = |part: &str| format!("tla/{module}/{part}");
        let right = tensor(module, &name("right"), self.right.view(), [target.cols, rank])?;
        let left = tensor(module, &name("left"), self.left.t(), [rank, target.rows])?;
        patch.edits.push(Edit::AddInitializer(right));
        patch.edits.push(Edit::AddInitializer(left));
        let base = name("base");
        patch.edits.push(Edit::RenameOutput {
            node_index: site.index,
            slot: 0,
            from: output.clone(),
            to: base.clone(),
        });
        let narrow = name("narrow");
        let mixed = name("mixed");
        let update = name("update");
        patch.edits.push(Edit::InsertAfter {
            node_index: site.index,
            nodes: vec![
                node("MatMul", &narrow, &[input, &name("right")], &[&narrow]),
                node("MatMul", &mixed, &[&narrow, &mixing_of(module)], &[&mixed]),
                node("MatMul", &update, &[&mixed, &name("left")], &[&update]),
                node("Add", &name("sum"), &[&base, &update], &[output]),
            ],
        });
        Ok(())
    }
}

fn tensor(
    module: ModuleId,
    name: &str,
    values: ArrayView2<'_, f32>,
    shape: [usize; 2],
) -> Result<TensorProto, GraftError> {
    if values.shape() != shape {
        return Err(GraftError::FactorShape {
            module,
            found: values.shape().to_vec(),
            expected: shape,
        });
    }
    let flat: Vec<f32> = values.iter().copied().collect();
    Ok(tensor_f32(name, &[shape[0] as i64, shape[1] as i64], &flat))
}

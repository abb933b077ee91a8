//! The gradient graph of a grafted model, built.

use std::path::Path as FilePath;

use super::{
    TrainError,
    batch::{Layout, MicroBatch, Prompts},
    gradient::{LossSettings, feeds},
};
use crate::{
    autodiff::{
        Path, differentiate,
        loss::{self, loss_patch},
        lowering::{self, opset},
        probe, prune,
        shared_prompt::{composable, share_prompts},
    },
    format::ModuleId,
    model::{
        node::{Attribute, node, tensor_f32, untyped_value, with_attribute},
        proto::{ModelProto, NodeProto, tensor_proto::DataType},
    },
    runtime::{Interface, LOGITS, SessionOptions, Tensor, measure},
    surgery::{MIXING, mixing_of},
};

/// Float32 `[modules, r, r]` output: dL/dM of each module.
pub const GRADIENT: &str = "tla_gradient";

impl Layout {
    /// The best layout for a model: prompts are shared where its attention looks at which tokens
    /// are masked and is told their positions, and no node holds a graph of its own.
    ///
    /// # Errors
    /// If it is not a causal language model.
    pub fn of(model: &ModelProto) -> Result<Self, TrainError> {
        let graph = model.graph.as_ref().ok_or(TrainError::NoGraph)?;
        let interface = Interface::of(graph)?;
        let told = interface.positions && !interface.padded_right;
        Ok(if told && composable(graph) { Self::Shared } else { Self::Whole })
    }
}

/// `grafted` with the loss, its gradient and nothing else as outputs.
///
/// # Errors
/// As [`GradientGraph::build`].
pub fn gradient_model(
    grafted: &ModelProto,
    path: &FilePath,
    modules: &[ModuleId],
    rank: usize,
    layout: Layout,
    options: SessionOptions,
) -> Result<ModelProto, TrainError> {
    let mut model = grafted.clone();
    opset::raise(&mut model, opset::RULES)?;
    let interface = Interface::of(model.graph.as_ref().ok_or(TrainError::NoGraph)?)?;
    if layout == Layout::Shared {
        let caches: Vec<(&str, &str)> = interface.cache_names().collect();
        let graph = model.graph.as_mut().ok_or(TrainError::NoGraph)?;
        share_prompts(graph, &caches, &[MIXING])?;
    }
    let small = probe_feeds(&interface, modules.len(), rank, layout, 2)?;
    let large = probe_feeds(&interface, modules.len(), rank, layout, 3)?;
    let shapes_of = |model: &ModelProto, names: &[String]| {
        measure(&probe::graph(model, names), path, names, [&small, &large], options)
    };
    let graph = model.graph.as_mut().ok_or(TrainError::NoGraph)?;
    loss_patch(graph, LOGITS)?.apply(graph)?;
    let wrt: Vec<String> = modules.iter().map(|m| mixing_of(*m)).collect();
    let fused = Path::find(graph, loss::LOSS, &wrt)?;
    let names = lowering::tensors(graph, &fused);
    if !names.is_empty() {
        let shapes = shapes_of(&model, &names)?;
        lowering::lower(model.graph.as_mut().ok_or(TrainError::NoGraph)?, &fused, &shapes)?;
    }
    let wanted = rules_opset(&model);
    opset::raise(&mut model, wanted)?;
    let graph = model.graph.as_ref().ok_or(TrainError::NoGraph)?;
    let along = Path::find(graph, loss::LOSS, &wrt)?;
    let names = probe::tensors(graph, &along);
    let shapes = shapes_of(&model, &names)?;
    let version = opset::of(&model);
    let graph = model.graph.as_mut().ok_or(TrainError::NoGraph)?;
    let half = names.iter().any(|n| shapes.get(n).is_ok_and(|m| m.kind == DataType::Float16));
    if half {
        graph.initializer.push(tensor_f32(SMALLEST, &[], &[f32::MIN_POSITIVE]));
        graph.node.extend(scale_up());
    }
    let gradient = differentiate(graph, version, &along, &shapes, half.then_some(SEED))?;
    graph.node.extend(gradient.nodes);
    graph.initializer.extend(gradient.initializers);
    let parts: Vec<&str> = gradient.adjoints.iter().map(String::as_str).collect();
    let raw = if half { "tla_gradient/scaled" } else { GRADIENT };
    let concat = node("Concat", raw, &parts, &[raw]);
    graph.node.push(with_attribute(concat, "axis", Attribute::Int(0)));
    if half {
        graph.node.push(node("Mul", GRADIENT, &[raw, LARGEST], &[GRADIENT]));
    }
    graph.output.push(untyped_value(GRADIENT));
    prune(graph);
    Ok(model)
}

const SEED: &str = "tla_gradient/seed";
const LARGEST: &str = "tla_gradient/largest_weight";
const SMALLEST: &str = "tla_gradient/smallest_weight";

/// The seed of a backward pass through 16-bit tensors: one over the largest weight of a token, so
/// that the gradients of a large batch, each token a small share of it, are not lost below what
/// 16 bits hold. The result is multiplied by [`LARGEST`] again.
fn scale_up() -> Vec<NodeProto> {
    let (size, largest) = ("tla_gradient/weights", "tla_gradient/largest");
    let reduce = node("ReduceMax", largest, &[size], &[largest]);
    vec![
        node("Abs", size, &[loss::WEIGHTS], &[size]),
        with_attribute(reduce, "keepdims", Attribute::Int(0)),
        node("Max", LARGEST, &[largest, SMALLEST], &[LARGEST]),
        node("Reciprocal", SEED, &[LARGEST], &[SEED]),
    ]
}

/// The operator set the rules for `model` need.
fn rules_opset(model: &ModelProto) -> i64 {
    let nodes = model.graph.iter().flat_map(|g| &g.node);
    let blocks = nodes.into_iter().any(|n| n.op_type() == "MatMulNBits");
    if blocks { opset::BLOCKS } else { opset::RULES }
}

/// Small inputs of a size that shares no dimension with those of another `rows`.
fn probe_feeds(
    interface: &Interface,
    modules: usize,
    rank: usize,
    layout: Layout,
    rows: usize,
) -> Result<Vec<(String, Tensor)>, TrainError> {
    let (length, tokens, shared) = (2 * rows + 1, rows + 1, layout == Layout::Shared);
    let (before, prompts) = if shared { (4 * rows, rows + 2) } else { (0, 0) };
    let places = |rows: usize, length: usize, from: usize| {
        (0..rows * length).map(|k| (from + k % length) as i64).collect::<Vec<_>>()
    };
    let batch = MicroBatch {
        prompts: shared.then(|| Prompts {
            rows: prompts,
            ids: vec![0; prompts * before],
            mask: vec![1; prompts * before],
            positions: places(prompts, before, 0),
            of_row: (0..rows as i64).collect(),
        }),
        rows,
        ids: vec![0; rows * length],
        mask: vec![1; rows * (before + length)],
        positions: places(rows, length, before),
        predicted_from: (0..tokens as i64).collect(),
        labels: vec![0; tokens],
        advantages: vec![1.0; tokens],
        weights: vec![1.0; tokens],
        sampled_logprobs: vec![0.0; tokens],
    };
    let settings =
        LossSettings { temperature: 1.0, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };
    let mut made = feeds(interface, &batch, &batch.sampled_logprobs, settings)?;
    let mixing = Tensor::f32(&[modules, 1, rank, rank], vec![0.0; modules * rank * rank])?;
    made.push((MIXING.to_owned(), mixing));
    Ok(made)
}

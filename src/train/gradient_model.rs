//! The gradient graph of a grafted model, built.

use std::{collections::HashSet, path::Path as FilePath};

use super::{
    TrainError,
    batch::{Layout, MicroBatch, Prompts},
    gradient::{LossSettings, feeds, places},
};
use crate::{
    autodiff::{
        Path, differentiate,
        loss::{self, loss_patch},
        lowering::{self, Past, opset},
        probe, prune,
        shapes::Shapes,
        shared_prompt::{composable, share_prompts},
    },
    format::ModuleId,
    model::{
        node::{
            Attribute, Dim, int_attribute, node, tensor_f32, tensor_value, untyped_value,
            with_attribute,
        },
        proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_proto::DataType},
    },
    runtime::{Interface, LOGITS, MASK, SessionOptions, Tensor, measure},
    surgery::{MIXING, mixing_of},
};

/// Float32 `[modules, r, r]` output: dL/dM of each module.
pub const GRADIENT: &str = "tla_gradient";

/// int64 `[rows, length]`: positions in their texts, for attention that is not told them.
pub(super) const PLACES: &str = "tla_places";

fn places_input() -> ValueInfoProto {
    let dims = ["tla_place_rows", "tla_place_length"].map(|name| Dim::Named(name.to_owned()));
    tensor_value(PLACES, DataType::Int64, &dims)
}

impl Layout {
    /// The best layout for a model: prompts are shared where attention is told which tokens are
    /// masked and their positions, or is rewritten to be. It is not where a window of tokens
    /// counts masked ones, or a node holds a graph of its own.
    ///
    /// # Errors
    /// If it is not a causal language model.
    pub fn of(graph: &GraphProto) -> Result<Self, TrainError> {
        let interface = Interface::of(graph)?;
        let told = interface.positions || interface.padded_right;
        let windowed = |n: &NodeProto| int_attribute(n, "local_window_size").is_some_and(|w| w > 0);
        let shared = told && composable(graph) && !graph.node.iter().any(windowed);
        Ok(if shared { Self::Shared } else { Self::Whole })
    }
}

/// `grafted` with the loss, its gradient and nothing else as outputs.
///
/// # Errors
/// As [`GradientGraph::build`](super::gradient::GradientGraph::build).
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
    let graph = model.graph.as_mut().ok_or(TrainError::NoGraph)?;
    let interface = Interface::of(graph)?;
    let caches: Vec<(&str, &str)> = interface.cache_names().collect();
    let pasts: Vec<&str> = caches.iter().map(|(past, _)| *past).collect();
    let past = Past { caches: &pasts, places: PLACES, mask: MASK };
    let past = Some(past).filter(|_| layout == Layout::Shared);
    if layout == Layout::Shared && interface.padded_right {
        graph.input.push(places_input());
    }
    let wrt: Vec<String> = modules.iter().map(|m| mixing_of(*m)).collect();
    let fused = Path::find(graph, LOGITS, &wrt)?;
    let names = lowering::tensors(graph, &fused, past);
    if !names.is_empty() {
        let sizes = probe_feeds(&interface, modules.len(), rank, Layout::Whole)?;
        let shapes = shapes_of(&model, &names, sizes, path, options)?;
        lowering::lower(model.graph.as_mut().ok_or(TrainError::NoGraph)?, &fused, &shapes, past)?;
    }
    let graph = model.graph.as_mut().ok_or(TrainError::NoGraph)?;
    if layout == Layout::Shared {
        share_prompts(graph, &caches, &[MIXING])?;
    }
    loss_patch(graph, LOGITS)?.apply(graph)?;
    let wanted = rules_opset(&model);
    opset::raise(&mut model, wanted)?;
    let graph = model.graph.as_ref().ok_or(TrainError::NoGraph)?;
    let along = Path::find(graph, loss::LOSS, &wrt)?;
    let names = probe::tensors(graph, &along);
    let sizes = probe_feeds(&interface, modules.len(), rank, layout)?;
    let shapes = shapes_of(&model, &names, sizes, path, options)?;
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

/// What of a gradient model gives the log-probabilities, and no other output or input.
///
/// # Errors
/// If the model has no graph.
pub fn logprob_model(mut gradient: ModelProto) -> Result<ModelProto, TrainError> {
    let graph = gradient.graph.as_mut().ok_or(TrainError::NoGraph)?;
    graph.output.retain(|output| output.name() == loss::LOGPROBS);
    prune(graph);
    let read: HashSet<&str> =
        graph.node.iter().flat_map(|n| &n.input).map(String::as_str).collect();
    graph.input.retain(|input| read.contains(input.name()));
    Ok(gradient)
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

type Feeds = Vec<(String, Tensor)>;

/// What runs of `model` at two sizes show of the tensors `names`.
fn shapes_of(
    model: &ModelProto,
    names: &[String],
    sizes: [Feeds; 2],
    path: &FilePath,
    options: SessionOptions,
) -> Result<Shapes, TrainError> {
    let inputs: HashSet<&str> =
        model.graph.iter().flat_map(|g| &g.input).map(|i| i.name()).collect();
    let read = |feeds: Feeds| -> Feeds {
        feeds.into_iter().filter(|(name, _)| inputs.contains(name.as_str())).collect()
    };
    let [small, large] = sizes.map(read);
    let graph = model.graph.as_ref().ok_or(TrainError::NoGraph)?;
    let said = probe::transposed_weights(graph);
    let known = |name: &&String| said.contains_key(name.as_str());
    let asked: Vec<String> = names.iter().filter(|name| !known(name)).cloned().collect();
    let probe = probe::graph(model, &asked);
    let mut shapes = measure(&probe, path, &asked, [&small, &large], options)?;
    said.into_iter().for_each(|(name, measured)| shapes.insert(name, measured));
    Ok(shapes)
}

/// Small inputs of two sizes that have no varying dimension in common.
fn probe_feeds(
    interface: &Interface,
    modules: usize,
    rank: usize,
    layout: Layout,
) -> Result<[Feeds; 2], TrainError> {
    let sized = |rows| sized_feeds(interface, modules, rank, layout, rows);
    Ok([sized(2)?, sized(3)?])
}

fn sized_feeds(
    interface: &Interface,
    modules: usize,
    rank: usize,
    layout: Layout,
    rows: usize,
) -> Result<Feeds, TrainError> {
    let (length, tokens, shared) = (2 * rows + 1, rows + 1, layout == Layout::Shared);
    let (before, prompts) = if shared { (4 * rows, rows + 2) } else { (0, 0) };
    let counted = |rows: usize, length: usize, from: usize| {
        (0..rows * length).map(|k| (from + k % length) as i64).collect::<Vec<_>>()
    };
    let batch = MicroBatch {
        prompts: shared.then(|| Prompts {
            rows: prompts,
            ids: vec![0; prompts * before],
            mask: vec![1; prompts * before],
            positions: counted(prompts, before, 0),
            of_row: (0..rows as i64).collect(),
        }),
        rows,
        ids: vec![0; rows * length],
        mask: vec![1; rows * (before + length)],
        positions: counted(rows, length, before),
        predicted_from: (0..tokens as i64).collect(),
        labels: vec![0; tokens],
        advantages: vec![1.0; tokens],
        weights: vec![1.0; tokens],
        sampled_logprobs: vec![0.0; tokens],
    };
    let settings =
        LossSettings { temperature: 1.0, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };
    let mut made = feeds(interface, &batch, &batch.sampled_logprobs, settings)?;
    if !shared {
        made.push((PLACES.to_owned(), places(rows, &batch.positions)?));
    }
    let mixing = Tensor::f32(&[modules, 1, rank, rank], vec![0.0; modules * rank * rank])?;
    made.push((MIXING.to_owned(), mixing));
    Ok(made)
}

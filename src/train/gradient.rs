//! The gradient graph of a grafted model, built and run.

use std::path::Path as FilePath;

use super::{TrainError, batch::MicroBatch};
use crate::{
    autodiff::{
        Path, differentiate,
        loss::{self, loss_patch},
        lowering::{self, opset},
        probe,
    },
    format::ModuleId,
    model::{
        node::{Attribute, node, tensor_f32, untyped_value, with_attribute},
        proto::{ModelProto, NodeProto, tensor_proto::DataType},
    },
    runtime::{Interface, LOGITS, Rows, Session, SessionOptions, Tensor, measure},
    surgery::{MIXING, mixing_of},
};

/// Float32 `[modules, r, r]` output: dL/dM of each module.
const GRADIENT: &str = "tla_gradient";

/// What the loss needs beside the tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSettings {
    /// Temperature the tokens were sampled at.
    pub temperature: f32,
    /// Ratios are clipped to 1 − `clip` and 1 + `clip`.
    pub clip: f32,
    /// Weight of the divergence from the base.
    pub kl: f32,
}

/// What one run of the graph gives.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientStep {
    /// The loss of the micro-batch.
    pub loss: f64,
    /// log-probability of each answer token.
    pub logprobs: Vec<f32>,
    /// dL/dM of each module, `[modules, r, r]`.
    pub by_mixing: Vec<f32>,
}

/// A model whose loss and gradient by every module's M come from one run.
pub struct GradientGraph {
    session: Session,
    interface: Interface,
}

impl GradientGraph {
    /// Appends the loss to `grafted`, differentiates it by the M of each of `modules`, and loads
    /// the result. `path` is where the model's external data would be.
    ///
    /// # Errors
    /// If an operator has no gradient rule, or the runtime refuses a graph.
    pub fn build(
        grafted: &ModelProto,
        path: &FilePath,
        modules: &[ModuleId],
        rank: usize,
        options: SessionOptions,
    ) -> Result<Self, TrainError> {
        let model = gradient_model(grafted, path, modules, rank, options)?;
        let graph = grafted.graph.as_ref().ok_or(TrainError::NoGraph)?;
        let interface = Interface::of(graph)?;
        let session = Session::load("the gradient graph", &model, path, options)?;
        Ok(Self { session, interface })
    }

    /// Loss, log-probabilities and gradient of one micro-batch under the adapter `mixing`.
    /// `base` holds the base's log-probabilities, or the sampled ones where the divergence does
    /// not count.
    ///
    /// # Errors
    /// If the run fails or its result is not finite.
    pub fn run(
        &mut self,
        batch: &MicroBatch,
        mixing: &Tensor,
        base: &[f32],
        settings: LossSettings,
    ) -> Result<GradientStep, TrainError> {
        let feeds = feeds(&self.interface, batch, base, settings)?;
        let cache = self.interface.empty_cache(batch.rows)?;
        let mut inputs: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (*n, t)).collect();
        inputs.extend(self.interface.cache_feeds(&cache));
        inputs.push((MIXING, mixing));
        let outputs = self.session.run(&inputs)?;
        let [loss, logprobs, gradient] = &outputs[..] else { return Err(TrainError::NoGraph) };
        let step = GradientStep {
            loss: f64::from(*loss.as_f32(loss::LOSS)?.first().ok_or(TrainError::NoGraph)?),
            logprobs: logprobs.as_f32(loss::LOGPROBS)?.to_vec(),
            by_mixing: gradient.as_f32(GRADIENT)?.to_vec(),
        };
        let finite = step.loss.is_finite() && step.by_mixing.iter().all(|g| g.is_finite());
        if finite { Ok(step) } else { Err(TrainError::NotFinite { loss: step.loss }) }
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
    options: SessionOptions,
) -> Result<ModelProto, TrainError> {
    let mut model = grafted.clone();
    opset::raise(&mut model, opset::RULES)?;
    let interface = Interface::of(model.graph.as_ref().ok_or(TrainError::NoGraph)?)?;
    let small = probe_feeds(&interface, modules.len(), rank, 2)?;
    let large = probe_feeds(&interface, modules.len(), rank, 3)?;
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
    rows: usize,
) -> Result<Vec<(String, Tensor)>, TrainError> {
    let (length, tokens) = (2 * rows + 1, rows + 1);
    let batch = MicroBatch {
        rows,
        ids: vec![0; rows * length],
        mask: vec![1; rows * length],
        positions: (0..rows * length).map(|k| (k % length) as i64).collect(),
        predicted_from: (0..tokens as i64).collect(),
        labels: vec![0; tokens],
        advantages: vec![1.0; tokens],
        weights: vec![1.0; tokens],
        sampled_logprobs: vec![0.0; tokens],
    };
    let settings = LossSettings { temperature: 1.0, clip: 0.2, kl: 0.0 };
    let mut made: Vec<(String, Tensor)> =
        feeds(interface, &batch, &batch.sampled_logprobs, settings)?
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .collect();
    for (name, empty) in interface.empty_cache_feeds(rows)? {
        made.push((name.to_owned(), empty));
    }
    let mixing = Tensor::f32(&[modules, 1, rank, rank], vec![0.0; modules * rank * rank])?;
    made.push((MIXING.to_owned(), mixing));
    Ok(made)
}

fn feeds<'a>(
    interface: &'a Interface,
    batch: &MicroBatch,
    base: &[f32],
    settings: LossSettings,
) -> Result<Vec<(&'a str, Tensor)>, TrainError> {
    let rows =
        Rows { batch: batch.rows, ids: &batch.ids, mask: &batch.mask, positions: &batch.positions };
    let tokens = batch.labels.len();
    let mut feeds = interface.feeds(&rows)?;
    feeds.push((loss::POSITIONS, Tensor::i64(&[tokens], batch.predicted_from.clone())?));
    feeds.push((loss::LABELS, Tensor::i64(&[tokens], batch.labels.clone())?));
    for (name, values) in [
        (loss::ADVANTAGES, batch.advantages.clone()),
        (loss::OLD, batch.sampled_logprobs.clone()),
        (loss::BASE, base.to_vec()),
        (loss::WEIGHTS, batch.weights.clone()),
    ] {
        feeds.push((name, Tensor::f32(&[tokens], values)?));
    }
    for (name, value) in [
        (loss::SHARPNESS, 1.0 / settings.temperature),
        (loss::LOW, 1.0 - settings.clip),
        (loss::HIGH, 1.0 + settings.clip),
        (loss::KL, settings.kl),
    ] {
        feeds.push((name, Tensor::f32(&[], vec![value])?));
    }
    Ok(feeds)
}

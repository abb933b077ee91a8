//! The gradient graph of every style of export: its forward pass against the export's own graph
//! with its fused operators, its gradient against central differences of that graph, on rows of
//! different length padded on the right.
#![cfg(feature = "train")]

mod noise;

use noise::noise;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use tla::{
    format::ModuleId,
    model::{
        OnnxModel, Target, find_targets,
        node::tensor_f32,
        proto::{ModelProto, TensorProto, tensor_proto::DataType, type_proto},
    },
    runtime::{CausalGraph, Rows, SessionOptions, Tensor},
    surgery::{LowRank, MIXING, lowrank_patch},
    train::{
        batch::{Layout, MicroBatch},
        gradient::{GradientGraph, LossSettings},
    },
};

const SETTINGS: LossSettings =
    LossSettings { temperature: 1.0, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };
const RANK: usize = 2;
const VOCABULARY: usize = 256;

fn matrix(seed: u64, rows: usize, columns: usize, size: f32) -> Array2<f32> {
    let values = noise(seed, rows * columns).iter().map(|x| x * size).collect();
    Array2::from_shape_vec((rows, columns), values).unwrap()
}

/// Rows of 9, 5 and 3 tokens, the answers their ends.
fn batch() -> MicroBatch {
    let (lengths, length) = ([9usize, 5, 3], 9usize);
    let mut batch = MicroBatch { rows: lengths.len(), ..MicroBatch::default() };
    for (row, own) in lengths.into_iter().enumerate() {
        let ids = noise(100 + row as u64, length);
        let ids: Vec<i64> = ids.iter().map(|x| ((x + 1.0) * 127.0) as i64).collect();
        batch.mask.extend((0..length).map(|k| i64::from(k < own)));
        batch.positions.extend((0..length).map(|k| k.min(own - 1) as i64));
        let answer = own.saturating_sub(4).max(1)..own;
        batch.labels.extend_from_slice(&ids[answer.clone()]);
        for k in answer {
            batch.predicted_from.push((row * length + k - 1) as i64);
            batch.advantages.push(if row == 1 { -0.7 } else { 1.0 });
            batch.weights.push(1.0);
            batch.sampled_logprobs.push(0.0);
        }
        batch.ids.extend(ids);
    }
    batch
}

struct Case {
    name: String,
    graph: GradientGraph,
    original: CausalGraph,
    batch: MicroBatch,
    modules: Vec<ModuleId>,
}

fn export(name: &str) -> OnnxModel {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports");
    OnnxModel::load(&root.join(name)).expect("a model")
}

/// Has every product with quantised weights computed without quantising the other side too: such a
/// product is a staircase, which differences do not measure.
fn smooth(proto: &mut ModelProto, _: &OnnxModel) {
    for node in &mut proto.graph.as_mut().unwrap().node {
        node.attribute.retain(|a| a.name() != "accuracy_level");
    }
}

fn grafted(model: &OnnxModel) -> (ModelProto, Vec<ModuleId>) {
    let targets = find_targets(model).expect("targets");
    let mut sorted: Vec<&Target> = targets.targets.iter().collect();
    sorted.sort_by_key(|t| t.module);
    let paths: Vec<LowRank<'_>> = sorted
        .iter()
        .enumerate()
        .map(|(k, target)| LowRank {
            target,
            left: matrix(k as u64 + 1, target.rows, RANK, 0.3),
            right: matrix(k as u64 + 51, target.cols, RANK, 0.3),
        })
        .collect();
    let mut proto = model.inlined().expect("the weights");
    tla::autodiff::lowering::opset::raise(&mut proto, 18).expect("a newer opset");
    let graph = proto.graph.as_mut().expect("a graph");
    lowrank_patch(graph, &paths, RANK).expect("a graft").apply(graph).expect("a valid graft");
    (proto, sorted.iter().map(|t| t.module).collect())
}

fn case(name: &str, change: impl Fn(&mut ModelProto, &OnnxModel)) -> Case {
    let model = export(name);
    let (mut proto, modules) = grafted(&model);
    change(&mut proto, &model);
    let (path, options): (&PathBuf, _) = (&model.path, SessionOptions::cpu(2));
    let graph = GradientGraph::build(&proto, path, &modules, RANK, Layout::Whole, options);
    let graph = graph.unwrap_or_else(|e| panic!("{name}: {e}"));
    let original = CausalGraph::load(&proto, path, options).expect("the original");
    Case { name: name.into(), graph, original, batch: batch(), modules }
}

impl Case {
    fn tensor(&self, mixing: &[f32]) -> Tensor {
        Tensor::f32(&[self.modules.len(), 1, RANK, RANK], mixing.to_vec()).unwrap()
    }

    fn point(&self) -> Vec<f32> {
        noise(7, self.modules.len() * RANK * RANK).iter().map(|x| 0.3 * x).collect()
    }

    /// log-probabilities of the answers by the original graph.
    fn expected(&mut self, mixing: &[f32]) -> Vec<f64> {
        let batch = &self.batch;
        let (ids, mask, positions) = (&batch.ids, &batch.mask, &batch.positions);
        let rows = Rows { batch: batch.rows, ids, mask, positions };
        let empty = self.original.empty_cache(batch.rows).unwrap();
        let mixing = self.tensor(mixing);
        let (logits, _) = self.original.step(&rows, empty, &[(MIXING, &mixing)]).unwrap();
        let logits = logits.to_f32("logits").unwrap();
        let answer = |(from, label): (&i64, &i64)| {
            let scores = &logits[*from as usize * VOCABULARY..][..VOCABULARY];
            let top = scores.iter().fold(f64::MIN, |m, s| m.max(f64::from(*s)));
            let sum: f64 = scores.iter().map(|s| (f64::from(*s) - top).exp()).sum();
            f64::from(scores[*label as usize]) - top - sum.ln()
        };
        self.batch.predicted_from.iter().zip(&self.batch.labels).map(answer).collect()
    }

    fn loss(&mut self, mixing: &[f32]) -> f64 {
        let logprobs = self.expected(mixing);
        -logprobs.iter().zip(&self.batch.advantages).map(|(l, a)| l * f64::from(*a)).sum::<f64>()
    }

    /// log-probabilities and gradient of the gradient graph, where every ratio is 1.
    fn found(&mut self, mixing: &[f32]) -> (Vec<f32>, Vec<f64>) {
        let tensor = self.tensor(mixing);
        for _ in 0..2 {
            let base = self.batch.sampled_logprobs.clone();
            let step = self.graph.run(&self.batch, &tensor, &base, SETTINGS).unwrap();
            if self.batch.sampled_logprobs == step.logprobs {
                let gradient = step.by_mixing.iter().map(|g| f64::from(*g)).collect();
                return (step.logprobs, gradient);
            }
            self.batch.sampled_logprobs = step.logprobs;
        }
        panic!("two runs of one graph differ");
    }

    /// The largest difference of a log-probability to the original graph.
    fn forward_error(&mut self) -> f64 {
        let point = self.point();
        let expected = self.expected(&point);
        let (found, _) = self.found(&point);
        found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max)
    }

    /// The largest relative difference of an entry of the gradient that is not small to a
    /// fourth-order central difference of the original graph's loss.
    fn gradient_error(&mut self, h: f32) -> f64 {
        let point = self.point();
        let (_, gradient) = self.found(&point);
        let scale = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
        let mut worst = 0f64;
        let entries: Vec<usize> =
            (0..gradient.len()).filter(|k| gradient[*k].abs() > 0.05 * scale).collect();
        assert!(entries.len() > 4, "{}: {gradient:?}", self.name);
        for entry in entries {
            let mut at = |step: f32| {
                let mut moved = point.clone();
                moved[entry] += step;
                self.loss(&moved)
            };
            let wide = f64::from(point[entry] + h) - f64::from(point[entry] - h);
            let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (6.0 * wide);
            worst = worst.max((gradient[entry] - difference).abs() / gradient[entry].abs());
        }
        worst
    }
}

fn agrees(name: &str, change: impl Fn(&mut ModelProto, &OnnxModel), forward: f64, gradient: f64) {
    let mut case = case(name, change);
    let found = (case.forward_error(), case.gradient_error(0.06));
    println!("{name}: log-probabilities {:.1e}, gradient {:.1e}", found.0, found.1);
    assert!(found.0 < forward && found.1 < gradient, "{name}: {found:?}");
}

#[test]
fn float32_exports_agree_with_their_own_graphs() {
    for name in [
        "dynamo-tf5-cache-fp32/qwen2-tied",
        "dynamo-cache-fp32-op23/qwen2-tied",
        "genai-fp32-cpu/qwen2-tied",
        "genai-fp32-cpu/llama-untied",
    ] {
        agrees(name, |_, _| {}, 1e-5, 1e-3);
    }
}

#[test]
fn four_bit_exports_agree_with_their_own_graphs() {
    for name in ["genai-int4-cpu/qwen2-tied", "transformers.js/model_q4.onnx"] {
        agrees(name, smooth, 1e-5, 1e-3);
    }
}

/// What is computed in 16 bits computed in 32, on the same weights.
fn widen(proto: &mut ModelProto, model: &OnnxModel) {
    let (half, full) = (DataType::Float16 as i32, DataType::Float as i32);
    let wide = |tensor: &mut TensorProto| {
        if tensor.data_type() == half {
            let values = model.tensor_f32(tensor).expect("values");
            let flat: Vec<f32> = values.iter().copied().collect();
            *tensor = tensor_f32(tensor.name(), &tensor.dims.clone(), &flat);
        }
    };
    let graph = proto.graph.as_mut().expect("a graph");
    graph.initializer.iter_mut().for_each(wide);
    for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        attribute.t.iter_mut().for_each(wide);
        if attribute.name() == "to" && attribute.i() == i64::from(half) {
            attribute.i = Some(i64::from(full));
        }
    }
    graph.value_info.clear();
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let kind = value.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(type_proto::Value::TensorType(tensor)) = kind
            && tensor.elem_type() == half
        {
            tensor.elem_type = Some(full);
        }
    }
}

/// Differences of a 16-bit graph measure its rounding, so the same weights in 32 bits stand between:
/// their gradient agrees with differences, and that of the 16-bit graph with theirs.
#[test]
fn half_precision_exports_agree_with_the_same_weights_in_single_precision() {
    for name in
        ["optimum-fp16/qwen2-tied", "genai-fp16-cuda/qwen2-tied", "transformers.js/model_fp16.onnx"]
    {
        let mut wide = case(name, widen);
        let difference = (wide.forward_error(), wide.gradient_error(0.06));
        let mut half = case(name, |_, _| {});
        let (forward, point) = (half.forward_error(), half.point());
        let apart = distance(&half.found(&point).1, &wide.found(&point).1);
        println!(
            "{name}: log-probabilities {forward:.1e}, gradient {apart:.1e} from single precision, \
             which is {difference:?} from differences"
        );
        assert!(difference.0 < 1e-5 && difference.1 < 1e-3, "{name}: {difference:?}");
        assert!(forward < 2e-2 && apart < 2e-2, "{name}: {forward} {apart}");
    }
}

/// Each token of a large batch is a small share of the loss, small enough to vanish in 16 bits.
#[test]
fn half_precision_keeps_gradients_of_small_shares() {
    let mut case = case("optimum-fp16/qwen2-tied", |_, _| {});
    let point = case.point();
    let whole = case.found(&point).1;
    let (tensor, base) = (case.tensor(&point), case.batch.sampled_logprobs.clone());
    case.batch.weights.fill(1e-7);
    let small = case.graph.run(&case.batch, &tensor, &base, SETTINGS).unwrap().by_mixing;
    let small: Vec<f64> = small.iter().map(|g| f64::from(*g) * 1e7).collect();
    let apart = distance(&small, &whole);
    assert!(apart < 1e-2, "{apart}");
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied())
}

/// The gradient of a fused kernel that quantises both sides is that of the exact product, taken
/// where the kernel's own forward pass is.
#[test]
fn products_that_quantise_both_sides_get_nearly_the_gradient_of_exact_ones() {
    let name = "genai-int4-cpu/qwen2-tied";
    let (mut stairs, mut exact) = (case(name, |_, _| {}), case(name, smooth));
    let point = stairs.point();
    let forward = stairs.forward_error();
    let (found, expected) = (stairs.found(&point).1, exact.found(&point).1);
    let apart = distance(&found, &expected);
    println!("{name}: log-probabilities {forward:.1e}, gradient {apart:.1e} from exact products");
    assert!(forward < 1e-5 && apart > 0.0 && apart < 0.05, "{forward} {apart}");
}

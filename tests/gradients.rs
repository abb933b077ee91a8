//! The gradient graph against PyTorch's autograd and against central differences, on a Qwen2 and
//! a Llama exported by optimum-onnx. `fixtures/make/torch_gradients.py` made the reference.
#![cfg(feature = "train")]

use std::{fs, path::Path};

use ndarray::Array2;
use serde_json::Value;
use tla::{
    format::{ModuleId, Role},
    model::{OnnxModel, find_targets},
    runtime::{SessionOptions, Tensor},
    surgery::{LowRank, lowrank_patch},
    train::{
        batch::{Layout, MicroBatch},
        gradient::{GradientGraph, LossSettings, UNASKED},
    },
};

const SETTINGS: LossSettings =
    LossSettings { temperature: 1.0, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };

struct Case {
    graph: GradientGraph,
    batch: MicroBatch,
    modules: Vec<Reference>,
    losses: [f64; 2],
}

struct Reference {
    module: ModuleId,
    mixing: Vec<f64>,
    gradients: [Vec<f64>; 2],
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

fn matrix(value: &Value) -> Array2<f32> {
    let rows = value.as_array().expect("rows").len();
    let flat: Vec<f32> = numbers(value).iter().map(|x| *x as f32).collect();
    Array2::from_shape_vec((rows, flat.len() / rows), flat).expect("a matrix")
}

fn batch(reference: &Value) -> MicroBatch {
    let tokens = reference["tokens"].as_array().expect("rows");
    let length = tokens[0].as_array().expect("a row").len();
    let mut batch = MicroBatch { rows: tokens.len(), ..MicroBatch::default() };
    for (row, ids) in tokens.iter().enumerate() {
        let own = reference["lengths"][row].as_u64().expect("a length") as usize;
        batch.ids.extend(numbers(ids).iter().map(|t| *t as i64));
        batch.mask.extend((0..length).map(|k| i64::from(k < own)));
        batch.positions.extend((0..length).map(|k| k.min(own - 1) as i64));
        for k in 1..length {
            if reference["completion_mask"][row][k].as_i64() == Some(1) {
                batch.predicted_from.push((row * length + k - 1) as i64);
                batch.labels.push(numbers(&ids[k])[0] as i64);
                batch.advantages.push(numbers(&reference["weights"][row][k])[0] as f32);
                batch.weights.push(1.0);
                batch.sampled_logprobs.push(0.0);
            }
        }
    }
    batch
}

fn load(name: &str) -> Case {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let text = fs::read_to_string(root.join(format!("gradients/{name}.json"))).expect("reference");
    let reference: Value = serde_json::from_str(&text).expect("JSON");
    let model = OnnxModel::load(&root.join("exports/optimum-fp32").join(name)).expect("a model");
    let targets = find_targets(&model).expect("targets");
    let mut entries: Vec<(ModuleId, &Value)> = reference["modules"]
        .as_array()
        .expect("modules")
        .iter()
        .map(|m| {
            let layer = m["layer"].as_u64().expect("a layer") as u16;
            let role = Role::from_name(m["role"].as_str().expect("a role")).expect("a known role");
            (ModuleId { layer, role }, m)
        })
        .collect();
    entries.sort_by_key(|(module, _)| *module);
    let paths: Vec<LowRank<'_>> = entries
        .iter()
        .map(|(module, m)| LowRank {
            target: targets.get(*module).expect("the target"),
            left: matrix(&m["A"]),
            right: matrix(&m["B"]),
        })
        .collect();
    let mut grafted = model.inlined().expect("readable weights");
    let graph = grafted.graph.as_mut().expect("a graph");
    lowrank_patch(graph, &paths, 2).expect("a fitting graft").apply(graph).expect("a valid graft");
    let ids: Vec<ModuleId> = entries.iter().map(|(module, _)| *module).collect();
    let built =
        GradientGraph::build(&grafted, &model.path, &ids, 2, Layout::Whole, SessionOptions::cpu(2));
    let modules = entries
        .iter()
        .map(|(module, m)| Reference {
            module: *module,
            mixing: numbers(&m["R"]),
            gradients: [numbers(&m["grad0"]), numbers(&m["grad1"])],
        })
        .collect();
    let losses = [numbers(&reference["loss0"])[0], numbers(&reference["loss1"])[0]];
    Case { graph: built.expect("a gradient graph"), batch: batch(&reference), modules, losses }
}

/// M = Rᵀ of every module.
fn mixing(values: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f32> =
        values.iter().flat_map(|r| [r[0], r[2], r[1], r[3]]).map(|x| x as f32).collect();
    Tensor::f32(&[values.len(), 1, 2, 2], flat).expect("a tensor")
}

impl Case {
    fn point(&self, which: usize) -> Vec<Vec<f64>> {
        let zero = vec![0.0; 4];
        let at = |m: &Reference| if which == 0 { zero.clone() } else { m.mixing.clone() };
        self.modules.iter().map(at).collect()
    }

    fn logprobs(&mut self, values: &[Vec<f64>]) -> Vec<f32> {
        let base = self.batch.sampled_logprobs.clone();
        let run = self.graph.run(&self.batch, &mixing(values), &base, SETTINGS);
        run.expect("a run").logprobs
    }

    /// −Σ weight·ℓ, in f64.
    fn loss(&mut self, values: &[Vec<f64>]) -> f64 {
        let logprobs = self.logprobs(values);
        let terms = logprobs.iter().zip(&self.batch.advantages);
        -terms.map(|(l, a)| f64::from(*l) * f64::from(*a)).sum::<f64>()
    }

    /// dL/dR of every module where the ratio is 1, that is where it was sampled.
    fn gradient(&mut self, values: &[Vec<f64>]) -> Vec<Vec<f64>> {
        self.batch.sampled_logprobs = self.logprobs(values);
        let base = self.batch.sampled_logprobs.clone();
        let run = self.graph.run(&self.batch, &mixing(values), &base, SETTINGS).expect("a run");
        let of = |m: &[f32]| [m[0], m[2], m[1], m[3]].iter().map(|x| f64::from(*x)).collect();
        run.by_mixing.chunks_exact(4).map(of).collect()
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(x, y)| x - y)) / norm(&mut b.iter().copied())
}

fn agrees_with_autograd(name: &str) {
    let mut case = load(name);
    for which in [0, 1] {
        let point = case.point(which);
        let loss = case.loss(&point);
        let expected = case.losses[which];
        assert!((loss - expected).abs() < 1e-4 * expected.abs().max(1.0), "{loss} {expected}");
        let gradients = case.gradient(&point);
        let mut worst = 0f64;
        for (found, reference) in gradients.iter().zip(&case.modules) {
            let error = distance(found, &reference.gradients[which]);
            assert!(error < 1e-4, "{name} {} point {which}: {error}", reference.module);
            worst = worst.max(error);
        }
        println!("{name}, point {which}: largest relative error against autograd {worst:.1e}");
    }
}

fn agrees_with_differences(name: &str) {
    let mut case = load(name);
    let point = case.point(1);
    let gradients = case.gradient(&point);
    let scale = gradients.iter().flatten().fold(0f64, |m, g| m.max(g.abs()));
    let mut worst = 0f64;
    for module in 0..point.len() {
        for entry in 0..4 {
            let mut at = |h: f64| {
                let mut moved = point.clone();
                moved[module][entry] += h;
                case.loss(&moved)
            };
            // Fourth-order central difference: the step can be large enough for f32 logits.
            let h = 0.06;
            let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let found = gradients[module][entry];
            if found.abs() < 0.05 * scale {
                continue;
            }
            let error = (found - difference).abs() / found.abs();
            assert!(error < 1e-3, "{name} {module} {entry}: {found} against {difference}");
            worst = worst.max(error);
        }
    }
    println!("{name}: largest relative error against central differences {worst:.1e}");
}

/// The whole objective at a temperature, with clipped ratios, or with the divergence from the base:
/// the gradient against fourth-order central differences of the graph's own loss.
fn objective_agrees_with_differences(name: &str, settings: LossSettings, spread: f32) -> f64 {
    let mut case = load(name);
    let (zero, point) = (case.point(0), case.point(1));
    let tokens = case.batch.labels.len();
    case.batch.weights.fill(0.05);
    case.batch.advantages = (0..tokens).map(|k| if k % 3 == 0 { 1.0 } else { -0.7 }).collect();
    let logprobs = |case: &mut Case, at: &[Vec<f64>]| {
        let base = case.batch.sampled_logprobs.clone();
        case.graph.run(&case.batch, &mixing(at), &base, settings).expect("a run").logprobs
    };
    let base = logprobs(&mut case, &zero);
    // Far enough apart that no difference crosses the edge of the clip.
    let away = |k: usize| spread * ((k % 5) as f32 - 2.0);
    case.batch.sampled_logprobs =
        logprobs(&mut case, &point).iter().enumerate().map(|(k, l)| l + away(k)).collect();
    let run = case.graph.run(&case.batch, &mixing(&point), &base, settings).expect("a run");
    let gradients: Vec<f64> = run.by_mixing.iter().map(|g| f64::from(*g)).collect();
    let scale = gradients.iter().fold(0f64, |m, g| m.max(g.abs()));
    let mut worst = 0f64;
    for (index, found) in gradients.iter().enumerate().filter(|(_, g)| g.abs() > 0.2 * scale) {
        // M = Rᵀ.
        let entry = [0, 2, 1, 3][index % 4];
        let mut at = |h: f64| {
            let mut moved = point.clone();
            moved[index / 4][entry] += h;
            case.graph.run(&case.batch, &mixing(&moved), &base, settings).expect("a run").loss
        };
        let h = 0.03;
        let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        worst = worst.max((found - difference).abs() / found.abs());
    }
    println!("{name}, {settings:?}, sampled {spread} apart: {worst:.1e}");
    worst
}

#[test]
fn temperature_clipping_divergence_and_likelihood_are_differentiated() {
    let plain = SETTINGS;
    for name in ["qwen2-tied", "llama-untied"] {
        for (settings, spread) in [
            (LossSettings { temperature: 0.5, ..plain }, 0.0),
            (plain, 0.6),
            (LossSettings { temperature: 1.7, kl: 0.5, ..plain }, 0.6),
            (LossSettings { kl: 5.0, ..plain }, 0.0),
            (LossSettings { clip: 0.3, clip_high: 1.5, ..plain }, 0.6),
            (LossSettings { likelihood: true, ..plain }, 0.6),
        ] {
            let worst = objective_agrees_with_differences(name, settings, spread);
            assert!(worst < 1e-3, "{name} {settings:?}: {worst}");
        }
    }
}

#[test]
fn an_answer_that_is_next_to_impossible_has_a_finite_likelihood() {
    let mut case = load("qwen2-tied");
    let point = case.point(1);
    let tokens = case.batch.labels.len();
    case.batch.sampled_logprobs.fill(0.0);
    case.batch.advantages.fill(1.0);
    let settings = LossSettings { temperature: 0.005, likelihood: true, ..SETTINGS };
    let run = case.graph.run(&case.batch, &mixing(&point), &vec![UNASKED; tokens], settings);
    let run = run.expect("finite numbers");
    assert!(run.logprobs.iter().any(|l| *l < -100.0), "{:?}", run.logprobs);
}

#[test]
fn qwen2_gradient_agrees_with_autograd() {
    agrees_with_autograd("qwen2-tied");
}

#[test]
fn llama_gradient_agrees_with_autograd() {
    agrees_with_autograd("llama-untied");
}

#[test]
fn qwen2_gradient_agrees_with_central_differences() {
    agrees_with_differences("qwen2-tied");
}

#[test]
fn llama_gradient_agrees_with_central_differences() {
    agrees_with_differences("llama-untied");
}

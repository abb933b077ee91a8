//! A prompt computed once for all its answers gives the loss, the log-probabilities and the gradient
//! of prompts repeated in every row, whichever exporter made the model.
#![cfg(feature = "train")]

mod noise;

use std::path::Path;

use ndarray::Array2;
use noise::noise;
use tla::{
    autodiff::loss,
    format::ModuleId,
    model::{OnnxModel, Target, find_targets, proto::ModelProto},
    policy::rollout::Completion,
    runtime::{SessionOptions, Tensor},
    surgery::{LowRank, lowrank_patch},
    train::{
        batch::{Layout, MicroBatch, Sample},
        gradient::{GradientGraph, GradientStep, LossSettings},
        gradient_model::{gradient_model, logprob_model},
    },
};

const RANK: usize = 2;
/// Exporters that repeat or share, and how near single or half precision brings the two.
const SHARING: &[(&str, f64)] = &[
    ("optimum-fp32/qwen2-tied", 2e-6),
    ("optimum-fp32/llama-untied", 2e-6),
    ("dynamo-tf5-cache-fp32/qwen2-tied", 2e-6),
    ("dynamo-cache-fp32-op23/qwen2-tied", 2e-6),
    ("transformers.js/model_q4.onnx", 2e-6),
    ("optimum-fp16/qwen2-tied", 1e-3),
    ("transformers.js/model_fp16.onnx", 1e-3),
    ("genai-fp32-cpu/qwen2-tied", 2e-6),
    ("genai-fp32-cpu/llama-untied", 2e-6),
    ("genai-int4-cpu/qwen2-tied", 2e-6),
    ("genai-fp16-cuda/qwen2-tied", 1e-3),
];

const SETTINGS: LossSettings =
    LossSettings { temperature: 0.9, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };

struct Case {
    proto: ModelProto,
    model: OnnxModel,
    modules: Vec<ModuleId>,
}

fn matrix(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let values = noise(seed, rows * columns).iter().map(|x| x * 0.3).collect();
    Array2::from_shape_vec((rows, columns), values).unwrap()
}

fn case(name: &str) -> Case {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports");
    let model = OnnxModel::load(&root.join(name)).expect("a model");
    let targets = find_targets(&model).expect("targets");
    let mut sorted: Vec<&Target> = targets.targets.iter().collect();
    sorted.sort_by_key(|t| t.module);
    let paths: Vec<LowRank<'_>> = sorted
        .iter()
        .enumerate()
        .map(|(k, target)| LowRank {
            target,
            left: matrix(k as u64 + 1, target.rows, RANK),
            right: matrix(k as u64 + 51, target.cols, RANK),
        })
        .collect();
    let mut proto = model.inlined().expect("the weights");
    tla::autodiff::lowering::opset::raise(&mut proto, 18).expect("a newer opset");
    let graph = proto.graph.as_mut().expect("a graph");
    lowrank_patch(graph, &paths, RANK).expect("a graft").apply(graph).expect("a valid graft");
    let modules = sorted.iter().map(|t| t.module).collect();
    Case { proto, model, modules }
}

impl Case {
    fn step(&self, layout: Layout, threads: usize) -> GradientStep {
        let options = SessionOptions::cpu(threads);
        let (proto, path) = (&self.proto, &self.model.path);
        let graph = GradientGraph::build(proto, path, &self.modules, RANK, layout, options);
        let mut graph = graph.expect("a gradient graph");
        let mixing = self.mixing();
        let (prompts, answers) = texts();
        let batch = MicroBatch::new(&samples(&prompts, &answers), 0, layout);
        let base = batch.sampled_logprobs.clone();
        let now = graph.run(&batch, &mixing, &base, SETTINGS).expect("a run").logprobs;
        let near = MicroBatch { sampled_logprobs: now.clone(), ..batch };
        graph.run(&near, &mixing, &now, SETTINGS).expect("a run")
    }

    fn mixing(&self) -> Tensor {
        let count = self.modules.len() * RANK * RANK;
        let values = noise(7, count).iter().map(|x| 0.3 * x).collect();
        Tensor::f32(&[self.modules.len(), 1, RANK, RANK], values).unwrap()
    }
}

fn tokens(seed: u64, length: usize) -> Vec<u32> {
    noise(seed, length).iter().map(|x| ((x + 1.0) * 127.0) as u32).collect()
}

/// Prompts of 6, 1 and 3 tokens, with three, one and two answers.
fn texts() -> (Vec<Vec<u32>>, Vec<(usize, Completion)>) {
    let prompts = [6, 1, 3].iter().enumerate().map(|(k, n)| tokens(k as u64 + 1, *n)).collect();
    let answers = [(0, 4), (0, 1), (0, 7), (1, 5), (2, 2), (2, 3)];
    let made = |(k, (prompt, length)): (usize, &(usize, usize))| {
        let tokens = tokens(k as u64 + 10, *length);
        (
            *prompt,
            Completion {
                logprobs: vec![0.0; tokens.len()],
                tokens,
                stopped: true,
                ..Completion::default()
            },
        )
    };
    (prompts, answers.iter().enumerate().map(made).collect())
}

fn samples<'a>(prompts: &'a [Vec<u32>], answers: &'a [(usize, Completion)]) -> Vec<Sample<'a>> {
    let of = |(k, (prompt, completion)): (usize, &'a (usize, Completion))| Sample {
        prompt: &prompts[*prompt][..],
        completion,
        advantage: if k % 2 == 0 { 1.0 } else { -0.7 },
        weight: 0.1,
    };
    answers.iter().enumerate().map(of).collect()
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let wide = |x: &f32| f64::from(*x);
    let apart = &mut found.iter().zip(expected).map(|(f, e)| wide(f) - wide(e));
    norm(apart) / norm(&mut expected.iter().map(wide))
}

#[test]
fn sharing_a_prompt_changes_neither_log_probabilities_nor_gradient() {
    for (name, near) in SHARING {
        let case = case(name);
        assert_eq!(
            Layout::of(case.proto.graph.as_ref().unwrap()).unwrap(),
            Layout::Shared,
            "{name}"
        );
        let (shared, whole) = (case.step(Layout::Shared, 2), case.step(Layout::Whole, 2));
        let forward = distance(&shared.logprobs, &whole.logprobs);
        let gradient = distance(&shared.by_mixing, &whole.by_mixing);
        println!("{name}: log-probabilities {forward:.1e}, gradient {gradient:.1e}");
        assert!(forward < *near && gradient < *near, "{name}: {forward} {gradient}");
    }
}

#[test]
fn the_bits_of_a_shared_gradient_do_not_depend_on_threads() {
    let case = case(SHARING[0].0);
    let one = case.step(Layout::Shared, 1);
    assert_eq!(one, case.step(Layout::Shared, 2));
    assert_eq!(one, case.step(Layout::Shared, 3));
}

#[test]
fn log_probabilities_without_the_gradient_are_those_beside_it() {
    for (name, near) in SHARING {
        let case = case(name);
        let options = SessionOptions::cpu(2);
        let (proto, path, layout) = (&case.proto, &case.model.path, Layout::Shared);
        let graph =
            GradientGraph::build_with_logprobs(proto, path, &case.modules, RANK, layout, options);
        let mut graph = graph.expect("two graphs");
        let (prompts, answers) = texts();
        let batch = MicroBatch::new(&samples(&prompts, &answers), 0, layout);
        let found = graph.logprobs(&batch, &case.mixing(), SETTINGS).expect("log-probabilities");
        let beside = graph.run(&batch, &case.mixing(), &vec![0.0; found.len()], SETTINGS);
        let apart = distance(&found, &beside.expect("a run").logprobs);
        println!("{name}: {apart:.1e}");
        assert!(apart < *near, "{name}: {apart}");
    }
}

#[test]
fn the_graph_of_log_probabilities_holds_nothing_of_the_gradient() {
    let case = case(SHARING[0].0);
    let (layout, options) = (Layout::Shared, SessionOptions::cpu(2));
    let whole = gradient_model(&case.proto, &case.model.path, &case.modules, RANK, layout, options)
        .unwrap();
    let cut = logprob_model(whole.clone()).unwrap().graph.unwrap();
    let whole = whole.graph.unwrap();
    let backward = |name: &str| name.starts_with("tla_grad");
    assert!(whole.node.iter().any(|n| n.output.iter().any(|o| backward(o))));
    let made = cut.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let read = cut.input.iter().map(|i| i.name()).chain(cut.initializer.iter().map(|t| t.name()));
    assert!(!made.chain(read).any(backward));
    let outputs: Vec<&str> = cut.output.iter().map(|o| o.name()).collect();
    assert_eq!(outputs, [loss::LOGPROBS]);
    assert!(!cut.input.iter().any(|i| [loss::WEIGHTS, loss::BASE].contains(&i.name())));
}

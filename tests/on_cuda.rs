//! Rollouts and gradients on a CUDA device against the same on the CPU. Needs a device and a library
//! with CUDA, so it runs only when asked: `benches/gpu.sh` asks.
#![cfg(feature = "train")]

use std::path::Path;

use tla::{
    format::{ModuleId, Split},
    model::{OnnxModel, find_targets},
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    runtime::{CausalGraph, Cuda, Provider, SessionOptions, Tensor, ready},
    surgery::MIXING,
    train::{
        batch::{Layout, MicroBatch, Sample},
        gradient::{GradientGraph, GradientStep, LossSettings},
        student::{for_rollouts, freeze, graft},
    },
};

const CUDA: Provider = Provider::Cuda(Cuda { device: 0, memory: None });

struct Case {
    rollouts: CausalGraph,
    gradients: GradientGraph,
    mixing: Tensor,
}

fn case(name: &str, provider: Provider) -> Case {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let model = OnnxModel::load(&root.join(name)).expect("a model");
    let targets = find_targets(&model).expect("targets");
    let mut modules: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    modules.sort();
    let frozen = freeze(&model, &targets, &modules, 2, 2, &mut |_| {}).expect("bases");
    let grafted = graft(&model, &targets, &frozen, Split::Paper).expect("a graft");
    let options = SessionOptions::cpu(2).on(provider);
    let layout = Layout::of(&grafted).expect("a layout");
    let gradients = GradientGraph::build(&grafted, &model.path, &modules, 2, layout, options);
    let rollouts = for_rollouts(grafted).expect("a cut");
    let values = (0..modules.len() * 4).map(|k| 0.1 * ((k * 7 % 11) as f32 - 5.0) / 5.0).collect();
    Case {
        rollouts: CausalGraph::load(&rollouts, &model.path, options).expect("rollouts"),
        gradients: gradients.expect("gradients"),
        mixing: Tensor::f32(&[modules.len(), 1, 2, 2], values).unwrap(),
    }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 200, 31, 7, 90, 14, 66], vec![17, 3], vec![250, 33, 8, 120]]
}

impl Case {
    fn answers(&mut self) -> Vec<Completion> {
        let prompts = prompts();
        let stop: Vec<u32> = (0..256).step_by(9).collect();
        let decoding = Decoding::Sampled { temperature: 1.0, seed: 3, step: 1, first_row: 0 };
        let plan = RolloutPlan {
            prompts: &prompts,
            samples: 2,
            max_tokens: 9,
            stop: &stop,
            pad: 0,
            decoding,
        };
        rollout(&mut self.rollouts, &[(MIXING, &self.mixing)], &plan).expect("answers")
    }

    fn step(&mut self, answers: &[Completion]) -> GradientStep {
        let prompts = prompts();
        let sample = |(k, completion): (usize, _)| Sample {
            prompt: &prompts[k / 2],
            completion,
            advantage: 1.0 - k as f64 / 2.0,
            weight: 0.1,
        };
        let samples: Vec<Sample<'_>> = answers.iter().enumerate().map(sample).collect();
        let batch = MicroBatch::new(&samples, 0, self.gradients.layout());
        let settings = LossSettings {
            temperature: 1.0,
            clip: 0.2,
            clip_high: 0.2,
            likelihood: false,
            kl: 0.0,
        };
        let base = batch.sampled_logprobs.clone();
        self.gradients.run(&batch, &self.mixing, &base, settings).expect("a step")
    }
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_device_gives_the_logprobs_and_gradients_of_the_cpu() {
    ready(CUDA).expect("a device");
    for (name, near) in [
        ("wordmath", 1e-3),
        ("exports/optimum-fp32/qwen2-tied", 1e-3),
        ("exports/optimum-fp32/llama-untied", 1e-3),
        ("exports/dynamo-tf5-cache-fp32/qwen2-tied", 1e-3),
        ("exports/dynamo-cache-fp32-op23/qwen2-tied", 1e-3),
        ("exports/transformers.js/model_q4.onnx", 1e-3),
        ("exports/optimum-fp16/qwen2-tied", 3e-2),
        ("exports/genai-fp16-cuda/qwen2-tied", 3e-2),
        ("exports/transformers.js/model_fp16.onnx", 3e-2),
    ] {
        let (mut cpu, mut cuda) = (case(name, Provider::Cpu), case(name, CUDA));
        let answers = cpu.answers();
        let (expected, found) = (cpu.step(&answers), cuda.step(&answers));
        let logprobs = apart(&found.logprobs, &expected.logprobs);
        let gradients = apart(&found.by_mixing, &expected.by_mixing);
        println!("{name}: log-probabilities {logprobs:.1e}, gradients {gradients:.1e}");
        assert!(logprobs < near && gradients < near, "{name}: {logprobs} {gradients}");
        // What is sampled on the device is what is differentiated there.
        let own = cuda.answers();
        let sampled: Vec<f32> = own.iter().flat_map(|a| a.logprobs.clone()).collect();
        let again = apart(&cuda.step(&own).logprobs, &sampled);
        println!("{name}: sampled and differentiated {again:.1e}");
        assert!(again < near, "{name}: {again}");
    }
}

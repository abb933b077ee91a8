#![allow(dead_code, reason = "each test program uses a part of it")]
//! An export with a low-rank path beside every module, as graphs for rollouts and for gradients.

use std::path::Path;

use tla::{
    format::{ModuleId, Split},
    model::{OnnxModel, find_targets, proto::ModelProto},
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    runtime::{CausalGraph, SessionOptions, Tensor},
    surgery::MIXING,
    train::{
        batch::{Layout, MicroBatch, Sample},
        gradient::{GradientGraph, GradientStep, LossSettings},
        student::{for_rollouts, freeze, graft},
    },
};

pub const RANK: usize = 2;

/// Answers that are drawn, by the model's own probabilities; other ones in another step.
pub fn sampled(step: u64) -> Decoding {
    Decoding::Sampled { temperature: 1.0, seed: 3, step, first_row: 0, streams: u64::MAX }
}

pub struct Grafted {
    pub model: OnnxModel,
    pub modules: Vec<ModuleId>,
    pub proto: ModelProto,
    pub layout: Layout,
}

/// The fixture of this name, grafted.
pub fn grafted(name: &str) -> Grafted {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let model = OnnxModel::load(&root.join(name)).expect("a model");
    let targets = find_targets(&model).expect("targets");
    let mut modules: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    modules.sort();
    let frozen = freeze(&model, &targets, &modules, RANK, 2, &mut |_| {}).expect("bases");
    let proto = graft(&model, &targets, &frozen, Split::Paper).expect("a graft");
    let layout = Layout::of(proto.graph.as_ref().expect("a graph")).expect("a layout");
    Grafted { model, modules, proto, layout }
}

/// A grafted model that runs, with an adapter.
pub struct Case {
    pub rollouts: CausalGraph,
    pub gradients: GradientGraph,
    pub mixing: Tensor,
}

pub fn case(name: &str, options: SessionOptions) -> Case {
    let Grafted { model, modules, proto, layout } = grafted(name);
    let gradients = GradientGraph::build(&proto, &model.path, &modules, RANK, layout, options);
    let rollouts = for_rollouts(proto, options.provider).expect("a cut");
    let values = (0..modules.len() * 4).map(|k| 0.1 * ((k * 7 % 11) as f32 - 5.0) / 5.0).collect();
    Case {
        rollouts: CausalGraph::load(&rollouts, &model.path, options).expect("rollouts"),
        gradients: gradients.expect("gradients"),
        mixing: Tensor::f32(&[modules.len(), 1, RANK, RANK], values).unwrap(),
    }
}

pub fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 200, 31, 7, 90, 14, 66], vec![17, 3], vec![250, 33, 8, 120]]
}

/// Tokens that end an answer.
pub fn stop() -> Vec<u32> {
    (0..256).step_by(9).collect()
}

impl Case {
    /// Two answers to each of [`prompts`].
    pub fn answers(&mut self, decoding: Decoding) -> Vec<Completion> {
        let (prompts, stop) = (prompts(), stop());
        let (samples, max_tokens) = (2, 9);
        let plan =
            RolloutPlan { prompts: &prompts, samples, max_tokens, stop: &stop, pad: 0, decoding };
        rollout(&mut self.rollouts, &[(MIXING, &self.mixing)], &plan).expect("answers")
    }

    /// What the gradient graph says of such answers.
    pub fn step(&mut self, answers: &[Completion]) -> GradientStep {
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

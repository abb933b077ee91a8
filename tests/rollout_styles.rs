//! Rollouts on every style of export: the same answers as from the plain export of the same
//! weights, and log-probabilities that the gradient graph of the same graft finds again.
#![cfg(feature = "train")]

use std::path::Path;

use tla::{
    format::{ModuleId, Split},
    model::{OnnxModel, find_targets},
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    runtime::{CausalGraph, SessionOptions, Tensor},
    surgery::MIXING,
    train::{
        batch::{Layout, MicroBatch, Sample},
        gradient::{GradientGraph, LossSettings},
        student::{for_rollouts, freeze, graft},
    },
};

struct Case {
    rollouts: CausalGraph,
    gradients: GradientGraph,
    mixing: Tensor,
}

fn case(name: &str) -> Case {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports");
    let model = OnnxModel::load(&root.join(name)).expect("a model");
    let targets = find_targets(&model).expect("targets");
    let mut modules: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    modules.sort();
    let frozen = freeze(&model, &targets, &modules, 2, 2, &mut |_| {}).expect("bases");
    let grafted = graft(&model, &targets, &frozen, Split::Paper).expect("a graft");
    let options = SessionOptions::cpu(2);
    let layout = Layout::of(&grafted).unwrap();
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
    fn answers(&mut self, decoding: Decoding) -> Vec<Completion> {
        let prompts = prompts();
        let stop: Vec<u32> = (0..256).step_by(9).collect();
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

    /// The largest difference of a sampled log-probability to what the gradient graph finds.
    fn apart(&mut self, step: u64) -> f32 {
        let sampled = Decoding::Sampled { temperature: 1.0, seed: 3, step, first_row: 0 };
        let (answers, prompts) = (self.answers(sampled), prompts());
        let samples: Vec<Sample<'_>> = answers
            .iter()
            .enumerate()
            .map(|(k, completion)| Sample {
                prompt: &prompts[k / 2],
                completion,
                advantage: 1.0,
                weight: 0.1,
            })
            .collect();
        let lengths: Vec<usize> = answers.iter().map(|a| a.tokens.len()).collect();
        assert!(lengths.iter().any(|l| *l != lengths[0]), "answers of one length: {lengths:?}");
        let batch = MicroBatch::new(&samples, 0, self.gradients.layout());
        let settings = LossSettings {
            temperature: 1.0,
            clip: 0.2,
            clip_high: 0.2,
            likelihood: false,
            kl: 0.0,
        };
        let base = batch.sampled_logprobs.clone();
        let step = self.gradients.run(&batch, &self.mixing, &base, settings).expect("a step");
        let apart = step.logprobs.iter().zip(&base).map(|(f, e)| (f - e).abs());
        apart.fold(0.0, f32::max)
    }
}

#[test]
fn exports_of_the_same_weights_give_the_same_answers() {
    for (architecture, others) in [
        (
            "qwen2-tied",
            &[
                "dynamo-tf5-cache-fp32/qwen2-tied",
                "dynamo-cache-fp32-op23/qwen2-tied",
                "genai-fp32-cpu/qwen2-tied",
            ][..],
        ),
        ("llama-untied", &["genai-fp32-cpu/llama-untied"]),
    ] {
        let expected = case(&format!("optimum-fp32/{architecture}")).answers(Decoding::Greedy);
        for name in others {
            assert_eq!(case(name).answers(Decoding::Greedy), expected, "{name}");
        }
    }
}

/// Answers that hold the same tokens so far share a row; prompts repeated do not.
#[test]
fn sharing_rows_changes_no_answer() {
    for name in ["optimum-fp32/qwen2-tied", "genai-fp32-cpu/qwen2-tied"] {
        let mut case = case(name);
        let (prompts, samples) = (prompts(), 6);
        let repeated: Vec<Vec<u32>> =
            prompts.iter().flat_map(|p| std::iter::repeat_n(p.clone(), samples)).collect();
        let stop: Vec<u32> = (0..256).step_by(9).collect();
        // So cold that answers have their first tokens in common.
        let decoding = Decoding::Sampled { temperature: 0.25, seed: 3, step: 1, first_row: 0 };
        let plan = RolloutPlan {
            prompts: &prompts,
            samples,
            max_tokens: 9,
            stop: &stop,
            pad: 0,
            decoding,
        };
        let apart = RolloutPlan { prompts: &repeated, samples: 1, ..plan };
        let mut answers = |plan: &RolloutPlan<'_>| {
            rollout(&mut case.rollouts, &[(MIXING, &case.mixing)], plan).expect("answers")
        };
        let (shared, apart) = (answers(&plan), answers(&apart));
        let tokens = |all: &[Completion]| all.iter().map(|a| a.tokens.clone()).collect::<Vec<_>>();
        assert_eq!(tokens(&shared), tokens(&apart), "{name}");
        let firsts = |n: usize| {
            let group = &shared[n * samples..(n + 1) * samples];
            group.iter().map(|a| a.tokens[0]).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert!((0..prompts.len()).any(|n| firsts(n) > 1), "{name}: nothing parts");
        assert!((0..prompts.len()).any(|n| firsts(n) < samples), "{name}: nothing is shared");
        let differences = shared.iter().zip(&apart).flat_map(|(s, a)| {
            s.logprobs.iter().zip(&a.logprobs).map(|(s, a)| (s - a).abs()).collect::<Vec<_>>()
        });
        let most = differences.fold(0.0, f32::max);
        println!("{name}: log-probabilities {most:.1e} apart");
        assert!(most < 1e-5, "{name}: {most}");
    }
}

#[test]
fn what_is_sampled_is_what_is_differentiated() {
    for (name, near) in [
        ("optimum-fp32/qwen2-tied", 1e-5),
        ("dynamo-tf5-cache-fp32/qwen2-tied", 1e-5),
        ("dynamo-cache-fp32-op23/qwen2-tied", 1e-5),
        ("genai-fp32-cpu/qwen2-tied", 1e-5),
        ("genai-fp32-cpu/llama-untied", 1e-5),
        ("transformers.js/model_q4.onnx", 1e-5),
        ("optimum-fp16/qwen2-tied", 1e-2),
        ("genai-fp16-cuda/qwen2-tied", 1e-2),
        ("transformers.js/model_fp16.onnx", 1e-2),
    ] {
        let apart = case(name).apart(1);
        println!("{name}: {apart:.1e}");
        assert!(apart < near, "{name}: {apart}");
    }
}

/// At `accuracy_level` 4 the runtime rounds activations to eight bits. The graphs sum in other orders, so
/// now and then one of them is rounded to its other neighbour.
#[test]
fn where_activations_are_rounded_too_most_batches_are_the_same_and_none_is_far_off() {
    let mut case = case("genai-int4-cpu/qwen2-tied");
    let mut apart: Vec<f32> = (1..=15).map(|step| case.apart(step)).collect();
    apart.sort_by(f32::total_cmp);
    println!("genai-int4-cpu: {apart:?}");
    assert!(apart[7] < 1e-5 && apart[14] < 0.1, "{apart:?}");
}

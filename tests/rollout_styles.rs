//! Rollouts on every style of export: the same answers as from the plain export of the same
//! weights, and log-probabilities that the gradient graph of the same graft finds again.
#![cfg(feature = "train")]

mod grafted;

use grafted::{Case, prompts, sampled, stop};
use tla::{
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    runtime::SessionOptions,
    surgery::MIXING,
};

fn case(name: &str) -> Case {
    grafted::case(&format!("exports/{name}"), SessionOptions::cpu(2))
}

/// The largest difference of a sampled log-probability to what the gradient graph finds.
fn apart(case: &mut Case, step: u64) -> f32 {
    let answers = case.answers(sampled(step));
    let lengths: Vec<usize> = answers.iter().map(|a| a.tokens.len()).collect();
    assert!(lengths.iter().any(|l| *l != lengths[0]), "answers of one length: {lengths:?}");
    let drawn = answers.iter().flat_map(|a| &a.logprobs);
    let found = case.step(&answers).logprobs;
    found.iter().zip(drawn).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
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
        let stop = stop();
        // So cold that answers have their first tokens in common.
        let decoding = Decoding::Sampled {
            temperature: 0.25,
            seed: 3,
            step: 1,
            first_row: 0,
            streams: u64::MAX,
        };
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
fn answers_are_the_same_bit_for_bit_however_many_threads_write_them() {
    let prompts: Vec<Vec<u32>> = (0..70)
        .map(|k| (0..1 + k % 11).map(|at| ((k * 37 + at * 91) % 256) as u32).collect())
        .collect();
    let stop = stop();
    for name in ["optimum-fp32/qwen2-tied", "genai-fp32-cpu/qwen2-tied"] {
        let mut cases = [1, 2, 3]
            .map(|threads| grafted::case(&format!("exports/{name}"), SessionOptions::cpu(threads)));
        for (samples, decoding) in [(1, Decoding::Greedy), (1, sampled(1)), (5, sampled(2))] {
            let plan = RolloutPlan {
                prompts: &prompts,
                samples,
                max_tokens: 20,
                stop: &stop,
                pad: 0,
                decoding,
            };
            let [alone, two, three] = cases.each_mut().map(|case| {
                rollout(&mut case.rollouts, &[(MIXING, &case.mixing)], &plan).expect("answers")
            });
            assert!(alone == two && alone == three, "{name}, {samples}, {decoding:?}");
        }
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
        let apart = apart(&mut case(name), 1);
        println!("{name}: {apart:.1e}");
        assert!(apart < near, "{name}: {apart}");
    }
}

/// At `accuracy_level` 4 the runtime rounds activations to eight bits. The graphs sum in other orders, so
/// now and then one of them is rounded to its other neighbour.
#[test]
fn where_activations_are_rounded_too_most_batches_are_the_same_and_none_is_far_off() {
    let mut case = case("genai-int4-cpu/qwen2-tied");
    let mut found: Vec<f32> = (1..=15).map(|step| apart(&mut case, step)).collect();
    found.sort_by(f32::total_cmp);
    println!("genai-int4-cpu: {found:?}");
    assert!(found[7] < 1e-5 && found[14] < 0.1, "{found:?}");
}

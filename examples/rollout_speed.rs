//! Times rollouts for `benches/peers/rollouts.py`, which times its peers in the same run.
//!
//! `rollout_speed MODEL DATA THREADS [packed]`, the latter with `--pack-weights`, then on standard input one JSON object a line,
//! `{"prompts": 24, "samples": 8, "tokens": 48, "greedy": false}`. Each is answered with one line: the
//! seconds it took from the questions' tokens to the answers', how many tokens that were, and which.
//! No token ends an answer, so every answer has as many as were asked for.

use std::{env, io::BufRead, path::Path, time::Instant};

use serde::Deserialize;
use serde_json::json;
use tla::{
    format::Split,
    model::{OnnxModel, find_targets},
    policy::rollout::{Decoding, RolloutPlan, rollout},
    runtime::SessionOptions,
    train::{
        data::{Fields, read_problems},
        plan::voice_of,
        student::Student,
    },
};

#[derive(Deserialize)]
struct Wanted {
    prompts: usize,
    samples: usize,
    tokens: usize,
    greedy: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (model, data, threads, packed) = match &arguments[..] {
        [model, data, threads] => (model, data, threads, false),
        [model, data, threads, packed] if packed == "packed" => (model, data, threads, true),
        _ => return Err("give MODEL DATA THREADS [packed]".into()),
    };
    let model = OnnxModel::load(Path::new(model))?;
    let targets = find_targets(&model)?;
    let options = SessionOptions::cpu(threads.parse()?).packing(packed);
    let voice = voice_of(&model)?;
    let mut student = Student::load(voice, &model, &targets, &[], Split::Paper, None, options)?;
    let problems = read_problems(Path::new(data), &Fields::default())?;
    for (step, line) in std::io::stdin().lock().lines().enumerate() {
        let wanted: Wanted = serde_json::from_str(&line?)?;
        let asked = problems.iter().take(wanted.prompts);
        let prompts =
            asked.map(|p| student.voice.prompt(&p.question)).collect::<Result<Vec<_>, _>>()?;
        let decoding = match wanted.greedy {
            true => Decoding::Greedy,
            false => Decoding::Sampled {
                temperature: 1.0,
                seed: 1,
                step: step as u64,
                first_row: 0,
                streams: u64::MAX,
            },
        };
        let plan = RolloutPlan {
            prompts: &prompts,
            samples: wanted.samples,
            max_tokens: wanted.tokens,
            stop: &[],
            pad: student.voice.pad(),
            decoding,
        };
        let started = Instant::now();
        let answers = rollout(&mut student.graph, &[], &plan)?;
        let seconds = started.elapsed().as_secs_f64();
        let tokens: usize = answers.iter().map(|a| a.tokens.len()).sum();
        let answers: Vec<&[u32]> = answers.iter().map(|a| &a.tokens[..]).collect();
        println!("{}", json!({"seconds": seconds, "tokens": tokens, "answers": answers}));
    }
    Ok(())
}

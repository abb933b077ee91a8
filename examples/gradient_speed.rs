//! Times the gradient graph against its own forward pass, in turn, on one batch of answers.
//!
//! `gradient_speed MODEL DATA THREADS [ROUNDS]` samples 8 answers to each of 24 questions, grafts 13
//! numbers' path onto every gate and down projection, and runs, round after round: the gradient and the
//! forward pass alone of a graph that holds every prompt once, the same of one that repeats it in
//! every row, and a gradient of the distinct answers only, as training runs it. One JSON object: the
//! median seconds of each, and the ratios of the medians.

use std::{env, path::Path, time::Instant};

use serde_json::json;
use tla::{
    autodiff::prune,
    format::{Header, ModuleId, Role, RoleSet, Split},
    model::{OnnxModel, find_targets, proto::ModelProto},
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    projection::select,
    runtime::{Interface, Session, SessionOptions, Tensor},
    surgery::MIXING,
    train::{
        batch::{Layout, MicroBatch, Sample},
        data::{Fields, read_problems},
        gradient::{LossSettings, feeds},
        gradient_model::gradient_model,
        partition::distinct,
        plan::voice_of,
        student::{Student, freeze, graft},
    },
};

const PROMPTS: usize = 24;
const SAMPLES: usize = 8;
const RANK: usize = 2;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A graph, its inputs, and the seconds of every run.
struct Timed {
    name: &'static str,
    session: Session,
    inputs: Vec<(String, Tensor)>,
    seconds: Vec<f64>,
}

impl Timed {
    fn run(&mut self) -> Outcome<()> {
        let inputs: Vec<(&str, &Tensor)> =
            self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let started = Instant::now();
        self.session.run(&inputs)?;
        self.seconds.push(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The loss and the log-probabilities alone.
fn forward(mut model: ModelProto) -> ModelProto {
    if let Some(graph) = model.graph.as_mut() {
        graph.output.truncate(2);
        prune(graph);
    }
    model
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, data, threads, rest @ ..] = &arguments[..] else {
        return Err("give MODEL DATA THREADS [ROUNDS]".into());
    };
    let rounds: usize = rest.first().map_or(Ok(9), |n| n.parse())?;
    let options = SessionOptions::cpu(threads.parse()?);
    let model = OnnxModel::load(Path::new(path))?;
    let targets = find_targets(&model)?;
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let roles = RoleSet::from_roles([Role::Gate, Role::Down])?;
    let modules = select(&Header { roles, ..Header::default() }, &known)?;
    let frozen = freeze(&model, &targets, &modules, RANK, options.threads, &mut |_| {})?;
    let grafted = graft(&model, &targets, &frozen, Split::Paper)?;

    let voice = voice_of(&model)?;
    let mut student = Student::load(voice, &model, &targets, &[], Split::Paper, None, options)?;
    let problems = read_problems(Path::new(data), &Fields::default())?;
    let asked = problems.iter().take(PROMPTS).map(|p| student.voice.prompt(&p.question));
    let prompts = asked.collect::<Result<Vec<_>, _>>()?;
    let plan = RolloutPlan {
        prompts: &prompts,
        samples: SAMPLES,
        max_tokens: 64,
        stop: student.voice.stop(),
        pad: student.voice.pad(),
        decoding: Decoding::Sampled {
            temperature: 1.0,
            seed: 1,
            step: 1,
            first_row: 0,
            streams: u64::MAX,
        },
    };
    let answers = rollout(&mut student.graph, &[], &plan)?;
    let samples: Vec<Sample<'_>> =
        answers.iter().enumerate().map(|(k, answer)| sample(&prompts, k, answer)).collect();
    let few = distinct(&samples);

    let interface = Interface::of(grafted.graph.as_ref().ok_or("no graph")?)?;
    let settings =
        LossSettings { temperature: 1.0, clip: 0.2, clip_high: 0.2, likelihood: false, kl: 0.0 };
    let mut timed = Vec::new();
    for (name, layout, whole, samples) in [
        ("distinct answers", Layout::Shared, true, &few),
        ("shared prompts", Layout::Shared, true, &samples),
        ("shared prompts, forward", Layout::Shared, false, &samples),
        ("repeated prompts", Layout::Whole, true, &samples),
        ("repeated prompts, forward", Layout::Whole, false, &samples),
    ] {
        let made = gradient_model(&grafted, &model.path, &modules, RANK, layout, options)?;
        let made = if whole { made } else { forward(made) };
        let batch = MicroBatch::new(samples, student.voice.pad(), layout);
        let mut inputs = feeds(&interface, &batch, &batch.sampled_logprobs, settings)?;
        let zeros = vec![0.0; modules.len() * RANK * RANK];
        let mixing = Tensor::f32(&[modules.len(), 1, RANK, RANK], zeros)?;
        inputs.push((MIXING.to_owned(), mixing));
        let session = Session::load(name, &made, &model.path, options)?;
        timed.push(Timed { name, session, inputs, seconds: Vec::new() });
    }
    for _ in 0..rounds.max(1) {
        for one in &mut timed {
            one.run()?;
        }
    }
    let [few, shared, shared_forward, repeated, repeated_forward] = &timed[..] else {
        return Err("five graphs".into());
    };
    let ratio = |a: &Timed, b: &Timed| a.median() / b.median();
    let seconds: serde_json::Map<String, serde_json::Value> =
        timed.iter().map(|t| (t.name.to_owned(), json!(t.median()))).collect();
    println!(
        "{}",
        json!({
            "rows": samples.len(),
            "distinct": samples_kept(&few.inputs),
            "seconds": seconds,
            "gradient_over_forward": ratio(shared, shared_forward),
            "gradient_over_forward_repeated": ratio(repeated, repeated_forward),
            "repeated_over_shared": ratio(repeated, shared),
            "repeated_over_distinct": ratio(repeated, few),
        })
    );
    Ok(())
}

fn sample<'a>(prompts: &'a [Vec<u32>], index: usize, completion: &'a Completion) -> Sample<'a> {
    let advantage = if completion.tokens.len().is_multiple_of(2) { 1.0 } else { -1.0 };
    Sample { prompt: &prompts[index / SAMPLES], completion, advantage, weight: 1e-3 }
}

fn samples_kept(inputs: &[(String, Tensor)]) -> usize {
    let ids = inputs.iter().find(|(name, _)| name == "input_ids");
    ids.and_then(|(_, tensor)| tensor.dims().first().copied()).unwrap_or(0)
}

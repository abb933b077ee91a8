//! The training loop, to be read from top to bottom.
//!
//! One step: take the next problems, sample a group of answers to each from the current v, score
//! them, compare each answer with its group (GRPO), sum the exact gradient of the clipped
//! objective over micro-batches, pull it back to v, and let Adam move the f32 master copy. What
//! the graphs see is always v rounded to the type it ships in.
//!
//! Every token of a batch weighs the same, as in DAPO, where GRPO as first published weighs every
//! answer the same.
//!
//! Simplifications: one process, one adapter, rewards computed where the loop runs; groups whose
//! answers are all worth the same are left out unless the divergence from the base counts, because
//! their gradient is zero.

use std::time::Instant;

use super::{
    TrainError,
    adam::{Adam, AdamSettings},
    batch::{MicroBatch, Sample},
    data::Problem,
    explore::{Exploration, Group, explore},
    gradient::{GradientGraph, LossSettings},
    journal::{Journal, Line, Step},
    order::Order,
    partition::{distinct, micro_batches},
    reward::Reward,
    student::Student,
};
use crate::{
    format::{Scalar, round_to_scalar},
    policy::live::Live,
    runtime::Tensor,
};

/// What the loop is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// How many batches of answers are sampled, each followed by its updates.
    pub steps: usize,
    /// Problems per step.
    pub problems: usize,
    /// How answers are sampled and compared.
    pub exploration: Exploration,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Gradient steps per batch of answers.
    pub updates: usize,
    /// Ratios are clipped to 1 ± this.
    pub clip: f32,
    /// Weight of the divergence from the base; 0 leaves it out.
    pub kl: f32,
    /// The most positions, padding included, in one pass of the gradient graph.
    pub micro_tokens: usize,
    /// The type v ships in.
    pub scalar: Scalar,
}

/// Trains v from zero; gives it rounded to the type it ships in. `watch` sees every step.
///
/// # Errors
/// If the runtime fails, the reward cannot judge an answer, a gradient is not finite, or in no step
/// was one answer to a problem worth more than another.
pub fn train(
    student: &mut Student,
    live: &Live,
    problems: &[Problem],
    reward: &dyn Reward,
    recipe: &Recipe,
    journal: &mut Journal,
    watch: &mut dyn FnMut(&Step),
) -> Result<Vec<f32>, TrainError> {
    let settings = AdamSettings::new(recipe.learning_rate);
    let mut adam = Adam::new(vec![0.0; live.parameters()], settings)?;
    let mut order = Order::new(problems.len(), recipe.exploration.seed);
    let (mut answers, mut worth) = (0, 0.0);
    for step in 1..=recipe.steps as u64 {
        let started = Instant::now();
        let chosen: Vec<&Problem> =
            order.take(recipe.problems).into_iter().map(|i| &problems[i]).collect();
        let mixing = live.mixing(&shipped(adam.v(), recipe.scalar))?;
        let groups = explore(student, &chosen, &mixing, reward, &recipe.exploration, step)?;

        let mut record = summary(step, &groups);
        answers += groups.iter().map(|g| g.rewards.len()).sum::<usize>();
        worth += groups.iter().flat_map(|g| &g.rewards).sum::<f64>();
        record.rollout_seconds = started.elapsed().as_secs_f64();
        record.learning_rate = recipe.learning_rate;
        for update in 0..recipe.updates {
            let v = shipped(adam.v(), recipe.scalar);
            let Some(gradient) = gradient_of(student, live, &v, &groups, recipe)? else { break };
            if update == 0 {
                record.loss = gradient.loss;
                record.grad_norm = norm(&gradient.by_v);
                record.logprob_gap = gradient.logprob_gap;
            }
            adam.step(&gradient.by_v)?;
        }
        record.v_norm = norm(&adam.v().iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        record.seconds = started.elapsed().as_secs_f64();
        watch(&record);
        journal.write(&Line::Step(record))?;
    }
    if adam.steps() == 0 {
        return Err(TrainError::NothingToLearn { answers, reward: worth / answers.max(1) as f64 });
    }
    Ok(shipped(adam.v(), recipe.scalar))
}

/// What a step's answers were like, before any update.
fn summary(step: u64, groups: &[Group]) -> Step {
    let answers: usize = groups.iter().map(|g| g.rewards.len()).sum();
    let tokens: usize = groups.iter().flat_map(|g| &g.completions).map(|c| c.tokens.len()).sum();
    let reward: f64 = groups.iter().flat_map(|g| &g.rewards).sum();
    let each = 1.0 / answers.max(1) as f64;
    Step {
        step,
        reward_mean: Some(reward * each),
        groups: groups.len() as u64,
        groups_without_variance: groups.iter().filter(|g| g.advantages.is_none()).count() as u64,
        tokens: tokens as u64,
        completion_length_mean: tokens as f64 * each,
        ..Step::default()
    }
}

/// v as it ships.
fn shipped(master: &[f32], scalar: Scalar) -> Vec<f32> {
    master.iter().map(|x| round_to_scalar(scalar, *x)).collect()
}

/// The gradient of one batch of answers.
pub struct BatchGradient {
    /// The loss.
    pub loss: f64,
    /// dL/dR of each module.
    pub by_mixing: Vec<Vec<f64>>,
    /// dL/dv.
    pub by_v: Vec<f64>,
    /// Largest difference of a token's log-probability between rollout and gradient graph.
    pub logprob_gap: f64,
}

/// Sums the gradient over the answers that pull at v; `None` if none does.
///
/// # Errors
/// As [`train`].
pub fn gradient_of(
    student: &mut Student,
    live: &Live,
    v: &[f32],
    groups: &[Group],
    recipe: &Recipe,
) -> Result<Option<BatchGradient>, TrainError> {
    let mut samples: Vec<Sample<'_>> =
        groups.iter().flat_map(|group| samples_of(group, recipe.kl != 0.0)).collect();
    let tokens: usize = samples.iter().map(|s| s.completion.tokens.len()).sum();
    if tokens == 0 {
        return Ok(None);
    }
    for sample in &mut samples {
        sample.weight = 1.0 / tokens as f32;
    }
    let samples = distinct(&samples);
    let settings = LossSettings {
        temperature: recipe.exploration.temperature,
        clip: recipe.clip,
        kl: recipe.kl,
    };
    let mixing = live.mixing(v)?;
    let base = live.mixing(&vec![0.0; v.len()])?;
    let pad = student.voice.pad();
    let graph = student.gradient.as_mut().ok_or(TrainError::NotTrainable)?;
    let mut sum =
        BatchGradient { loss: 0.0, by_mixing: Vec::new(), by_v: Vec::new(), logprob_gap: 0.0 };
    for indices in micro_batches(&samples, recipe.micro_tokens, graph.layout()) {
        let chosen: Vec<Sample<'_>> = indices.iter().map(|i| samples[*i]).collect();
        let batch = MicroBatch::new(&chosen, pad, graph.layout());
        let base_logprobs = base_logprobs(graph, &batch, &base, settings)?;
        let step = graph.run(&batch, &mixing, &base_logprobs, settings)?;
        sum.add(live.by_mixing(&step.by_mixing), step.loss);
        for (now, then) in step.logprobs.iter().zip(&batch.sampled_logprobs) {
            sum.logprob_gap = sum.logprob_gap.max(f64::from((now - then).abs()));
        }
    }
    sum.by_v = live.pull_back(&sum.by_mixing);
    Ok(Some(sum))
}

/// The base is the same graph at v = 0; it is asked only where the divergence counts.
fn base_logprobs(
    graph: &mut GradientGraph,
    batch: &MicroBatch,
    base: &Tensor,
    settings: LossSettings,
) -> Result<Vec<f32>, TrainError> {
    if settings.kl == 0.0 {
        return Ok(batch.sampled_logprobs.clone());
    }
    let without = LossSettings { kl: 0.0, ..settings };
    Ok(graph.run(batch, base, &batch.sampled_logprobs, without)?.logprobs)
}

impl BatchGradient {
    fn add(&mut self, by_mixing: Vec<Vec<f64>>, loss: f64) {
        self.loss += loss;
        if self.by_mixing.is_empty() {
            self.by_mixing = by_mixing;
            return;
        }
        for (sum, more) in self.by_mixing.iter_mut().flatten().zip(by_mixing.iter().flatten()) {
            *sum += more;
        }
    }
}

/// The answers of a group that pull at v: all of them, or none where all are worth the same and
/// the divergence from the base does not count.
fn samples_of(group: &Group, diverging: bool) -> impl Iterator<Item = Sample<'_>> {
    let counts = group.advantages.is_some() || diverging;
    let completions = group.completions.iter().filter(move |_| counts).enumerate();
    completions.map(|(index, completion)| Sample {
        prompt: &group.prompt,
        completion,
        advantage: group.advantages.as_ref().map_or(0.0, |a| a[index]),
        weight: 0.0,
    })
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

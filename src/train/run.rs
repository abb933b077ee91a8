//! The training loop, to be read from top to bottom.
//!
//! One step: take the next problems, sample a group of answers to each from the current v, score
//! them, compare each answer with its group (GRPO), sum the exact gradient of the clipped
//! objective over micro-batches, pull it back to v, and let Adam move the f32 master copy. What
//! the graphs see is always v rounded to the type it ships in. Under SFT the answers are the
//! dataset's solutions, and the objective is their likelihood; the rest is the same.
//!
//! After every step the run folder holds what the next one starts from, so a run that is stopped
//! at any moment goes on to the same bits.
//!
//! Simplifications: one process, one adapter, rewards computed where the loop runs; groups whose
//! answers are all worth the same are left out, of the loss and of what it is divided by, unless
//! the divergence from the base counts, because their gradient is zero.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::{
    TrainError,
    adam::{Adam, AdamSettings, norm, shortened},
    batch::{MicroBatch, Sample},
    data::Problem,
    diagnostics::{Ratios, score, summary},
    excerpts,
    explore::{Group, batch},
    folder::RunFolder,
    gradient::{GradientGraph, LossSettings, UNASKED},
    guard::{Ending, Guard, Score},
    journal::{Line, Restore},
    order::Order,
    partition::{distinct, micro_batches},
    recipe::{Objective, Recipe},
    reward::Reward,
    state::Progress,
    student::Student,
};
use crate::{
    format::{Scalar, round_to_scalar},
    policy::live::Live,
    runtime::Tensor,
};

/// What came out of training.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// v, rounded to the type it ships in.
    pub v: Vec<f32>,
    /// The step after which it was so, 0 for the start.
    pub step: u64,
    /// Steps done.
    pub steps: u64,
    /// Why there were no more.
    pub ending: Ending,
}

/// Trains v from zero, or from where `folder` says it was. `watch` sees what is written about
/// every step, and v after it as it would ship; the run ends between two of them when `stop` is set.
///
/// # Errors
/// If the runtime fails, the reward cannot judge an answer, a gradient is not finite, in no step
/// was one answer to a problem worth more than another, or `stop` was set.
#[allow(clippy::too_many_arguments, reason = "the loop's surroundings, each of another kind")]
pub fn train(
    student: &mut Student,
    live: &Live,
    problems: &[Problem],
    reward: &dyn Reward,
    recipe: &Recipe,
    folder: &mut RunFolder,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&Line, &[f32]),
) -> Result<Trained, TrainError> {
    let settings = AdamSettings::new(recipe.schedule.peak);
    let mut now = match folder.progress() {
        Some(kept) if kept.adam.v().len() == live.parameters() => kept.clone(),
        Some(kept) => {
            let (found, expected) = (kept.adam.v().len(), live.parameters());
            return Err(TrainError::OtherState { found, expected });
        }
        None => Progress {
            step: 0,
            updates: 0,
            answers: 0,
            worth: 0.0,
            adam: Adam::new(vec![0.0; live.parameters()], settings)?,
            guard: Guard::default(),
        },
    };
    let taken = now.step.saturating_mul(recipe.problems as u64);
    let mut order = Order::after(problems.len(), recipe.exploration.seed, taken);
    let ending = loop {
        if let Some(ending) = now.guard.ending(now.step, &recipe.rules) {
            break ending;
        }
        if now.step >= recipe.steps as u64 {
            break Ending::Finished;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(TrainError::Interrupted { step: now.step, steps: recipe.steps as u64 });
        }
        let step = now.step + 1;
        let started = Instant::now();
        let chosen: Vec<&Problem> =
            order.take(recipe.problems).into_iter().map(|i| &problems[i]).collect();
        let v = shipped(now.adam.v(), recipe.scalar);
        let answers = batch(student, &chosen, &live.mixing(&v)?, reward, recipe, step)?;
        let groups = &answers.groups;

        let mut record = summary(step, &answers);
        now.answers += groups.iter().map(|g| g.rewards.len() as u64).sum::<u64>();
        now.worth += groups.iter().flat_map(|g| &g.rewards).sum::<f64>();
        record.learning_rate = recipe.schedule.rate(step) * now.guard.factor();
        now.adam.set_learning_rate(record.learning_rate)?;

        let computing = Instant::now();
        let mut gradient = gradient_of(student, live, &v, groups, recipe)?;
        let worth = match recipe.objective {
            Objective::Grpo => score(groups),
            Objective::Sft => gradient.as_ref().map(|g| Score { mean: -g.loss, variance: 0.0 }),
        };
        let best = worth.and_then(|s| now.guard.observe(step, s, &now.adam, &recipe.rules));
        record.average = now.guard.average();
        let mut restored = None;
        if let Some(best) = best {
            restored = Some(Restore {
                step,
                average: best.fallen_to,
                best_average: best.average,
                best_step: best.step,
                learning_rate_factor: now.guard.factor(),
            });
            now.adam = best.adam;
        } else if now.guard.ending(step, &recipe.rules).is_none() {
            for update in 0..recipe.updates {
                if update > 0 {
                    let v = shipped(now.adam.v(), recipe.scalar);
                    gradient = gradient_of(student, live, &v, groups, recipe)?;
                }
                let Some(found) = &gradient else { break };
                // At v = 0 the divergence from the base has no gradient.
                if found.by_v.iter().all(|g| *g == 0.0) {
                    break;
                }
                now.adam.step(&shortened(&found.by_v, recipe.max_grad_norm))?;
                now.updates += 1;
                record.updates.push(found.ratios.describe(
                    found.loss,
                    norm(&found.by_v),
                    recipe.kl != 0.0,
                ));
                if update == 0 {
                    record.loss = found.loss;
                    record.grad_norm = norm(&found.by_v);
                    record.logprob_gap = found.ratios.gap();
                }
            }
        }
        record.gradient_seconds = computing.elapsed().as_secs_f64();
        record.v_norm = norm(&now.adam.v().iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        record.seconds = started.elapsed().as_secs_f64();

        now.step = step;
        let mut lines = vec![Line::Step(record)];
        if recipe.sample_every > 0 && (step - 1).is_multiple_of(recipe.sample_every as u64) {
            let shown = excerpts::samples(step, &chosen, groups);
            lines.extend((!shown.samples.is_empty()).then_some(Line::Samples(shown)));
        }
        lines.extend(restored.map(Line::Restore));
        let v = shipped(now.adam.v(), recipe.scalar);
        for line in &lines {
            folder.write(line)?;
            watch(line, &v);
        }
        folder.keep(&now)?;
    };
    if now.updates == 0 {
        let reward = now.worth / now.answers.max(1) as f64;
        return Err(TrainError::NothingToLearn { answers: now.answers as usize, reward });
    }
    let (v, step) = match now.guard.better_than_last(&recipe.rules) {
        Some(best) => (best.adam.v(), best.step - 1),
        None => (now.adam.v(), now.step),
    };
    Ok(Trained { v: shipped(v, recipe.scalar), step, steps: now.step, ending })
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
    /// How likely the answers have become since they were sampled; empty for given ones.
    pub ratios: Ratios,
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
    if samples.iter().all(|s| s.completion.tokens.is_empty()) {
        return Ok(None);
    }
    // Answers without a gradient have their share too.
    let all = || groups.iter().flat_map(|group| &group.completions);
    let tokens: usize = all().map(|completion| completion.tokens.len()).sum();
    let (answers, most) = (all().count(), recipe.exploration.max_tokens);
    for sample in &mut samples {
        let length = sample.completion.tokens.len();
        sample.weight = recipe.weighting.of_token(length, answers, tokens, most);
    }
    let samples = distinct(&samples);
    let sampled = recipe.objective == Objective::Grpo;
    let settings = LossSettings {
        temperature: if sampled { recipe.exploration.temperature } else { 1.0 },
        clip: recipe.clip,
        clip_high: recipe.clip_high,
        likelihood: !sampled,
        kl: recipe.kl,
    };
    let mixing = live.mixing(v)?;
    let base = live.mixing(&vec![0.0; v.len()])?;
    let pad = student.voice.pad();
    let graph = student.gradient.as_mut().ok_or(TrainError::NotTrainable)?;
    let mut sum = BatchGradient {
        loss: 0.0,
        by_mixing: Vec::new(),
        by_v: Vec::new(),
        ratios: Ratios::default(),
    };
    for indices in micro_batches(&samples, recipe.micro_tokens, graph.layout()) {
        let chosen: Vec<Sample<'_>> = indices.iter().map(|i| samples[*i]).collect();
        let batch = MicroBatch::new(&chosen, pad, graph.layout());
        let base_logprobs = base_logprobs(graph, &batch, &base, settings)?;
        let step = graph.run(&batch, &mixing, &base_logprobs, settings)?;
        sum.add(live.by_mixing(&step.by_mixing), step.loss);
        if sampled {
            sum.ratios.add(&batch, &step.logprobs, &base_logprobs, recipe.clip, recipe.clip_high);
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
    let unasked = vec![UNASKED; batch.labels.len()];
    if settings.kl == 0.0 {
        return Ok(unasked);
    }
    let without = LossSettings { kl: 0.0, ..settings };
    Ok(graph.run(batch, base, &unasked, without)?.logprobs)
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

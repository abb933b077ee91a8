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
//! answers are all worth the same are left out of the loss, unless the divergence from the base
//! counts, because their gradient is zero; their answers still count in what it is divided by.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::{
    TrainError,
    adam::{Adam, AdamSettings, norm, shortened},
    cut::Cut,
    data::Problem,
    diagnostics::{cut_in, score, summary},
    excerpts,
    explore::batch,
    flat::Flat,
    folder::RunFolder,
    guard::{Ending, Guard},
    journal::{Line, Restore},
    order::Order,
    pull::Pull,
    recipe::{Objective, Recipe},
    reward::Reward,
    score::Score,
    state::Progress,
    student::Student,
};
use crate::{
    format::{Scalar, round_to_scalar},
    policy::live::Live,
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
            as_after: 0,
            answers: 0,
            cut: 0,
            worth: 0.0,
            adam: Adam::new(vec![0.0; live.parameters()], settings)?,
            guard: Guard::default(),
            flat: Flat::default(),
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
        now.cut += cut_in(groups);
        now.worth += groups.iter().flat_map(|g| &g.rewards).sum::<f64>();
        record.learning_rate = recipe.schedule.rate(step) * now.guard.factor();
        now.adam.set_learning_rate(record.learning_rate)?;

        let computing = Instant::now();
        let mut pull = Pull::of(groups, student, recipe)?;
        let mut gradient =
            pull.as_mut().map(|pull| pull.gradient(student, live, &v)).transpose()?;
        let worth = match recipe.objective {
            Objective::Grpo => score(groups),
            Objective::Sft => gradient.as_ref().and_then(|g| Score::of_loss(g.loss, &g.examples)),
        };
        let state = (&now.adam, now.as_after);
        let best = worth.and_then(|s| now.guard.observe(step, s, state, &recipe.rules));
        // After a fall the guard's own average is that of the state gone back to.
        record.average = best.as_ref().map(|best| best.fallen_to).or(now.guard.average());
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
            now.as_after = best.as_after;
        } else if now.guard.ending(step, &recipe.rules).is_none() {
            for update in 0..recipe.updates {
                if let (1.., Some(pull)) = (update, &mut pull) {
                    let v = shipped(now.adam.v(), recipe.scalar);
                    gradient = Some(pull.gradient(student, live, &v)?);
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
        // A step without an update leaves v as it was after the one before.
        if restored.is_none() && (!record.updates.is_empty() || now.as_after == now.step) {
            now.as_after = step;
        }
        record.gradient_seconds = computing.elapsed().as_secs_f64();
        record.v_norm = norm(&now.adam.v().iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        record.seconds = started.elapsed().as_secs_f64();

        let warning = now.flat.observe(&record, recipe.exploration.max_tokens);

        now.step = step;
        let mut lines = vec![Line::Step(record)];
        if recipe.sample_every > 0 && (step - 1).is_multiple_of(recipe.sample_every as u64) {
            let shown = excerpts::samples(step, &chosen, groups);
            lines.extend((!shown.samples.is_empty()).then_some(Line::Samples(shown)));
        }
        lines.extend(warning.map(Line::Warning));
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
        let cut = Cut::of(now.cut, now.answers, recipe.exploration.max_tokens);
        return Err(TrainError::NothingToLearn { answers: now.answers as usize, reward, cut });
    }
    let (v, step) = match now.guard.better_than_last(&recipe.rules) {
        Some(best) => (best.adam.v(), best.as_after),
        None => (now.adam.v(), now.as_after),
    };
    Ok(Trained { v: shipped(v, recipe.scalar), step, steps: now.step, ending })
}

/// v as it ships.
fn shipped(master: &[f32], scalar: Scalar) -> Vec<f32> {
    master.iter().map(|x| round_to_scalar(scalar, *x)).collect()
}

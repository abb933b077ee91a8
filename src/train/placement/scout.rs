//! Measuring where the gradient is, before any number is trained.
//!
//! At v = 0 every module is grafted, answers are sampled and scored as in training, and one
//! backward pass gives dL/dR of all modules at once (design, "Placement before training"). Parts
//! of the answers, none sharing a group, give independent estimates; their spread says how much
//! of the mean is noise.

use std::sync::atomic::{AtomicBool, Ordering};

use super::mean_gradient::{GradientAverage, MeanGradient};
use crate::policy::live::Live;
use crate::train::{
    TrainError, cut::Cut, data::Problem, diagnostics::cut_in, explore::batch, order::Order,
    pull::Pull, recipe::Recipe, reward::Reward, student::Student,
};

/// The stream of scouting answers, apart from those of the training steps.
const SCOUTING: u64 = 1 << 40;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Batches of answers, each as large as a training step's.
    pub batches: usize,
    /// Parts a batch is cut into.
    pub parts: usize,
}

/// Measures the gradient at v = 0 by the R of each of `live`'s modules. `watch` hears of each
/// batch: how many are done.
///
/// # Errors
/// If answers cannot be sampled or scored, or in fewer than two parts one was worth more than
/// another, or `stop` was set.
#[allow(clippy::too_many_arguments, reason = "the loop's surroundings, each of another kind")]
pub fn survey(
    student: &mut Student,
    live: &Live,
    problems: &[Problem],
    reward: &dyn Reward,
    recipe: &Recipe,
    effort: Effort,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(usize),
) -> Result<MeanGradient, TrainError> {
    // At v = 0 the divergence from the base has no gradient.
    let recipe = &Recipe { kl: 0.0, ..*recipe };
    let v = vec![0f32; live.parameters()];
    let mixing = live.mixing(&v)?;
    let mut order = Order::new(problems.len(), recipe.exploration.seed ^ SCOUTING);
    let mut average = GradientAverage::new(live.rank(), live.modules().to_vec())?;
    let (mut answers, mut cut, mut worth) = (0, 0, 0.0);
    let (mut parts, mut varied) = (0, 0);
    for at in 0..effort.batches {
        if stop.load(Ordering::Relaxed) {
            return Err(TrainError::Interrupted { step: 0, steps: recipe.steps as u64 });
        }
        let chosen: Vec<&Problem> =
            order.take(recipe.problems).into_iter().map(|i| &problems[i]).collect();
        let step = SCOUTING + at as u64;
        let groups = batch(student, &chosen, &mixing, reward, recipe, step)?.groups;
        answers += groups.iter().map(|g| g.rewards.len()).sum::<usize>();
        cut += cut_in(&groups);
        worth += groups.iter().flat_map(|g| &g.rewards).sum::<f64>();
        for part in groups.chunks(groups.len().div_ceil(effort.parts.max(1)).max(1)) {
            parts += 1;
            if let Some(mut pull) = Pull::of(part, student, recipe)? {
                let found = pull.gradient(student, live, &v)?;
                average.add(&found.by_mixing.concat())?;
                varied += 1;
            }
        }
        watch(at + 1);
    }
    if varied < 2 {
        let reward = worth / answers.max(1) as f64;
        let cut = Cut::of(cut, answers as u64, recipe.exploration.max_tokens);
        return Err(TrainError::SurveyedTooLittle { varied, parts, answers, reward, cut });
    }
    Ok(average.mean()?)
}

//! A batch to learn from: prompts in, answers and what they are worth out.

use std::time::{Duration, Instant};

use super::{
    TrainError,
    data::Problem,
    grpo::advantages,
    recipe::{Objective, Recipe},
    reward::{Attempt, Reward, score_all},
    student::Student,
};
use crate::{
    policy::rollout::{Completion, Decoding, RolloutPlan, rollout},
    runtime::Tensor,
};

/// All answers to one problem.
#[derive(Debug, Clone)]
pub struct Group {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The answers.
    pub completions: Vec<Completion>,
    /// Their texts.
    pub texts: Vec<String>,
    /// What each is worth; nothing where it is a given solution.
    pub rewards: Vec<f64>,
    /// Each answer's advantage, or nothing if all are worth the same.
    pub advantages: Option<Vec<f64>>,
}

/// How answers are asked for and compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exploration {
    /// Answers per problem.
    pub samples: usize,
    /// The most tokens an answer may have.
    pub max_tokens: usize,
    /// Sampling temperature, above 0.
    pub temperature: f32,
    /// Names the stream of random numbers.
    pub seed: u64,
    /// Whether advantages are divided by the group's standard deviation.
    pub normalise: bool,
    /// The most answers that are sampled at once.
    pub at_once: usize,
}

/// The groups of one step, and how long they took.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One for each problem.
    pub groups: Vec<Group>,
    /// Time to sample them.
    pub rollout: Duration,
    /// Time to score them.
    pub reward: Duration,
}

/// What is learned from in one step: answers sampled under the adapter `mixing` and scored, or the
/// dataset's solutions.
///
/// # Errors
/// If the runtime fails, or the reward cannot judge an answer.
pub fn batch(
    student: &mut Student,
    problems: &[&Problem],
    mixing: &Tensor,
    reward: &dyn Reward,
    recipe: &Recipe,
    step: u64,
) -> Result<Batch, TrainError> {
    let started = Instant::now();
    match recipe.objective {
        Objective::Grpo => {
            let unjudged = sample(student, problems, mixing, &recipe.exploration, step)?;
            let rollout = started.elapsed();
            let groups = judge(unjudged, problems, reward, recipe.exploration.normalise)?;
            Ok(Batch { groups, rollout, reward: started.elapsed() - rollout })
        }
        Objective::Sft => {
            let groups = solutions(student, problems)?;
            Ok(Batch { groups, rollout: started.elapsed(), reward: Duration::ZERO })
        }
    }
}

/// Samples answers to each of `problems`, at most [`Exploration::at_once`] at a time. Which ones
/// they are does not depend on how many that is.
fn sample(
    student: &mut Student,
    problems: &[&Problem],
    mixing: &Tensor,
    exploration: &Exploration,
    step: u64,
) -> Result<Vec<Group>, TrainError> {
    let (samples, at_once) = (exploration.samples.max(1), exploration.at_once.max(1));
    let mut groups = Vec::with_capacity(problems.len());
    for problem in problems {
        let prompt = student.voice.prompt(&problem.question)?;
        let (completions, texts, rewards) = (Vec::new(), Vec::new(), Vec::new());
        groups.push(Group { prompt, completions, texts, rewards, advantages: None });
    }
    let whole = (at_once / samples).max(1);
    for first in (0..groups.len()).step_by(whole) {
        let chunk = first..(first + whole).min(groups.len());
        let prompts: Vec<Vec<u32>> =
            groups[chunk.clone()].iter().map(|g| g.prompt.clone()).collect();
        for from in (0..samples).step_by(at_once) {
            let each = at_once.min(samples - from);
            let plan = RolloutPlan {
                prompts: &prompts,
                samples: each,
                max_tokens: exploration.max_tokens,
                stop: student.voice.stop(),
                pad: student.voice.pad(),
                decoding: Decoding::Sampled {
                    temperature: exploration.temperature,
                    seed: exploration.seed,
                    step,
                    first_row: (first * samples + from) as u64,
                    streams: u64::MAX,
                },
            };
            let answers = rollout(&mut student.graph, &[(crate::surgery::MIXING, mixing)], &plan)?;
            for (at, completion) in answers.into_iter().enumerate() {
                let group = &mut groups[first + at / each];
                group.texts.push(student.voice.text(&completion)?);
                group.completions.push(completion);
            }
        }
    }
    Ok(groups)
}

/// Says what each answer is worth, alone and beside its group. An answer that was cut is worth
/// nothing, or as little as the least of the others where that is less: what it would have ended in
/// is not known (`#### 2` may be `#### 27`), and not to end must not pay. All others are asked for at
/// once.
fn judge(
    mut groups: Vec<Group>,
    problems: &[&Problem],
    reward: &dyn Reward,
    normalise: bool,
) -> Result<Vec<Group>, TrainError> {
    let mut attempts = Vec::new();
    let mut places = Vec::new();
    for (at, (group, problem)) in groups.iter().zip(problems).enumerate() {
        for (own, (text, completion)) in group.texts.iter().zip(&group.completions).enumerate() {
            if completion.stopped {
                attempts.push(Attempt { problem, completion: text });
                places.push((at, own));
            }
        }
    }
    let scores = score_all(reward, &attempts)?;
    let least = scores.iter().copied().fold(0.0, f64::min);
    for group in &mut groups {
        group.rewards = vec![least; group.completions.len()];
    }
    for ((at, own), score) in places.into_iter().zip(scores) {
        groups[at].rewards[own] = score;
    }
    for group in &mut groups {
        group.advantages = advantages(&group.rewards, normalise);
    }
    Ok(groups)
}

/// The solution of each of `problems` as the only answer, to be made likelier.
fn solutions(student: &Student, problems: &[&Problem]) -> Result<Vec<Group>, TrainError> {
    let group = |problem: &&Problem| {
        Ok(Group {
            prompt: student.voice.prompt(&problem.question)?,
            completions: vec![student.voice.answer(&problem.solution)?],
            texts: vec![problem.solution.clone()],
            rewards: Vec::new(),
            advantages: Some(vec![1.0]),
        })
    };
    problems.iter().map(group).collect()
}

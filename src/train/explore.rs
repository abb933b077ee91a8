//! Asking the current policy: prompts in, scored groups of answers out.

use super::{
    TrainError,
    data::Problem,
    grpo::advantages,
    reward::{Reward, score_group},
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
    /// What each is worth.
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
}

/// Samples answers to `problems` under the adapter `mixing` and scores them.
///
/// # Errors
/// If the runtime fails, or the reward cannot judge an answer.
pub fn explore(
    student: &mut Student,
    problems: &[&Problem],
    mixing: &Tensor,
    reward: &dyn Reward,
    exploration: &Exploration,
    step: u64,
) -> Result<Vec<Group>, TrainError> {
    let prompts = problems
        .iter()
        .map(|p| student.voice.prompt(&p.question))
        .collect::<Result<Vec<_>, _>>()?;
    let plan = RolloutPlan {
        prompts: &prompts,
        samples: exploration.samples,
        max_tokens: exploration.max_tokens,
        stop: student.voice.stop(),
        pad: student.voice.pad(),
        decoding: Decoding::Sampled {
            temperature: exploration.temperature,
            seed: exploration.seed,
            step,
        },
    };
    let answers = rollout(&mut student.graph, &[(crate::surgery::MIXING, mixing)], &plan)?;
    let mut answers = answers.into_iter();
    let mut groups = Vec::with_capacity(problems.len());
    for (problem, prompt) in problems.iter().zip(&prompts) {
        let completions: Vec<Completion> = answers.by_ref().take(exploration.samples).collect();
        let texts = completions
            .iter()
            .map(|c| student.voice.text(c))
            .collect::<Result<Vec<String>, _>>()?;
        let mut rewards = score_group(reward, problem, &texts)?;
        for (worth, completion) in rewards.iter_mut().zip(&completions) {
            // What a cut answer would have ended in is not known: `#### 2` may be `#### 27`.
            if !completion.stopped {
                *worth = 0.0;
            }
        }
        let advantages = advantages(&rewards, exploration.normalise);
        groups.push(Group { prompt: prompt.clone(), completions, rewards, advantages });
    }
    Ok(groups)
}

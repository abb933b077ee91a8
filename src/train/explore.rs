//! Asking the current policy: prompts in, scored groups of answers out.

use super::{
    TrainError,
    data::Problem,
    grpo::advantages,
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
            first_row: 0,
        },
    };
    let answers = rollout(&mut student.graph, &[(crate::surgery::MIXING, mixing)], &plan)?;
    let texts =
        answers.iter().map(|a| student.voice.text(a)).collect::<Result<Vec<String>, _>>()?;
    let rewards = rewards(problems, &answers, &texts, reward)?;
    let (mut answers, mut rewards) = (answers.into_iter(), rewards.into_iter());
    let mut groups = Vec::with_capacity(problems.len());
    for prompt in prompts {
        let completions: Vec<Completion> = answers.by_ref().take(exploration.samples).collect();
        let rewards: Vec<f64> = rewards.by_ref().take(exploration.samples).collect();
        let advantages = advantages(&rewards, exploration.normalise);
        groups.push(Group { prompt, completions, rewards, advantages });
    }
    Ok(groups)
}

/// What each answer is worth: nothing if it was cut, because what it would have ended in is not
/// known (`#### 2` may be `#### 27`), else what the reward says. All are asked for at once.
fn rewards(
    problems: &[&Problem],
    answers: &[Completion],
    texts: &[String],
    reward: &dyn Reward,
) -> Result<Vec<f64>, TrainError> {
    let samples = answers.len() / problems.len().max(1);
    let whole: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].stopped).collect();
    let attempt = |at: &usize| Attempt { problem: problems[at / samples], completion: &texts[*at] };
    let scores = score_all(reward, &whole.iter().map(attempt).collect::<Vec<_>>())?;
    let mut rewards = vec![0.0; answers.len()];
    for (at, score) in whole.into_iter().zip(scores) {
        rewards[at] = score;
    }
    Ok(rewards)
}

//! Answering every problem of a dataset, greedily.

use crate::{
    policy::{
        PolicyError,
        rollout::{Decoding, RolloutPlan, rollout},
    },
    runtime::Tensor,
    surgery::MIXING,
    train::{data::Problem, reward::is_correct, student::Student},
};

/// What was answered to one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The answer's text.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it came to its end and its final answer is the problem's, by the strict reading of
    /// [`is_correct`].
    pub correct: bool,
}

/// How many problems are answered at once and how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Problems in a batch.
    pub batch: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
}

/// Answers `problems` greedily, with the adapter `mixing` where the model is grafted. `watch`
/// hears how many are answered.
///
/// # Errors
/// If a prompt cannot be made or the runtime fails.
pub fn answer_all(
    student: &mut Student,
    mixing: Option<&Tensor>,
    problems: &[Problem],
    pace: Pace,
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<Answered>, PolicyError> {
    let mut answered = Vec::with_capacity(problems.len());
    let extra: Vec<(&str, &Tensor)> = mixing.map(|m| (MIXING, m)).into_iter().collect();
    for chunk in problems.chunks(pace.batch.max(1)) {
        let prompts = chunk
            .iter()
            .map(|p| student.voice.prompt(&p.question))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = RolloutPlan {
            prompts: &prompts,
            samples: 1,
            max_tokens: pace.max_tokens,
            stop: student.voice.stop(),
            pad: student.voice.pad(),
            decoding: Decoding::Greedy,
        };
        let completions = rollout(&mut student.graph, &extra, &plan)?;
        for (problem, completion) in chunk.iter().zip(&completions) {
            let text = student.voice.text(completion)?;
            let correct = completion.stopped && is_correct(problem, &text);
            answered.push(Answered { text, tokens: completion.tokens.len(), correct });
        }
        watch(answered.len());
    }
    Ok(answered)
}

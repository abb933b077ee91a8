//! Rewards: what a completion is worth.
//!
//! | file | one idea |
//! |---|---|
//! | [`answer`] | a decimal number, compared exactly |
//! | [`reference`](mod@reference) | where a dataset's row keeps the right answer |
//! | [`gsm8k`] | `#### 27`, strictly and flexibly |
//! | [`boxed`] | `\boxed{27}`, the last one of a completion |
//! | [`latex`] | when two answers in LaTeX are the same |
//! | [`rational`] | exact values of numbers and fractions |
//! | [`pattern`] | the first group of a regular expression |
//! | [`program`] | an external program speaking JSON Lines |
//! | [`choice`] | the reward a user names |
//!
//! A reward that cannot be computed is an error with the answer that caused it, never 0; it stops
//! the run. A completion gets one guess by a fixed rule. A number found anywhere ("the last number
//! in the text") would be a reward that can be gamed (facts, section 1), so that reading is kept
//! apart: [`Reward::flexible`] is reported by evaluations and never trained on.

pub mod answer;
pub mod boxed;
pub mod choice;
pub mod gsm8k;
pub mod latex;
pub mod pattern;
pub mod program;
pub mod rational;
pub mod reference;

use std::path::Path;

pub use gsm8k::ExactMatch;
use reference::ReferenceError;

use super::data::{Problem, beginning, place};

/// Why a reward could not be computed. It stops the run: a failure is never a reward of 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The reward itself failed.
    #[error(
        "the reward `{reward}` failed on the answer `{completion}` to the problem of line {line}: \
         {reason}. No score was assumed"
    )]
    Failed {
        /// Name of the reward.
        reward: String,
        /// The problem's line in its dataset.
        line: usize,
        /// The answer's beginning.
        completion: String,
        /// What went wrong.
        reason: String,
    },
    /// The reward is not a finite number, or so large that the spread of a group overflows.
    #[error(
        "the reward `{reward}` of the answer `{completion}` to the problem of line {line} is \
         {value:e}. A reward must be a number of at most 1e30, and of at least -1e30"
    )]
    NotFinite {
        /// Name of the reward.
        reward: String,
        /// The problem's line in its dataset.
        line: usize,
        /// The answer's beginning.
        completion: String,
        /// What was returned.
        value: f64,
    },
    /// Not one reward for each answer.
    #[error("the reward `{reward}` gave {found} scores for {asked} answers. Mend it")]
    Count {
        /// Name of the reward.
        reward: String,
        /// Answers.
        asked: usize,
        /// Scores.
        found: usize,
    },
    /// A row of the dataset has no answer that this reward can compare with.
    #[error("{place}: {problem}")]
    Reference {
        /// File and line.
        place: String,
        /// What is wrong.
        problem: ReferenceError,
    },
}

impl RewardError {
    /// That `reward` failed on an attempt.
    pub fn failed(reward: &str, attempt: &Attempt<'_>, reason: impl ToString) -> Self {
        Self::Failed {
            reward: reward.to_owned(),
            line: attempt.problem.line,
            completion: beginning(attempt.completion),
            reason: reason.to_string(),
        }
    }
}

/// The largest size of a reward.
pub const LARGEST: f64 = 1e30;

/// An answer to a problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt<'a> {
    /// The problem.
    pub problem: &'a Problem,
    /// The answer's text.
    pub completion: &'a str,
}

/// What completions are worth.
pub trait Reward: Send + Sync {
    /// Its name, as a user would choose it.
    fn name(&self) -> String;

    /// The right answer of a problem, as far as the reward reads it from the reference.
    ///
    /// # Errors
    /// If the reference holds none: no completion could be judged.
    fn key(&self, problem: &Problem) -> Result<String, ReferenceError>;

    /// What each attempt is worth, in their order: 1 for a right answer and less for others.
    ///
    /// # Errors
    /// If it cannot be said.
    fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError>;

    /// Whether the answer is right by a reading that forgives its form, for reports only; `None`
    /// where there is no such reading.
    fn flexible(&self, _: &Attempt<'_>) -> Option<bool> {
        None
    }
}

/// Scores the attempts, in order, and refuses a score that is not finite.
///
/// # Errors
/// If the reward fails, or a score is missing or not finite.
pub fn score_all(reward: &dyn Reward, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let scores = reward.score(attempts)?;
    if scores.len() != attempts.len() {
        let (asked, found) = (attempts.len(), scores.len());
        return Err(RewardError::Count { reward: reward.name(), asked, found });
    }
    match attempts.iter().zip(&scores).find(|(_, score)| score.is_nan() || score.abs() > LARGEST) {
        Some((attempt, value)) => Err(RewardError::NotFinite {
            reward: reward.name(),
            line: attempt.problem.line,
            completion: beginning(attempt.completion),
            value: *value,
        }),
        None => Ok(scores),
    }
}

/// Scores the completions of one problem, as [`score_all`] does.
///
/// # Errors
/// As [`score_all`].
pub fn score_group<S: AsRef<str>>(
    reward: &dyn Reward,
    problem: &Problem,
    completions: &[S],
) -> Result<Vec<f64>, RewardError> {
    let attempts: Vec<Attempt<'_>> =
        completions.iter().map(|c| Attempt { problem, completion: c.as_ref() }).collect();
    score_all(reward, &attempts)
}

/// The right answer of every problem of the dataset at `path`, as [`Reward::key`] reads it.
///
/// # Errors
/// With the first line whose reference cannot.
pub fn check(
    reward: &dyn Reward,
    problems: &[Problem],
    path: &Path,
) -> Result<Vec<String>, RewardError> {
    let key = |each: &Problem| {
        let refused = |problem| RewardError::Reference { place: place(path, each.line), problem };
        reward.key(each).map_err(refused)
    };
    problems.iter().map(key).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A problem of line 3 with this reference.
    pub(crate) fn problem(answer: &str) -> Problem {
        let [question, solution] = ["q", answer].map(str::to_owned);
        let fields = serde_json::Map::new();
        Problem { question, answer: answer.into(), solution, fields, line: 3 }
    }

    struct Broken(Vec<f64>);

    impl Reward for Broken {
        fn name(&self) -> String {
            "broken".into()
        }
        fn key(&self, problem: &Problem) -> Result<String, ReferenceError> {
            Ok(problem.answer.clone())
        }
        fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
            match attempts.iter().find(|a| a.completion == "fail") {
                Some(attempt) => Err(RewardError::failed("broken", attempt, "no connection")),
                None => Ok(self.0.clone()),
            }
        }
    }

    #[test]
    fn a_failing_reward_is_an_error_with_its_sample_and_never_zero() {
        let group = |scores: &[f64], completions: &[&str]| {
            score_group(&Broken(scores.to_vec()), &problem("7"), completions)
        };
        let failed = group(&[1.0, 1.0], &["ok", "fail"]).unwrap_err().to_string();
        assert!(failed.contains("`broken` failed on the answer `fail`"), "{failed}");
        assert!(failed.contains("line 3: no connection"), "{failed}");
        for value in [f64::NAN, f64::INFINITY] {
            assert!(matches!(
                group(&[1.0, value], &["a", "b"]),
                Err(RewardError::NotFinite { line: 3, completion, .. }) if completion == "b"
            ));
        }
        assert!(matches!(
            group(&[1.0], &["a", "b"]),
            Err(RewardError::Count { asked: 2, found: 1, .. })
        ));
        assert_eq!(group(&[1.0, 0.5], &["a", "b"]).unwrap(), [1.0, 0.5]);
    }
}

//! What the training loop is told.

use super::{explore::Exploration, guard::Rules, schedule::Schedule};
use crate::format::Scalar;

/// What is learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Answers the model samples, by what they are worth.
    Grpo,
    /// The dataset's worked solutions, which are made likelier (supervised fine-tuning).
    Sft,
}

impl Objective {
    /// Its name in a journal and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpo => "grpo",
            Self::Sft => "sft",
        }
    }
}

/// What weighs the same in the loss of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// Every token (DAPO: Yu et al., 2025).
    Tokens,
    /// Every answer, whatever its length (GRPO as first published).
    Answers,
    /// Every token, over a constant in place of their number: the answers times the most tokens
    /// each may have (Dr. GRPO: Liu et al., 2025).
    Budget,
}

impl Weighting {
    /// The share in the loss of each token of an answer of `length` tokens, of `answers` answers
    /// that have `tokens` in all and may have `most` each.
    pub fn of_token(self, length: usize, answers: usize, tokens: usize, most: usize) -> f32 {
        let over = match self {
            Self::Tokens => tokens as f64,
            Self::Answers => answers as f64 * length as f64,
            Self::Budget => answers as f64 * most as f64,
        };
        (1.0 / over.max(1.0)) as f32
    }
}

/// What the loop is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// What is learned from.
    pub objective: Objective,
    /// How many batches of answers are taken, each followed by its updates.
    pub steps: usize,
    /// Problems per step.
    pub problems: usize,
    /// How answers are sampled and compared.
    pub exploration: Exploration,
    /// What weighs the same in the loss.
    pub weighting: Weighting,
    /// Adam's step size, step by step.
    pub schedule: Schedule,
    /// The longest gradient by v an update is made with; a longer one is shortened.
    pub max_grad_norm: Option<f64>,
    /// Gradient steps per batch of answers.
    pub updates: usize,
    /// Ratios are clipped to 1 − this,
    pub clip: f32,
    /// and to 1 + this.
    pub clip_high: f32,
    /// Weight of the divergence from the base; 0 leaves it out.
    pub kl: f32,
    /// The most positions, padding included, in one pass of the gradient graph.
    pub micro_tokens: usize,
    /// When to go back to the best state and when to stop early.
    pub rules: Rules,
    /// Some answers of every so many steps go into the journal; 0 for none.
    pub sample_every: usize,
    /// The type v ships in.
    pub scalar: Scalar,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_answers_or_the_budget_share_the_loss() {
        // Two answers, of 2 and 6 tokens, 16 allowed.
        let of = |weighting: Weighting| [2, 6].map(|n| weighting.of_token(n, 2, 8, 16));
        assert_eq!(of(Weighting::Tokens), [0.125; 2]);
        assert_eq!(of(Weighting::Answers), [0.25, 1.0 / 12.0]);
        assert_eq!(of(Weighting::Budget), [1.0 / 32.0; 2]);
    }
}

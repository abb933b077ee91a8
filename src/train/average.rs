//! The moving average of the scores, and how much of the problems' variance is left in it.
//!
//! The average of steps with weights w₁, w₂, … (summing to 1) of n problems each has the variance
//! σ²·Σ wᵢ²/n, σ² being that of a problem: the share Σ wᵢ²/n is known whatever the scores are. With the
//! past kept by a factor k the share goes to (1 − k)/(1 + k)/n. k is 0.8, an average over 9 steps, or
//! larger where steps are small: an average is to be over 36 problems at least.

use serde::{Deserialize, Serialize};

use super::score::Score;

/// The fewest steps in an average.
const STEPS: f64 = 9.0;
/// The fewest problems.
const PROBLEMS: f64 = 36.0;

/// An exponential moving average without bias towards 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// The weighted sum of the scores,
    sum: f64,
    /// of their weights,
    weight: f64,
    /// and of the shares each left of a problem's variance, by the squares of the weights.
    squares: f64,
}

impl Average {
    /// One that goes on from `mean`, as if that were of as many scores as could be.
    pub fn from(mean: f64, share: f64) -> Self {
        Self { sum: mean, weight: 1.0, squares: share }
    }

    /// Takes the score of the next step.
    pub fn add(&mut self, score: &Score) {
        let over = STEPS.max(PROBLEMS / score.problems as f64);
        let kept = (over - 1.0) / (over + 1.0);
        let new = 1.0 - kept;
        self.sum = kept * self.sum + new * score.mean;
        self.weight = kept * self.weight + new;
        self.squares = kept * kept * self.squares + new * new * score.share();
    }

    /// The mean; nothing before the first score.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// The variance of the mean, in that of a problem.
    pub fn share(&self) -> f64 {
        self.squares / (self.weight * self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: usize, problems: usize) -> Average {
        let mut average = Average::default();
        for _ in 0..steps {
            average.add(&Score { mean: 0.5, problems, spread: None });
        }
        average
    }

    #[test]
    fn it_has_no_bias_towards_zero() {
        assert_eq!(Average::default().mean(), None);
        assert!((after(3, 24).mean().unwrap() - 0.5).abs() < 1e-15);
    }

    #[test]
    fn it_is_over_nine_steps_or_thirty_six_problems_whichever_is_more() {
        for (problems, over) in [(1, 36.0), (2, 36.0), (3, 36.0), (4, 36.0), (8, 72.0), (24, 216.0)]
        {
            assert!((after(1, problems).share() * problems as f64 - 1.0).abs() < 1e-12);
            let settled = after(400, problems).share();
            assert!((settled * over - 1.0).abs() < 1e-6, "{problems}: {settled}");
        }
    }

    #[test]
    fn steps_of_twenty_four_keep_four_fifths() {
        let mut average = Average::from(1.0, 0.1);
        average.add(&Score { mean: 0.0, problems: 24, spread: Some(0.0) });
        assert!((average.mean().unwrap() - 0.8).abs() < 1e-15);
        assert!((average.share() - 0.64 * 0.1 - 0.04 / 24.0).abs() < 1e-15);
    }
}

//! How far the problems of a run lie apart, told by all of its steps together.
//!
//! A step of n problems tells of their variance σ² with n − 1 degrees of freedom: two problems can
//! be alike by chance, and then say that chance moves nothing. So the squares of all steps are pooled,
//!
//! σ² ≈ Q / F, with Q ← λQ + d·s² and F ← λF + d at each step,
//!
//! where s² is the step's own estimate and d its degrees of freedom. The spread of a run changes
//! with its rate of success, so the past fades: λ = 1000 / (1000 + d) keeps what 1000 degrees of
//! freedom say and d more, be that 43 steps of 24 problems or a thousand of two. Not fewer: an
//! average is high, where rewards are bounded, just when few problems differ, and a fall must not be
//! measured by what only its last steps say.
//!
//! A single problem has no spread of its own. It is told by the distance to the score before it,
//! whose variance is σ²·(1 + 1/m) if that was the mean of m problems, and which a trend hardly
//! enters (von Neumann, 1941). Neighbouring distances share a score, so that each is worth 2/3 of a
//! degree of freedom.
//!
//! What is allowed z standard errors is allowed more while σ² is known from little: Student's
//! quantile in place of the normal one, to the first order z·(1 + (z² + 1) / 4F).

use serde::{Deserialize, Serialize};

use super::score::Score;

/// Degrees of freedom that are remembered.
const MEMORY: f64 = 1000.0;
/// The fewest that are knowledge: five pairs of problems may well be alike by chance.
const LEAST: f64 = 5.0;
/// Those of the distance between two scores.
const DISTANCE: f64 = 2.0 / 3.0;

/// The variance of one problem around the mean of its step, pooled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Q, the squares.
    squares: f64,
    /// F, their degrees of freedom.
    freedom: f64,
    /// The mean of the last step, and its variance in that of a problem.
    last: Option<(f64, f64)>,
}

impl Spread {
    /// Takes the score of the next step.
    pub fn add(&mut self, score: &Score) {
        let share = score.share();
        let last = self.last.replace((score.mean, share));
        let told = match (score.spread, last) {
            (Some(spread), _) => Some((spread, score.problems as f64 - 1.0)),
            (None, Some((mean, before))) => {
                let away = score.mean - mean;
                Some((away * away / (share + before), DISTANCE))
            }
            (None, None) => None,
        };
        if let Some((variance, freedom)) = told {
            let kept = MEMORY / (MEMORY + freedom);
            self.squares = kept * self.squares + freedom * variance;
            self.freedom = kept * self.freedom + freedom;
        }
    }

    /// The variance of a problem; `None` while too little is known of it.
    pub fn variance(&self) -> Option<f64> {
        (self.freedom >= LEAST).then(|| self.squares / self.freedom)
    }

    /// What `errors` standard errors are when the variance is known no better than it is.
    pub fn widened(&self, errors: f64) -> f64 {
        errors * (1.0 + (errors * errors + 1.0) / (4.0 * self.freedom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::sampling::uniform;

    /// The variance of a uniform number in [0, 1).
    const UNIFORM: f64 = 1.0 / 12.0;

    /// After steps of so many problems each, worth uniform numbers above a trend.
    fn seen(problems: u64, steps: u64, trend: f64) -> Spread {
        let mut spread = Spread::default();
        for step in 0..steps {
            let worth = |at| uniform(1, step, at, 0) + trend * step as f64;
            spread.add(&Score::of(&(0..problems).map(worth).collect::<Vec<_>>()).unwrap());
        }
        spread
    }

    #[test]
    fn it_is_that_of_the_problems_whatever_their_number_and_trend() {
        for problems in [1, 2, 3, 4, 8, 24] {
            let found = seen(problems, 400, 0.0025).variance().unwrap();
            assert!((found / UNIFORM - 1.0).abs() < 0.2, "{problems}: {found}");
        }
    }

    #[test]
    fn it_is_known_from_five_degrees_of_freedom_on() {
        for (problems, steps) in [(1, 9), (2, 6), (3, 3), (4, 2), (8, 1), (24, 1)] {
            assert_eq!(seen(problems, steps - 1, 0.0).variance(), None, "{problems}");
            assert!(seen(problems, steps, 0.0).variance().is_some(), "{problems}");
        }
    }

    #[test]
    fn a_single_problem_after_a_step_of_several_is_compared_with_their_mean() {
        let mut spread = Spread::default();
        spread.add(&Score { mean: 0.0, problems: 8, spread: Some(0.0) });
        spread.add(&Score::of(&[5.0]).unwrap());
        // Q = ⅔·5² / (1 + ⅛), F = 7λ + ⅔.
        let (squares, freedom) = (400.0 / 27.0, 7000.0 / (1000.0 + 2.0 / 3.0) + 2.0 / 3.0);
        assert!((spread.variance().unwrap() - squares / freedom).abs() < 1e-12);
    }

    #[test]
    fn the_past_fades_by_what_has_been_learned_since() {
        for (problems, steps) in [(24, 200), (2, 4600)] {
            let mut spread = Spread { squares: 1e5, freedom: 1000.0, last: None };
            for _ in 0..steps {
                spread.add(&Score { mean: 0.0, problems, spread: Some(1.0) });
            }
            // 4600 degrees of freedom later about e^(−4.6) of the past is left, a hundredth.
            let found = spread.variance().unwrap();
            assert!((1.5..3.5).contains(&found), "{problems}: {found}");
        }
    }

    #[test]
    fn little_knowledge_is_allowed_more() {
        let widened = |steps| seen(2, steps, 0.0).widened(3.0);
        assert!(widened(4) > widened(40) && widened(40) > widened(400) && widened(400) > 3.0);
        // Student's quantile for the chance of 3 standard errors: 3.35 with 24 degrees of freedom.
        let spread = Spread { squares: 1.0, freedom: 24.0, last: None };
        assert!((spread.widened(3.0) - 3.3).abs() < 0.05, "{}", spread.widened(3.0));
    }
}

//! What a step was worth, and how far chance alone may have moved it.

use serde::{Deserialize, Serialize};

/// The score of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The mean over the step's problems.
    pub mean: f64,
    /// The variance of that mean; `None` where one problem says nothing of it.
    pub variance: Option<f64>,
}

impl Score {
    /// From what each problem was worth, whose spread is that of the mean times their number.
    /// `None` for nothing.
    pub fn of(worths: &[f64]) -> Option<Self> {
        let n = worths.len() as f64;
        let mean = worths.iter().sum::<f64>() / n;
        let spread = worths.iter().map(|w| (w - mean) * (w - mean)).sum::<f64>();
        match worths.len() {
            0 => None,
            1 => Some(Self { mean, variance: None }),
            _ => Some(Self { mean, variance: Some(spread / (n - 1.0) / n) }),
        }
    }

    /// Of a loss, negated, and what each example adds to it. An example of share w of the whole
    /// and loss c is c − w·loss away from what its share would be; the sum of n such distances,
    /// which is 0, has the variance n / (n − 1) · Σ (c − w·loss)² (that of a ratio estimate).
    pub fn of_loss(loss: f64, examples: &[Example]) -> Self {
        let n = examples.len() as f64;
        let sum = examples.iter().map(|e| e.loss).sum::<f64>();
        let away = |e: &Example| e.loss - e.share * sum;
        let spread = examples.iter().map(|e| away(e) * away(e)).sum::<f64>();
        let variance = (examples.len() > 1).then(|| n / (n - 1.0) * spread);
        Self { mean: -loss, variance }
    }
}

/// What an example adds to the loss of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example {
    /// Its share of the whole; the shares of a step sum to 1.
    pub share: f64,
    /// Its part of the loss.
    pub loss: f64,
}

/// Differences the spread must have seen before it is one.
const LEAST: u64 = 5;

/// How far the scores of single problems lie apart: half the mean square of the differences between
/// each and the one before, which a trend hardly enters (von Neumann, 1941).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    last: Option<f64>,
    /// The sum of the squares.
    sum: f64,
    seen: u64,
}

impl Spread {
    /// Takes the next score.
    pub fn add(&mut self, score: f64) {
        if let Some(last) = self.last.replace(score) {
            self.sum += (score - last) * (score - last);
            self.seen += 1;
        }
    }

    /// The variance of a score; `None` before it is known.
    pub fn variance(&self) -> Option<f64> {
        (self.seen >= LEAST).then(|| self.sum / 2.0 / self.seen as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::sampling::uniform;

    #[test]
    fn problems_have_a_spread_and_one_alone_has_none() {
        let found = Score::of(&[1.0, 0.0, 1.0, 0.0]).unwrap();
        assert_eq!(found.mean, 0.5);
        assert!((found.variance.unwrap() - 1.0 / 12.0).abs() < 1e-15);
        assert_eq!(Score::of(&[1.0]), Some(Score { mean: 1.0, variance: None }));
        assert_eq!(Score::of(&[]), None);
    }

    #[test]
    fn examples_of_equal_share_spread_as_problems_do() {
        let losses = [0.5, 2.0, 1.0, 0.25];
        let examples = losses.map(|loss| Example { share: 0.25, loss: loss / 4.0 });
        let (mean, n) = (losses.iter().sum::<f64>() / 4.0, 4.0);
        let expected = losses.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0) / n;
        let found = Score::of_loss(mean, &examples);
        assert_eq!(found.mean, -mean);
        assert!((found.variance.unwrap() - expected).abs() < 1e-15);
        // An example that loses as its share says is no spread, however long it is.
        let alike = [0.1, 0.6, 0.3].map(|share| Example { share, loss: 1.5 * share });
        assert!(Score::of_loss(1.5, &alike).variance.unwrap() < 1e-30);
        assert_eq!(Score::of_loss(1.5, &alike[..1]).variance, None);
    }

    #[test]
    fn single_scores_have_the_spread_of_their_history_whatever_their_trend() {
        let mut spread = Spread::default();
        for n in 0..400 {
            assert_eq!(spread.variance().is_some(), n > 5, "{n}");
            spread.add(n as f64 / 400.0 + uniform(1, 0, 0, n) - 0.5);
        }
        // A uniform number in [0, 1) has the variance 1/12.
        let found = spread.variance().unwrap();
        assert!((found * 12.0 - 1.0).abs() < 0.2, "{found}");
    }
}

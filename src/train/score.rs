//! What a step was worth, and how far its problems lay apart.

/// The score of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The mean over the step's problems.
    pub mean: f64,
    /// How many they are.
    pub problems: usize,
    /// The variance of one of them; `None` where a single one says nothing of it.
    pub spread: Option<f64>,
}

impl Score {
    /// From what each problem was worth. `None` for nothing.
    pub fn of(worths: &[f64]) -> Option<Self> {
        let problems = worths.len();
        let mean = worths.iter().sum::<f64>() / problems as f64;
        let squares = worths.iter().map(|w| (w - mean) * (w - mean)).sum::<f64>();
        let spread = (problems > 1).then(|| squares / (problems as f64 - 1.0));
        (problems > 0).then_some(Self { mean, problems, spread })
    }

    /// Of a loss, negated, and what each of its examples adds to it; `None` without examples. An
    /// example of share w of the whole and loss c is c − w·loss away from what its share would be.
    /// The sum of n such distances, which is 0, has the variance n / (n − 1) · Σ (c − w·loss)² (that
    /// of a ratio estimate), and is taken for the mean of n problems of n times that variance.
    pub fn of_loss(loss: f64, examples: &[Example]) -> Option<Self> {
        let problems = examples.len();
        let n = problems as f64;
        let sum = examples.iter().map(|e| e.loss).sum::<f64>();
        let away = |e: &Example| e.loss - e.share * sum;
        let squares = examples.iter().map(|e| away(e) * away(e)).sum::<f64>();
        let spread = (problems > 1).then(|| n * n / (n - 1.0) * squares);
        (problems > 0).then_some(Self { mean: -loss, problems, spread })
    }

    /// The variance of the mean, in that of a problem.
    pub fn share(&self) -> f64 {
        1.0 / self.problems as f64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_a_spread_and_one_alone_has_none() {
        let found = Score::of(&[1.0, 0.0, 1.0, 0.0]).unwrap();
        assert_eq!((found.mean, found.problems, found.share()), (0.5, 4, 0.25));
        assert!((found.spread.unwrap() - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(Score::of(&[1.0]), Some(Score { mean: 1.0, problems: 1, spread: None }));
        assert_eq!((Score::of(&[]), Score::of_loss(0.0, &[])), (None, None));
    }

    #[test]
    fn examples_of_equal_share_spread_as_problems_do() {
        let losses = [0.5, 2.0, 1.0, 0.25];
        let examples = losses.map(|loss| Example { share: 0.25, loss: loss / 4.0 });
        let mean = losses.iter().sum::<f64>() / 4.0;
        let (found, expected) =
            (Score::of_loss(mean, &examples).unwrap(), Score::of(&losses).unwrap());
        assert_eq!((found.mean, found.problems), (-mean, 4));
        assert!((found.spread.unwrap() - expected.spread.unwrap()).abs() < 1e-15);
        // An example that loses as its share says is no spread, however long it is.
        let alike = [0.1, 0.6, 0.3].map(|share| Example { share, loss: 1.5 * share });
        assert!(Score::of_loss(1.5, &alike).unwrap().spread.unwrap() < 1e-28);
        assert_eq!(Score::of_loss(1.5, &alike[..1]).unwrap().spread, None);
    }
}

//! Choosing tokens on the host, the same ones whatever the batch and the threads.
//!
//! The randomness of a token depends on nothing but its four names (seed, step, row, position), so a
//! completion does not change when rows around it finish, are dropped, or are split over
//! batches. Bits come from SHA-256 of the names: slower than a shift register, far faster than
//! the logits it is used on, and without correlations between neighbours.
//!
//! What is sampled is softmax(logits / temperature), and the log-probability returned is that
//! of the same distribution: the one whose gradient is taken.

use sha2::{Digest, Sha256};

/// Sets these bits apart from every other use of SHA-256 in this crate.
pub const DOMAIN: &[u8] = b"tla sample v1";

/// Why no token could be chosen.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// There are no logits.
    #[error("there are no logits to choose a token from. The model's vocabulary is empty")]
    Empty,
    /// A logit is NaN or infinite.
    #[error(
        "the logit of token {token} is {value}. The model overflowed or its adapter diverged, \
         lower the learning rate or run it in fp32"
    )]
    NotFinite {
        /// The first such token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// The temperature is not a positive number.
    #[error("the temperature is {value}. Give a number above 0, or decode greedily")]
    Temperature {
        /// The temperature.
        value: f32,
    },
    /// The uniform number is outside \[0, 1).
    #[error("the uniform number is {value}. It must be at least 0 and below 1")]
    Uniform {
        /// The number.
        value: f64,
    },
}

/// The uniform number in \[0, 1) of one token: the first 53 bits, most significant first, of
/// SHA-256 over [`DOMAIN`] and the four words in little-endian order.
///
/// `step` is the training step, `row` numbers the completions of a whole step (not of a batch),
/// `position` the tokens of a completion.
pub fn uniform(seed: u64, step: u64, row: u64, position: u64) -> f64 {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    for word in [seed, step, row, position] {
        hash.update(word.to_le_bytes());
    }
    let digest = hash.finalize();
    let mut word = 0u64;
    for byte in digest.iter().take(8) {
        word = (word << 8) | u64::from(*byte);
    }
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-probability under the distribution it was drawn from.
    pub log_probability: f64,
    /// The entropy of that distribution, in nats.
    pub entropy: f64,
}

/// Draws a token from softmax(`logits` / `temperature`) by the uniform number in \[0, 1):
/// [`Softmax::draw`].
///
/// # Errors
/// As [`Softmax::new`] and [`Softmax::draw`].
pub fn sample(logits: &[f32], temperature: f32, uniform: f64) -> Result<Drawn, SamplingError> {
    Softmax::new(logits, temperature)?.draw(uniform)
}

/// The log-probability of `token` under softmax(`logits` / `temperature`); the arithmetic of
/// [`sample`]. `None` if there is no such token.
///
/// # Errors
/// As [`Softmax::new`].
pub fn log_probability(
    logits: &[f32],
    temperature: f32,
    token: u32,
) -> Result<Option<f64>, SamplingError> {
    let softmax = Softmax::new(logits, temperature)?;
    let known = usize::try_from(token).ok().filter(|token| *token < logits.len());
    Ok(known.map(|token| softmax.log_probability(token)))
}

/// The first token with the largest logit.
pub fn greedy(logits: &[f32]) -> Result<u32, SamplingError> {
    peak(logits).map(|token| token as u32)
}

fn peak(logits: &[f32]) -> Result<usize, SamplingError> {
    let mut best = 0;
    let mut largest = *logits.first().ok_or(SamplingError::Empty)?;
    for (token, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return Err(SamplingError::NotFinite { token, value: *logit });
        }
        if *logit > largest {
            (best, largest) = (token, *logit);
        }
    }
    Ok(best)
}

/// softmax(logits / temperature), as many draws as are wanted.
pub struct Softmax<'a> {
    logits: &'a [f32],
    peak: usize,
    largest: f64,
    temperature: f64,
    /// Sums of the weights up to each token, relative to the largest weight.
    cumulative: Vec<f64>,
    /// Σ weight · exponent.
    spread: f64,
}

impl<'a> Softmax<'a> {
    /// Weights are summed in f64 in the order of the vocabulary.
    ///
    /// # Errors
    /// If there are no logits, one is not finite, or the temperature is not above 0.
    pub fn new(logits: &'a [f32], temperature: f32) -> Result<Self, SamplingError> {
        if !temperature.is_finite() || temperature <= 0.0 {
            return Err(SamplingError::Temperature { value: temperature });
        }
        let peak = peak(logits)?;
        let (largest, temperature) = (f64::from(logits[peak]), f64::from(temperature));
        let mut softmax =
            Self { logits, peak, largest, temperature, cumulative: Vec::new(), spread: 0.0 };
        let (mut total, mut spread) = (0.0, 0.0);
        let sums = logits.iter().map(|logit| {
            let exponent = softmax.exponent(*logit);
            let weight = exponent.exp();
            total += weight;
            // An exponent may be −∞ at a tiny temperature, and 0 · ∞ is no number.
            if weight > 0.0 {
                spread += weight * exponent;
            }
            total
        });
        softmax.cumulative = sums.collect();
        softmax.spread = spread;
        Ok(softmax)
    }

    /// The token the uniform number in \[0, 1) stands for: the first whose cumulative weight
    /// exceeds `uniform` times the total.
    ///
    /// # Errors
    /// If the number is outside its range.
    pub fn draw(&self, uniform: f64) -> Result<Drawn, SamplingError> {
        if !(0.0..1.0).contains(&uniform) {
            return Err(SamplingError::Uniform { value: uniform });
        }
        let threshold = uniform * self.total();
        let found = self.cumulative.partition_point(|sum| *sum <= threshold);
        // The cumulative sum ends at the total exactly, so there always is a token.
        let chosen = if found < self.logits.len() { found } else { self.peak };
        Ok(Drawn {
            token: chosen as u32,
            log_probability: self.log_probability(chosen),
            entropy: self.entropy(),
        })
    }

    fn exponent(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.largest) / self.temperature
    }

    fn total(&self) -> f64 {
        self.cumulative.last().copied().unwrap_or(1.0)
    }

    fn log_probability(&self, token: usize) -> f64 {
        self.exponent(self.logits[token]) - self.total().ln()
    }

    /// −Σ p·ln p = ln Z − Σ p·exponent; rounding must not make it negative.
    fn entropy(&self) -> f64 {
        (self.total().ln() - self.spread / self.total()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_generator_is_pinned() {
        // Computed with Python's hashlib from the documented layout.
        assert_eq!(uniform(7, 3, 0, 0), 0.859_880_432_208_820_4);
        assert_eq!(uniform(7, 3, 5, 11), 0.875_513_985_490_467_7);
    }

    #[test]
    fn every_name_of_a_token_matters_and_so_does_their_order() {
        let base = uniform(1, 2, 3, 4);
        for [seed, step, row, position] in
            [[2, 2, 3, 4], [1, 3, 3, 4], [1, 2, 4, 4], [1, 2, 3, 5], [1, 2, 4, 3]]
        {
            assert_ne!(base, uniform(seed, step, row, position));
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities_at_every_temperature() {
        let logits = [0.0f32, 1.0, -2.0, 0.5];
        for temperature in [0.5f32, 1.0, 2.0] {
            let n = 20_000;
            let mut counts = [0u32; 4];
            for i in 0..n {
                let drawn = sample(&logits, temperature, uniform(7, 3, i / 100, i % 100)).unwrap();
                counts[drawn.token as usize] += 1;
            }
            for (token, count) in counts.iter().enumerate() {
                let p = log_probability(&logits, temperature, token as u32).unwrap().unwrap().exp();
                let expected = p * n as f64;
                let deviation = (expected * (1.0 - p)).sqrt();
                assert!((f64::from(*count) - expected).abs() < 4.0 * deviation, "{token}: {count}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), Ok(1));
        assert_eq!(greedy(&[-0.0, 0.0]), Ok(0));
        assert_eq!(greedy(&[]), Err(SamplingError::Empty));
    }

    #[test]
    fn what_is_not_finite_is_an_error_and_never_a_token() {
        assert!(matches!(greedy(&[f32::NAN]), Err(SamplingError::NotFinite { token: 0, .. })));
        assert_eq!(
            sample(&[0.0, f32::INFINITY], 1.0, 0.5),
            Err(SamplingError::NotFinite { token: 1, value: f32::INFINITY })
        );
        assert_eq!(
            greedy(&[0.0, f32::NEG_INFINITY]),
            Err(SamplingError::NotFinite { token: 1, value: f32::NEG_INFINITY })
        );
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(sample(&[0.0], 0.0, 0.5), Err(SamplingError::Temperature { value: 0.0 }));
        assert!(matches!(sample(&[0.0], f32::NAN, 0.5), Err(SamplingError::Temperature { .. })));
        assert_eq!(sample(&[0.0], 1.0, 1.0), Err(SamplingError::Uniform { value: 1.0 }));
        assert!(matches!(sample(&[0.0], 1.0, f64::NAN), Err(SamplingError::Uniform { .. })));
    }

    #[test]
    fn extreme_logits_and_temperatures_stay_finite() {
        let logits = [f32::MAX, f32::MIN, 0.0];
        let sure = Drawn { token: 0, log_probability: 0.0, entropy: 0.0 };
        assert_eq!(sample(&logits, 1.0, 0.999_999), Ok(sure));
        assert_eq!(sample(&logits, f32::MIN_POSITIVE, 0.999_999), Ok(sure));
        let drawn = sample(&[80.0, 90.0, 100.0], 1e-3, 0.5).unwrap();
        assert_eq!((drawn.log_probability, drawn.entropy), (0.0, 0.0));
        let drawn = sample(&logits, f32::MAX, 0.5).unwrap();
        assert!(drawn.log_probability.is_finite() && drawn.entropy.is_finite());
    }

    #[test]
    fn a_token_of_no_weight_is_never_drawn() {
        let last = 1.0 - f64::EPSILON / 2.0;
        assert_eq!(sample(&[-5000.0, 0.0, -5000.0], 1.0, last).unwrap().token, 1);
        assert_eq!(sample(&[-5000.0, 0.0, -5000.0], 1.0, 0.0).unwrap().token, 1);
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_do_not_see_a_shift(
            logits in prop::collection::vec(-20.0f32..20.0, 1..50), temperature in 0.1f32..4.0,
        ) {
            let shifted: Vec<f32> = logits.iter().map(|l| l + 64.0).collect();
            let mut total = 0.0;
            for token in 0..logits.len() as u32 {
                let p = log_probability(&logits, temperature, token).unwrap().unwrap();
                let q = log_probability(&shifted, temperature, token).unwrap().unwrap();
                prop_assert!((p - q).abs() < 1e-3);
                total += p.exp();
            }
            prop_assert!((total - 1.0).abs() < 1e-12);
        }

        #[test]
        fn a_sample_is_a_token_with_the_log_probability_of_that_token(
            logits in prop::collection::vec(-20.0f32..20.0, 1..50), uniform in 0.0f64..1.0,
        ) {
            let found = sample(&logits, 0.7, uniform).unwrap();
            let again = log_probability(&logits, 0.7, found.token);
            prop_assert_eq!(again, Ok(Some(found.log_probability)));
            prop_assert!(found.log_probability <= 0.0);
        }

        #[test]
        fn the_entropy_is_the_mean_of_minus_the_log_probability(
            logits in prop::collection::vec(-20.0f32..20.0, 1..50), temperature in 0.1f32..4.0,
        ) {
            let mut expected = 0.0;
            for token in 0..logits.len() as u32 {
                let p = log_probability(&logits, temperature, token).unwrap().unwrap();
                expected -= p.exp() * p;
            }
            let found = sample(&logits, temperature, 0.5).unwrap().entropy;
            prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
        }
    }
}

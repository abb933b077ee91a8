//! Adam on the few numbers that are trained.
//!
//! Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1,
//! without weight decay. With g the gradient of the loss and t counted from 1:
//!
//! ```text
//! m ← β₁·m + (1 − β₁)·g        s ← β₂·s + (1 − β₂)·g²
//! v ← v − lr · (m / (1 − β₁ᵗ)) / (√(s / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! Moments and arithmetic are f64; v is an f32 master copy, rounded once a step, and the adapter
//! holds that copy rounded to its stored type. The state serialises exactly: floats are written
//! as their shortest decimal strings, because a JSON parser may read a JSON number one bit off.

use serde::{Deserialize, Serialize};

/// Why a step was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum AdamError {
    /// A setting is outside its range.
    #[error("the optimiser's {name} is {value}. It must be {range}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        range: &'static str,
    },
    /// The gradient has another length than v.
    #[error("the gradient has {found} numbers and v has {expected}. Both come from one adapter")]
    Length {
        /// Length of v.
        expected: usize,
        /// Length of the gradient.
        found: usize,
    },
    /// A gradient is NaN or infinite.
    #[error(
        "the gradient of v[{index}] is {value}. Lower the learning rate or look for a reward or \
         a model that is not finite"
    )]
    Gradient {
        /// Which component.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A step would make v infinite or NaN, or the loaded state holds such a number.
    #[error("v[{index}] or its moments would become {value}. Lower the learning rate")]
    NotFinite {
        /// Which component.
        index: usize,
        /// The value.
        value: f64,
    },
}

/// Settings of [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamSettings {
    /// Learning rate, positive.
    #[serde(with = "exact")]
    pub learning_rate: f64,
    /// β₁, in \[0, 1).
    #[serde(with = "exact")]
    pub beta1: f64,
    /// β₂, in \[0, 1).
    #[serde(with = "exact")]
    pub beta2: f64,
    /// ε, positive.
    #[serde(with = "exact")]
    pub epsilon: f64,
}

impl AdamSettings {
    /// The paper's β₁ = 0.9, β₂ = 0.999, ε = 1e-8 with this learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    fn check(&self) -> Result<(), AdamError> {
        let positive = |name, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(AdamError::Setting { name, value, range: "finite and above 0" }),
        };
        let decay = |name, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(AdamError::Setting { name, value, range: "at least 0 and below 1" }),
        };
        positive("learning rate", self.learning_rate)?;
        positive("epsilon", self.epsilon)?;
        decay("beta1", self.beta1)?;
        decay("beta2", self.beta2)
    }
}

/// The optimiser and the master copy of v. Serialise it to resume a run bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub struct Adam {
    settings: AdamSettings,
    steps: u64,
    v: Vec<f32>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    /// Starts from `v`, with moments of 0.
    pub fn new(v: Vec<f32>, settings: AdamSettings) -> Result<Self, AdamError> {
        let (first, second) = (vec![0.0; v.len()], vec![0.0; v.len()]);
        Self { settings, steps: 0, v, first, second }.checked()
    }

    fn checked(self) -> Result<Self, AdamError> {
        self.settings.check()?;
        for moments in [&self.first, &self.second] {
            if moments.len() != self.v.len() {
                return Err(AdamError::Length { expected: self.v.len(), found: moments.len() });
            }
        }
        let rows = self.v.iter().zip(&self.first).zip(&self.second);
        for (index, ((v, first), second)) in rows.enumerate() {
            for value in [f64::from(*v), *first, *second] {
                if !value.is_finite() {
                    return Err(AdamError::NotFinite { index, value });
                }
            }
            // A square root follows.
            if *second < 0.0 {
                return Err(AdamError::NotFinite { index, value: *second });
            }
        }
        Ok(self)
    }

    /// The master copy of v.
    pub fn v(&self) -> &[f32] {
        &self.v
    }

    /// The settings.
    pub fn settings(&self) -> &AdamSettings {
        &self.settings
    }

    /// The learning rate of the steps that follow.
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> Result<(), AdamError> {
        let settings = AdamSettings { learning_rate, ..self.settings };
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step down the gradient of the loss. On an error nothing has changed.
    pub fn step(&mut self, gradient: &[f64]) -> Result<(), AdamError> {
        if gradient.len() != self.v.len() {
            return Err(AdamError::Length { expected: self.v.len(), found: gradient.len() });
        }
        if let Some((index, value)) = gradient.iter().enumerate().find(|(_, g)| !g.is_finite()) {
            return Err(AdamError::Gradient { index, value: *value });
        }
        let AdamSettings { learning_rate, beta1, beta2, epsilon } = self.settings;
        let mut next = self.clone();
        next.steps = self.steps.saturating_add(1);
        let unbias1 = 1.0 - power(beta1, next.steps);
        let unbias2 = 1.0 - power(beta2, next.steps);
        for (i, g) in gradient.iter().enumerate() {
            next.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
            next.second[i] = beta2 * self.second[i] + (1.0 - beta2) * (g * g);
            let direction =
                (next.first[i] / unbias1) / ((next.second[i] / unbias2).sqrt() + epsilon);
            next.v[i] = (f64::from(self.v[i]) - learning_rate * direction) as f32;
        }
        *self = next.checked()?;
        Ok(())
    }
}

/// The Euclidean norm, summed from first to last.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The gradient, shortened to the norm `most` where it is longer.
pub fn shortened(gradient: &[f64], most: Option<f64>) -> Vec<f64> {
    let length = norm(gradient);
    let factor = match most {
        Some(most) if length > most => most / length,
        _ => 1.0,
    };
    gradient.iter().map(|g| g * factor).collect()
}

/// `base^exponent` by repeated squaring: the same bits on every machine, unlike `powf`.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// The serialised form of [`Adam`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    settings: AdamSettings,
    steps: u64,
    #[serde(with = "exact_list")]
    v: Vec<f32>,
    #[serde(with = "exact_list")]
    first: Vec<f64>,
    #[serde(with = "exact_list")]
    second: Vec<f64>,
}

impl From<Adam> for State {
    fn from(adam: Adam) -> Self {
        let Adam { settings, steps, v, first, second } = adam;
        Self { settings, steps, v, first, second }
    }
}

impl TryFrom<State> for Adam {
    type Error = AdamError;

    fn try_from(state: State) -> Result<Self, AdamError> {
        let State { settings, steps, v, first, second } = state;
        Self { settings, steps, v, first, second }.checked()
    }
}

/// A float as the shortest decimal string that reads back as the same bits.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
    }
}

/// A list of floats, each as in [`exact`].
mod exact_list {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer, T: Display>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(T::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: FromStr>(from: D) -> Result<Vec<T>, D::Error> {
        let parse = |text: &String| {
            text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
        };
        Vec::<String>::deserialize(from)?.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn adam(v: &[f32], learning_rate: f64) -> Adam {
        Adam::new(v.to_vec(), AdamSettings::new(learning_rate)).unwrap()
    }

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut adam = adam(&[0.0, 0.0, 0.5], 0.01);
        adam.step(&[1e-3, -20.0, 0.0]).unwrap();
        assert!((adam.v()[0] + 0.01).abs() < 1e-6, "{:?}", adam.v());
        assert!((adam.v()[1] - 0.01).abs() < 1e-6, "{:?}", adam.v());
        assert_eq!(adam.v()[2], 0.5);
        assert_eq!(adam.steps(), 1);
    }

    #[test]
    fn three_steps_equal_those_worked_out_by_hand() {
        // g = 1, 2, −1 with lr 0.1 and the paper's constants.
        let mut adam = adam(&[1.0], 0.1);
        let (mut m, mut s, mut v) = (0.0f64, 0.0f64, 1.0f64);
        for (t, g) in [1.0f64, 2.0, -1.0].into_iter().enumerate() {
            adam.step(&[g]).unwrap();
            m = 0.9 * m + 0.1 * g;
            s = 0.999 * s + 0.001 * g * g;
            let (b1, b2) = (1.0 - 0.9f64.powi(t as i32 + 1), 1.0 - 0.999f64.powi(t as i32 + 1));
            v -= 0.1 * (m / b1) / ((s / b2).sqrt() + 1e-8);
            assert!((f64::from(adam.v()[0]) - v).abs() < 1e-6);
        }
    }

    #[test]
    fn it_finds_the_bottom_of_a_bowl() {
        let mut adam = adam(&[3.0, -2.0], 0.05);
        for _ in 0..600 {
            let gradient: Vec<f64> = adam.v().iter().map(|v| 2.0 * (f64::from(*v) - 1.0)).collect();
            adam.step(&gradient).unwrap();
        }
        assert!(adam.v().iter().all(|v| (v - 1.0).abs() < 0.01), "{:?}", adam.v());
    }

    #[test]
    fn a_bad_gradient_is_refused_and_changes_nothing() {
        let mut adam = adam(&[0.0, 0.0], 0.01);
        let before = adam.clone();
        assert!(matches!(
            adam.step(&[0.0, f64::NAN]),
            Err(AdamError::Gradient { index: 1, value }) if value.is_nan()
        ));
        assert_eq!(adam.step(&[0.0]), Err(AdamError::Length { expected: 2, found: 1 }));
        assert!(matches!(adam.step(&[1e200, 0.0]), Err(AdamError::NotFinite { index: 0, .. })));
        assert_eq!(adam, before);
    }

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_is_not() {
        assert_eq!(shortened(&[3.0, -4.0], Some(1.0)), [0.6000000000000001, -0.8]);
        assert_eq!(shortened(&[3.0, -4.0], Some(5.0)), [3.0, -4.0]);
        assert_eq!(shortened(&[3.0, -4.0], None), [3.0, -4.0]);
        assert!(shortened(&[f64::NAN], Some(1.0))[0].is_nan());
        assert_eq!(shortened(&[0.0], Some(1.0)), [0.0]);
    }

    #[test]
    fn a_learning_rate_counts_from_the_next_step() {
        let mut adam = adam(&[0.0], 0.01);
        adam.set_learning_rate(0.5).unwrap();
        adam.step(&[1.0]).unwrap();
        assert!((adam.v()[0] + 0.5).abs() < 1e-6);
        assert!(adam.set_learning_rate(0.0).is_err());
        assert_eq!(adam.settings().learning_rate, 0.5);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for settings in [
            AdamSettings::new(0.0),
            AdamSettings::new(f64::NAN),
            AdamSettings { beta1: 1.0, ..AdamSettings::new(0.1) },
            AdamSettings { beta2: -0.1, ..AdamSettings::new(0.1) },
            AdamSettings { epsilon: 0.0, ..AdamSettings::new(0.1) },
        ] {
            assert!(matches!(Adam::new(vec![0.0], settings), Err(AdamError::Setting { .. })));
        }
    }

    #[test]
    fn a_state_with_bad_numbers_or_lengths_is_refused() {
        let text = serde_json::to_string(&adam(&[0.5], 0.01)).unwrap();
        for (from, to) in [("\"0.5\"", "\"NaN\""), ("\"0.5\"", "\"1\",\"2\""), ("\"0.5\"", "\"x\"")]
        {
            let bad = text.replace(from, to);
            assert_ne!(bad, text);
            assert!(serde_json::from_str::<Adam>(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_run_that_is_stopped_and_resumed_ends_in_the_same_bits(
            gradients in prop::collection::vec(-1e3f64..1e3, 2..20), stop in 0usize..20,
        ) {
            let mut straight = adam(&[0.1], 3e-3);
            let mut resumed = straight.clone();
            for (i, g) in gradients.iter().enumerate() {
                straight.step(&[*g]).unwrap();
                if i == stop {
                    let text = serde_json::to_string(&resumed).unwrap();
                    resumed = serde_json::from_str(&text).unwrap();
                }
                resumed.step(&[*g]).unwrap();
            }
            prop_assert_eq!(straight, resumed);
        }
    }
}

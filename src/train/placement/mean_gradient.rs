//! The gradient dL/dR averaged over rollouts, and how much of it is signal.
//!
//! Where an update should live is read off this average (design, "Placement before training"),
//! so it must be known how far it can be trusted: each component comes with the variance of its
//! mean, estimated from the spread of the samples.

use crate::format::ModuleId;

/// Why a gradient cannot be averaged or used for a placement.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum GradientError {
    /// No module.
    #[error("there is no module to place an update on. The model has no targets")]
    NoModules,
    /// Modules must be sorted and distinct.
    #[error("module {second} follows {first}. Give each module once, sorted by layer and role")]
    Unsorted {
        /// The module before.
        first: ModuleId,
        /// The module after.
        second: ModuleId,
    },
    /// A sample or a part of the gradient has the wrong length.
    #[error("a gradient has {found} numbers and {expected} are needed, r·r for each module")]
    Length {
        /// Modules × r².
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// A gradient is NaN or infinite, or a variance is negative.
    #[error("dL/dR of {module} holds {value}. Look for a reward or a model that is not finite")]
    NotFinite {
        /// The module.
        module: ModuleId,
        /// The value.
        value: f64,
    },
    /// A variance needs two samples.
    #[error("the gradient was averaged over {found} samples. Average over at least 2")]
    TooFewSamples {
        /// How many there were.
        found: u64,
    },
}

/// dL/dR of every module: its mean over samples and the variance of that mean.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanGradient {
    rank: usize,
    modules: Vec<ModuleId>,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl MeanGradient {
    /// A gradient of `modules` (sorted, distinct): `mean` and `variance` hold rank² numbers for
    /// each, row-major, in the order of the modules. `variance` is that of the mean, not of a
    /// sample.
    pub fn new(
        rank: usize,
        modules: Vec<ModuleId>,
        mean: Vec<f64>,
        variance: Vec<f64>,
    ) -> Result<Self, GradientError> {
        let square = check_modules(rank, &modules)?;
        let expected = modules.len().saturating_mul(square);
        for part in [&mean, &variance] {
            if part.len() != expected {
                return Err(GradientError::Length { expected, found: part.len() });
            }
        }
        for (i, (mean, variance)) in mean.iter().zip(&variance).enumerate() {
            let bad = if !mean.is_finite() { Some(*mean) } else { None };
            let bad = bad.or((!variance.is_finite() || *variance < 0.0).then_some(*variance));
            if let Some(value) = bad {
                return Err(GradientError::NotFinite { module: modules[i / square], value });
            }
        }
        Ok(Self { rank, modules, mean, variance })
    }

    /// Rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The modules, sorted.
    pub fn modules(&self) -> &[ModuleId] {
        &self.modules
    }

    /// The mean of module `index`, r·r numbers. Empty if there is no such module.
    pub fn of(&self, index: usize) -> &[f64] {
        self.part(&self.mean, index)
    }

    /// ‖mean‖² of module `index`.
    pub fn energy(&self, index: usize) -> f64 {
        self.of(index).iter().fold(0.0, |sum, g| sum + g * g)
    }

    /// The part of that energy to be expected from noise alone: the trace of the covariance of
    /// the module's mean.
    pub fn noise(&self, index: usize) -> f64 {
        self.part(&self.variance, index).iter().fold(0.0, |sum, v| sum + v)
    }

    /// Signal-to-noise ratio of the whole gradient: `max(0, ‖mean‖² − noise) / noise`. Infinite
    /// if there is energy and no noise at all, 0 if there is neither.
    pub fn snr(&self) -> f64 {
        let all = 0..self.modules.len();
        let (energy, noise) = all.fold((0.0, 0.0), |(energy, noise), i| {
            (energy + self.energy(i), noise + self.noise(i))
        });
        match (energy - noise).max(0.0) {
            0.0 => 0.0,
            signal => signal / noise,
        }
    }

    fn part<'a>(&self, values: &'a [f64], index: usize) -> &'a [f64] {
        let square = self.rank * self.rank;
        values.chunks_exact(square).nth(index).unwrap_or_default()
    }
}

fn check_modules(rank: usize, modules: &[ModuleId]) -> Result<usize, GradientError> {
    if modules.is_empty() {
        return Err(GradientError::NoModules);
    }
    if let Some(pair) = modules.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(GradientError::Unsorted { first: pair[0], second: pair[1] });
    }
    match rank.checked_mul(rank) {
        Some(square) if square > 0 => Ok(square),
        _ => Err(GradientError::Length { expected: 0, found: rank }),
    }
}

/// Averages sampled gradients (Welford's update, so the variance does not cancel).
///
/// Samples must be independent, one per problem or per batch: rows of one group share a
/// baseline and are not.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientAverage {
    rank: usize,
    modules: Vec<ModuleId>,
    count: u64,
    mean: Vec<f64>,
    spread: Vec<f64>,
}

impl GradientAverage {
    /// An average over nothing, for `modules` (sorted, distinct) at this rank.
    pub fn new(rank: usize, modules: Vec<ModuleId>) -> Result<Self, GradientError> {
        let square = check_modules(rank, &modules)?;
        let zeros = vec![0.0; modules.len().saturating_mul(square)];
        Ok(Self { rank, modules, count: 0, spread: zeros.clone(), mean: zeros })
    }

    /// Adds one sample: r·r numbers for each module, in order.
    pub fn add(&mut self, sample: &[f64]) -> Result<(), GradientError> {
        if sample.len() != self.mean.len() {
            return Err(GradientError::Length { expected: self.mean.len(), found: sample.len() });
        }
        let square = self.rank * self.rank;
        if let Some((i, value)) = sample.iter().enumerate().find(|(_, g)| !g.is_finite()) {
            let module = self.modules[i / square];
            return Err(GradientError::NotFinite { module, value: *value });
        }
        self.count += 1;
        for ((mean, spread), g) in self.mean.iter_mut().zip(&mut self.spread).zip(sample) {
            let before = g - *mean;
            *mean += before / self.count as f64;
            *spread += before * (g - *mean);
        }
        Ok(())
    }

    /// Samples so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean and the variance of the mean, which need two samples.
    pub fn mean(&self) -> Result<MeanGradient, GradientError> {
        if self.count < 2 {
            return Err(GradientError::TooFewSamples { found: self.count });
        }
        let n = self.count as f64;
        let variance = self.spread.iter().map(|spread| spread.max(0.0) / (n - 1.0) / n).collect();
        MeanGradient::new(self.rank, self.modules.clone(), self.mean.clone(), variance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Role;
    use crate::policy::sampling::uniform;
    use proptest::prelude::*;

    fn modules() -> Vec<ModuleId> {
        vec![ModuleId::new(0, Role::Q), ModuleId::new(0, Role::Down)]
    }

    #[test]
    fn signal_is_energy_beyond_what_noise_explains() {
        let of = |variance: Vec<f64>| {
            MeanGradient::new(1, modules(), vec![3.0, 1.0], variance).unwrap().snr()
        };
        assert_eq!(of(vec![1.0, 1.0]), 4.0);
        assert_eq!(of(vec![10.0, 10.0]), 0.0);
        assert_eq!(of(vec![0.0, 0.0]), f64::INFINITY);
        let nothing = MeanGradient::new(1, modules(), vec![0.0; 2], vec![0.0; 2]).unwrap();
        assert_eq!(nothing.snr(), 0.0);
    }

    #[test]
    fn pure_noise_has_no_signal_to_speak_of_and_a_steady_gradient_has() {
        let average = |steady: f64| {
            let mut average = GradientAverage::new(2, modules()).unwrap();
            for step in 0..400 {
                let noise = |i| uniform(1, step, 0, i) - 0.5;
                let sample: Vec<f64> = (0..8).map(|i| steady + noise(i)).collect();
                average.add(&sample).unwrap();
            }
            average.mean().unwrap().snr()
        };
        assert!(average(0.0) < 2.0, "{}", average(0.0));
        assert!(average(0.5) > 500.0, "{}", average(0.5));
    }

    #[test]
    fn what_cannot_be_averaged_is_refused() {
        let mut average = GradientAverage::new(1, modules()).unwrap();
        assert_eq!(average.add(&[1.0]), Err(GradientError::Length { expected: 2, found: 1 }));
        assert!(matches!(
            average.add(&[1.0, f64::NAN]),
            Err(GradientError::NotFinite { module, .. }) if module.role == Role::Down
        ));
        average.add(&[1.0, 2.0]).unwrap();
        assert_eq!(average.mean(), Err(GradientError::TooFewSamples { found: 1 }));
        let mut twice = modules();
        twice.reverse();
        assert!(matches!(GradientAverage::new(1, twice), Err(GradientError::Unsorted { .. })));
        assert_eq!(GradientAverage::new(1, vec![]), Err(GradientError::NoModules));
        assert!(MeanGradient::new(1, modules(), vec![0.0; 2], vec![0.0, -1.0]).is_err());
        assert!(MeanGradient::new(0, modules(), vec![], vec![]).is_err());
    }

    proptest! {
        #[test]
        fn the_average_is_the_mean_with_its_variance(
            samples in prop::collection::vec(prop::array::uniform2(-100.0f64..100.0), 2..30),
        ) {
            let mut average = GradientAverage::new(1, modules()).unwrap();
            for sample in &samples {
                average.add(sample).unwrap();
            }
            let found = average.mean().unwrap();
            let n = samples.len() as f64;
            for i in 0..2 {
                let mean = samples.iter().map(|s| s[i]).sum::<f64>() / n;
                let spread = samples.iter().map(|s| (s[i] - mean).powi(2)).sum::<f64>();
                prop_assert!((found.of(i)[0] - mean).abs() < 1e-9);
                prop_assert!((found.noise(i) - spread / (n - 1.0) / n).abs() < 1e-9);
            }
        }
    }
}

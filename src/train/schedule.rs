//! The learning rate of each step: a warm-up, then a decay.
//!
//! Only `+ − × ÷`, so the rate has the same bits on every machine: the cosine is a series of our
//! own, because `cos` of one mathematics library may differ from another's in the last bit.

/// How the rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// In equal parts towards 0, which the step after the last would have.
    Linear,
    /// Half a cosine from 1 towards 0, which the step after the last would have.
    Cosine,
}

/// A learning rate over `steps` steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises in equal parts to its peak.
    pub warmup: u64,
    /// What follows.
    pub decay: Decay,
    /// Steps in all.
    pub steps: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 1. It is above 0 for every step up to the last.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let (done, of) = (step - self.warmup - 1, self.steps.saturating_sub(self.warmup).max(1));
        let gone = done.min(of) as f64 / of as f64;
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - gone,
                Decay::Cosine => cosine_squared(gone),
            }
    }
}

/// cos²(x·π/2) = (1 + cos(x·π))/2 for x in \[0, 1\], by Taylor's series to below 1e-15.
fn cosine_squared(x: f64) -> f64 {
    let y = x * std::f64::consts::FRAC_PI_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..=12 {
        let n = f64::from(2 * k);
        term *= -(y * y) / (n * (n - 1.0));
        sum += term;
    }
    sum * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup: u64, decay: Decay) -> Vec<f64> {
        let schedule = Schedule { peak: 2.0, warmup, decay, steps: 6 };
        (1..=6).map(|step| schedule.rate(step)).collect()
    }

    #[test]
    fn a_constant_rate_is_constant_after_its_warm_up() {
        assert_eq!(rates(0, Decay::Constant), [2.0; 6]);
        assert_eq!(rates(4, Decay::Constant), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_linear_decay_falls_in_equal_parts_and_never_to_zero() {
        assert_eq!(rates(2, Decay::Linear), [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]);
    }

    #[test]
    fn a_cosine_decay_is_half_a_cosine() {
        let found = rates(0, Decay::Cosine);
        for (step, rate) in found.iter().enumerate() {
            let exact = 1.0 + (std::f64::consts::PI * step as f64 / 6.0).cos();
            assert!((rate - exact).abs() < 1e-14, "{rate} {exact}");
        }
        assert!(found[5] > 0.0);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_and_a_step_beyond_it_do_no_harm() {
        let schedule = Schedule { peak: 1.0, warmup: 9, decay: Decay::Linear, steps: 3 };
        assert_eq!(schedule.rate(3), 3.0 / 9.0);
        assert_eq!(schedule.rate(10), 1.0);
        assert_eq!(schedule.rate(99), 0.0);
    }
}

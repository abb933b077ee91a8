//! Group-relative advantages.
//!
//! Source: GRPO (Shao et al., "DeepSeekMath", 2024): for each problem a group of completions is
//! sampled, and a completion's advantage is how far its reward lies from the group's mean, in
//! standard deviations of the group. The deviation is the population's (divided by n, not n − 1)
//! and no small constant is added to it: a group without variance has no gradient and is left
//! out, though its answers count in what the loss is divided by. Such groups are reported; half the groups of one run were of this kind
//! (facts, section 1). Without the division by the deviation every problem weighs the same
//! whatever its difficulty (Liu et al., "Understanding R1-Zero-like training", 2025).

/// The rewards of one problem's completions, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupStatistics {
    /// Number of completions.
    pub completions: usize,
    /// Mean reward.
    pub mean: f64,
    /// Standard deviation of the population.
    pub deviation: f64,
    /// Whether at least two rewards differ: decided by comparison, not by rounding.
    pub varied: bool,
}

impl GroupStatistics {
    /// The statistics of a group; `None` for an empty one. Sums run from first to last.
    pub fn of(rewards: &[f64]) -> Option<Self> {
        let first = *rewards.first()?;
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let variance = rewards.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / n;
        Some(Self {
            completions: rewards.len(),
            mean,
            deviation: variance.sqrt(),
            varied: rewards.iter().any(|reward| *reward != first),
        })
    }
}

/// The advantage of every completion of one group, or `None` if all rewards are equal (or there
/// is none): such a group teaches nothing and its gradient need not be computed.
///
/// `rewards` must be finite, which [`score_group`](super::reward::score_group) ensures; a NaN is
/// passed on, not hidden. With `normalise_by_std` the advantages have variance 1; without, they
/// are differences from the mean.
pub fn advantages(rewards: &[f64], normalise_by_std: bool) -> Option<Vec<f64>> {
    let group = GroupStatistics::of(rewards)?;
    if !group.varied {
        return None;
    }
    // Rewards that differ by less than the rounding of their mean leave no deviation to divide by.
    let unit = match normalise_by_std {
        true if group.deviation == 0.0 => return None,
        true => group.deviation,
        false => 1.0,
    };
    Some(rewards.iter().map(|reward| (reward - group.mean) / unit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn right_answers_are_pushed_up_and_wrong_ones_down() {
        assert_eq!(advantages(&[1.0, 0.0], true), Some(vec![1.0, -1.0]));
        assert_eq!(advantages(&[1.0, 0.0, 0.0, 0.0], false), Some(vec![0.75, -0.25, -0.25, -0.25]));
        let rare = advantages(&[1.0, 0.0, 0.0, 0.0], true).unwrap();
        assert!((rare[0] - 3f64.sqrt()).abs() < 1e-15, "{rare:?}");
    }

    #[test]
    fn a_group_without_variance_has_no_advantages() {
        for rewards in [&[][..], &[1.0], &[0.0; 8], &[1.0; 8], &[0.1; 7]] {
            assert_eq!(advantages(rewards, true), None, "{rewards:?}");
            assert_eq!(advantages(rewards, false), None, "{rewards:?}");
        }
    }

    #[test]
    fn a_reward_that_is_not_a_number_shows() {
        let found = advantages(&[f64::NAN, 1.0], true).unwrap();
        assert!(found.iter().all(|a| a.is_nan()), "{found:?}");
    }

    #[test]
    fn statistics_describe_the_group() {
        let group = GroupStatistics::of(&[1.0, 0.0, 1.0, 0.0]).unwrap();
        assert_eq!(
            (group.completions, group.mean, group.deviation, group.varied),
            (4, 0.5, 0.5, true)
        );
        assert_eq!(GroupStatistics::of(&[]), None);
    }

    proptest! {
        #[test]
        fn advantages_sum_to_zero(rewards in prop::collection::vec(-10.0f64..10.0, 2..40)) {
            for normalise in [true, false] {
                if let Some(found) = advantages(&rewards, normalise) {
                    prop_assert!(found.iter().sum::<f64>().abs() < 1e-9);
                }
            }
        }

        #[test]
        fn normalised_advantages_have_variance_one_and_ignore_scale_and_offset(
            correct in prop::collection::vec(any::<bool>(), 2..40), scale in 0.1f64..10.0, offset in -5.0f64..5.0,
        ) {
            let rewards: Vec<f64> = correct.iter().map(|c| f64::from(u8::from(*c))).collect();
            let moved: Vec<f64> = rewards.iter().map(|r| r * scale + offset).collect();
            match (advantages(&rewards, true), advantages(&moved, true)) {
                (Some(a), Some(b)) => {
                    let variance = a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64;
                    prop_assert!((variance - 1.0).abs() < 1e-12);
                    prop_assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-9));
                }
                (None, None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

//! The Wilson score interval of a share.
//!
//! Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
//! inference", 1927. Unlike the normal approximation it stays inside \[0, 1\] and says something
//! sensible at 0 of n and n of n.

/// The two-sided 95 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The Wilson 95 % interval `[low, high]` of `correct` successes in `n` trials.
///
/// `None` when it is not a share: `n` is 0 or `correct` exceeds `n`. The interval always
/// contains `correct / n` and lies inside \[0, 1\].
pub fn wilson(correct: u64, n: u64) -> Option<[f64; 2]> {
    if n == 0 || correct > n {
        return None;
    }
    let trials = n as f64;
    let share = correct as f64 / trials;
    let z2 = Z * Z;
    let shrink = 1.0 + z2 / trials;
    let centre = (share + z2 / (2.0 * trials)) / shrink;
    let spread = share * (1.0 - share) / trials + z2 / (4.0 * trials * trials);
    let half = Z * spread.sqrt() / shrink;
    // Rounding may leave the end that coincides with the estimate a few ulp on its wrong side.
    Some([(centre - half).max(0.0).min(share), (centre + half).min(1.0).max(share)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn near(found: [f64; 2], expected: [f64; 2]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-9, "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn known_intervals_are_reproduced() {
        near(wilson(8, 10).unwrap(), [0.490_162_471_537, 0.943_317_848_546]);
        near(wilson(0, 10).unwrap(), [0.0, 0.277_532_799_3]);
        near(wilson(10, 10).unwrap(), [0.722_467_200_7, 1.0]);
    }

    #[test]
    fn what_is_not_a_share_has_no_interval() {
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(11, 10), None);
    }

    proptest! {
        #[test]
        fn the_interval_contains_the_estimate_and_stays_in_bounds(
            n in 1u64..10_000_000, per_mille in 0u64..=1000,
        ) {
            let correct = n * per_mille / 1000;
            let [low, high] = wilson(correct, n).unwrap();
            let share = correct as f64 / n as f64;
            prop_assert!((0.0..=share).contains(&low) && (share..=1.0).contains(&high));
            prop_assert!(low < high);
        }

        #[test]
        fn the_interval_mirrors_when_right_and_wrong_are_exchanged(n in 1u64..5000, k in 0u64..5000) {
            let k = k.min(n);
            let [low, high] = wilson(k, n).unwrap();
            let [mirrored_low, mirrored_high] = wilson(n - k, n).unwrap();
            prop_assert!((low - (1.0 - mirrored_high)).abs() < 1e-12);
            prop_assert!((high - (1.0 - mirrored_low)).abs() < 1e-12);
        }
    }
}

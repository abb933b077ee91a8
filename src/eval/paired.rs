//! Two policies on the same problems: the exact McNemar test.
//!
//! Source: Q. McNemar, "Note on the sampling error of the difference between correlated
//! proportions or percentages", 1947, in its exact (binomial) form. Only problems on which
//! the two disagree carry information; if neither is better, each disagreement is a fair coin.

use serde::{Deserialize, Serialize};

/// A paired comparison, as the `paired` object of `tla eval --json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Two-sided exact McNemar p-value: how often a fair coin would be at least this lopsided.
    pub p: f64,
    /// Problems the baseline got wrong and this policy got right.
    pub gained: u64,
    /// Problems the baseline got right and this policy got wrong.
    pub lost: u64,
}

impl Paired {
    /// The comparison with `gained` and `lost` disagreements.
    pub fn new(gained: u64, lost: u64) -> Self {
        Self { p: mcnemar(gained, lost), gained, lost }
    }
}

/// The two-sided exact McNemar p-value of `gained` against `lost` disagreements:
/// `min(1, 2·Σ_{k ≤ min} C(n, k) / 2ⁿ)` with `n = gained + lost`; 1 when there are none.
///
/// The sum is taken relative to its largest term, so nothing overflows; a p-value below the
/// smallest f64 becomes 0.
pub fn mcnemar(gained: u64, lost: u64) -> f64 {
    let few = gained.min(lost);
    let many = gained.max(lost);
    if few == many {
        return 1.0;
    }
    // Σ_{k ≤ few} C(n, k) / C(n, few), from the largest term down.
    let mut term = 1.0;
    let mut sum = 1.0;
    for k in (1..=few).rev() {
        // C(n, k−1) / C(n, k) = k / (n − k + 1), and n − k + 1 = many + (few − k) + 1.
        term *= k as f64 / (many as f64 + (few - k) as f64 + 1.0);
        sum += term;
        if term < sum * f64::EPSILON / 4.0 {
            break;
        }
    }
    (2.0 * sum * largest_term(few, many)).min(1.0)
}

/// `C(few + many, few) / 2^(few + many)`, halving as the product grows so that it stays near 1.
fn largest_term(few: u64, many: u64) -> f64 {
    let mut halvings = few.saturating_add(many);
    let mut product = 1.0f64;
    for i in 1..=few {
        product = product * (many as f64 + i as f64) / i as f64;
        while product > 1.0 && halvings > 0 {
            product *= 0.5;
            halvings -= 1;
        }
    }
    while halvings > 0 && product > 0.0 {
        let chunk = halvings.min(1000);
        product *= 0.5f64.powi(chunk as i32);
        halvings -= chunk;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_p_values_are_reproduced() {
        assert_eq!(mcnemar(10, 2), 0.038_574_218_75);
        assert_eq!(mcnemar(5, 0), 0.0625);
        assert_eq!(mcnemar(1, 0), 1.0);
        assert_eq!(mcnemar(3, 1), 0.625);
    }

    #[test]
    fn without_disagreement_there_is_no_evidence() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(7, 7), 1.0);
    }

    #[test]
    fn large_counts_neither_overflow_nor_lose_the_value() {
        // 100 000 coins, 2.53 standard deviations off: the continuity-corrected normal value.
        let p = mcnemar(50_400, 49_600);
        assert!((p - 0.011_51).abs() < 2e-5, "{p}");
        assert_eq!(mcnemar(1_000_000, 0), 0.0);
        assert!((mcnemar(1000, 0) - 2f64.powi(-999)).abs() < 1e-315);
    }

    /// The sum as written, for counts whose binomials fit 128 bits.
    fn by_definition(gained: u64, lost: u64) -> f64 {
        let n = gained + lost;
        let mut binomial = 1u128;
        let mut sum = 0u128;
        for k in 0..=gained.min(lost) {
            sum += binomial;
            binomial = binomial * u128::from(n - k) / u128::from(k + 1);
        }
        (2.0 * sum as f64 / 2f64.powi(n as i32)).min(1.0)
    }

    proptest! {
        #[test]
        fn the_scaled_sum_equals_the_definition(gained in 0u64..60, lost in 0u64..60) {
            let expected = by_definition(gained, lost);
            prop_assert!((mcnemar(gained, lost) - expected).abs() <= expected * 1e-13);
        }

        #[test]
        fn direction_does_not_matter(gained in 0u64..5000, lost in 0u64..5000) {
            prop_assert_eq!(mcnemar(gained, lost), mcnemar(lost, gained));
            prop_assert!((0.0..=1.0).contains(&mcnemar(gained, lost)));
        }
    }
}

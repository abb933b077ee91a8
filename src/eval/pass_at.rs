//! pass@k: how likely one of k answers is right.
//!
//! Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1: with c
//! of n sampled answers right, `1 − C(n−c, k) / C(n, k)` is an unbiased estimate for one problem.

use serde::{Deserialize, Serialize};

/// pass@k over a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PassAt {
    /// Answers of which one is to be right.
    pub k: u64,
    /// Mean of the estimates of all problems.
    pub value: f64,
    /// Its standard error: the estimates' deviation over √problems; 0 for one problem.
    pub error: f64,
}

impl PassAt {
    /// From the number of right answers to each problem, of `n` sampled to each. `None` without a
    /// problem, or if k is 0 or above n, or more answers are right than there are.
    pub fn of(right: &[u64], n: u64, k: u64) -> Option<Self> {
        let estimates = right.iter().map(|c| pass_at(n, *c, k)).collect::<Option<Vec<f64>>>()?;
        let count = estimates.len() as f64;
        if estimates.is_empty() {
            return None;
        }
        let value = estimates.iter().sum::<f64>() / count;
        let squares: f64 = estimates.iter().map(|x| (x - value) * (x - value)).sum();
        let error = if count > 1.0 { (squares / (count - 1.0) / count).sqrt() } else { 0.0 };
        Some(Self { k, value, error })
    }
}

/// The estimate for one problem, `1 − C(n−c, k) / C(n, k)`, as a product of k factors of at most 1.
pub fn pass_at(n: u64, c: u64, k: u64) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    // C(n−c, k) / C(n, k) = Π over i < k of (n−c−i) / (n−i).
    let missed: f64 = (0..k).map(|i| (n - c - i) as f64 / (n - i) as f64).product();
    Some(1.0 - missed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values_are_reproduced() {
        assert_eq!(pass_at(5, 2, 1), Some(0.4));
        assert_eq!(pass_at(4, 1, 2), Some(0.5));
        assert_eq!(pass_at(10, 0, 10), Some(0.0));
        assert_eq!(pass_at(10, 1, 10), Some(1.0));
        // 1 − C(97, 10) / C(100, 10).
        assert!((pass_at(100, 3, 10).unwrap() - 0.273_469_4).abs() < 1e-6);
        let all = PassAt::of(&[0, 4, 2, 2], 4, 1).unwrap();
        assert_eq!((all.k, all.value), (1, 0.5));
        assert!((all.error - (0.5f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_estimated_is_nothing() {
        assert_eq!((pass_at(4, 1, 0), pass_at(4, 1, 5), pass_at(4, 5, 1)), (None, None, None));
        assert_eq!(PassAt::of(&[], 4, 1), None);
    }

    proptest! {
        /// The mean over all samples of c right answers is what is estimated.
        #[test]
        fn the_estimate_is_the_share_of_subsets_with_a_right_answer(n in 1u64..10, c in 0u64..10, k in 1u64..10) {
            let (c, k) = (c.min(n), k.min(n));
            let subsets = (0u64..1 << n).filter(|s| u64::from(s.count_ones()) == k);
            let (mut all, mut hit) = (0u64, 0u64);
            for subset in subsets {
                all += 1;
                hit += u64::from(subset & ((1 << c) - 1) != 0);
            }
            prop_assert!((pass_at(n, c, k).unwrap() - hit as f64 / all as f64).abs() < 1e-12);
        }
    }
}

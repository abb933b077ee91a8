//! What a batch and an update were like, in numbers for the journal.

use super::{
    explore::{Batch, Group},
    journal::{Step, Update},
    score::Score,
};
use crate::train::batch::MicroBatch;

/// What a step's answers were like, before any update.
pub fn summary(step: u64, batch: &Batch) -> Step {
    let groups = &batch.groups;
    let completions: Vec<_> = groups.iter().flat_map(|g| &g.completions).collect();
    let rewards: Vec<f64> = groups.iter().flat_map(|g| &g.rewards).copied().collect();
    let tokens: usize = completions.iter().map(|c| c.tokens.len()).sum();
    let entropy = completions.iter().map(|c| c.entropy).sum::<f64>();
    let each = 1.0 / completions.len().max(1) as f64;
    // Where nothing was sampled there are no rewards, and nothing could be cut or uncertain.
    let sampled = !rewards.is_empty();
    Step {
        step,
        rollout_seconds: batch.rollout.as_secs_f64(),
        reward_seconds: batch.reward.as_secs_f64(),
        reward_mean: sampled.then(|| rewards.iter().sum::<f64>() * each),
        groups: groups.len() as u64,
        groups_without_variance: groups.iter().filter(|g| g.advantages.is_none()).count() as u64,
        tokens: tokens as u64,
        completion_length_mean: tokens as f64 * each,
        cut_share: sampled.then_some(cut_in(groups) as f64 * each),
        entropy_mean: sampled.then_some(entropy / tokens.max(1) as f64),
        ..Step::default()
    }
}

/// How many answers were cut at the longest length.
pub fn cut_in(groups: &[Group]) -> u64 {
    let sampled = groups.iter().filter(|g| !g.rewards.is_empty());
    sampled.flat_map(|g| &g.completions).filter(|c| !c.stopped).count() as u64
}

/// What a step's answers were worth, problem by problem; `None` where they have no worth.
pub fn score(groups: &[Group]) -> Option<Score> {
    let mean = |g: &Group| g.rewards.iter().sum::<f64>() / g.rewards.len() as f64;
    let judged = groups.iter().filter(|g| !g.rewards.is_empty());
    Score::of(&judged.map(mean).collect::<Vec<_>>())
}

/// How the probabilities of sampled tokens have changed since they were sampled; sums over the
/// tokens of an update, which weigh as they do in the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ratios {
    weight: f64,
    sum: f64,
    max: f64,
    clipped: f64,
    drift: f64,
    divergence: f64,
    gap: f64,
}

impl Ratios {
    /// Takes in a micro-batch: `now` holds each token's log-probability, `base` the base's, and
    /// ratios are clipped to 1 − `low` and 1 + `high`.
    pub fn add(&mut self, batch: &MicroBatch, now: &[f32], base: &[f32], low: f32, high: f32) {
        let then = batch.sampled_logprobs.iter().zip(&batch.advantages).zip(&batch.weights);
        for ((now, base), ((then, advantage), weight)) in now.iter().zip(base).zip(then) {
            let (gain, weight) = (f64::from(*now) - f64::from(*then), f64::from(*weight));
            let ratio = gain.exp();
            self.weight += weight;
            self.sum += weight * ratio;
            self.max = self.max.max(ratio);
            let pushed_out = match *advantage {
                a if a > 0.0 => ratio > 1.0 + f64::from(high),
                a if a < 0.0 => ratio < 1.0 - f64::from(low),
                _ => false,
            };
            self.clipped += if pushed_out { weight } else { 0.0 };
            // Both estimates are never negative (Schulman, "Approximating KL divergence", 2020).
            self.drift += weight * (ratio - 1.0 - gain);
            let from_base = f64::from(*base) - f64::from(*now);
            self.divergence += weight * (from_base.exp() - 1.0 - from_base);
            self.gap = self.gap.max(gain.abs());
        }
    }

    /// Largest |log-probability now − log-probability when sampled|.
    pub fn gap(&self) -> f64 {
        self.gap
    }

    /// As a part of a journal line; with the divergence from the base if that was `measured`.
    pub fn describe(&self, loss: f64, grad_norm: f64, measured: bool) -> Update {
        let sampled = self.weight > 0.0;
        let each = if sampled { 1.0 / self.weight } else { 0.0 };
        Update {
            loss,
            grad_norm,
            ratio_mean: sampled.then_some(self.sum * each),
            ratio_max: sampled.then_some(self.max),
            clipped_share: sampled.then_some(self.clipped * each),
            drift: sampled.then_some(self.drift * each),
            kl: (sampled && measured).then_some(self.divergence * each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rollout::Completion;
    use std::time::Duration;

    fn group(rewards: &[f64], advantages: Option<Vec<f64>>) -> Group {
        let completion = |tokens: usize| Completion {
            tokens: vec![1; tokens],
            logprobs: vec![-0.5; tokens],
            stopped: tokens < 3,
            entropy: 0.25 * tokens as f64,
        };
        Group {
            prompt: vec![1],
            completions: vec![completion(1), completion(3)],
            texts: vec![String::new(); 2],
            rewards: rewards.to_vec(),
            advantages,
        }
    }

    #[test]
    fn a_batch_is_summed_up() {
        let groups = vec![group(&[1.0, 0.0], Some(vec![1.0, -1.0])), group(&[1.0, 1.0], None)];
        let (rollout, reward) = (Duration::from_millis(500), Duration::from_millis(250));
        let found = summary(3, &Batch { groups: groups.clone(), rollout, reward });
        assert_eq!((found.step, found.groups, found.groups_without_variance), (3, 2, 1));
        assert_eq!((found.tokens, found.completion_length_mean), (8, 2.0));
        assert_eq!((found.reward_mean, found.cut_share), (Some(0.75), Some(0.5)));
        assert_eq!((found.entropy_mean, found.rollout_seconds), (Some(0.25), 0.5));
        let score = score(&groups).unwrap();
        assert_eq!((score.mean, score.problems, score.spread), (0.75, 2, Some(0.125)));
    }

    #[test]
    fn solutions_have_neither_rewards_nor_entropy() {
        let groups = vec![group(&[], Some(vec![1.0]))];
        assert_eq!(score(&groups), None);
        let found = summary(1, &Batch { groups, rollout: Duration::ZERO, reward: Duration::ZERO });
        assert_eq!((found.reward_mean, found.cut_share, found.entropy_mean), (None, None, None));
        assert_eq!(found.groups_without_variance, 0);
    }

    #[test]
    fn ratios_are_clipped_only_where_they_went_the_way_they_were_pushed() {
        let batch = MicroBatch {
            sampled_logprobs: vec![-1.0; 4],
            advantages: vec![1.0, 1.0, -1.0, -1.0],
            weights: vec![0.125; 4],
            ..MicroBatch::default()
        };
        let (up, down) = (-0.5f32, -2.0f32);
        let mut ratios = Ratios::default();
        ratios.add(&batch, &[up, down, up, down], &[-1.0; 4], 0.2, 0.2);
        let found = ratios.describe(0.0, 0.0, true);
        assert_eq!(found.clipped_share, Some(0.5));
        let (high, low) = (0.5f64.exp(), (-1f64).exp());
        assert!((found.ratio_mean.unwrap() - (high + low) / 2.0).abs() < 1e-12);
        assert!((found.ratio_max.unwrap() - high).abs() < 1e-12);
        assert_eq!(ratios.gap(), 1.0);
        // e^0.5 − 1 − 0.5 and e^−1 − 1 + 1, and for the base the same with the other sign.
        assert!((found.drift.unwrap() - (high - 1.5 + low) / 2.0).abs() < 1e-12);
        let kl = ((-0.5f64).exp() - 0.5 + 1f64.exp() - 2.0) / 2.0;
        assert!((found.kl.unwrap() - kl).abs() < 1e-12);
        assert_eq!(ratios.describe(0.0, 0.0, false).kl, None);
        assert_eq!(Ratios::default().describe(0.0, 0.0, true).ratio_mean, None);
    }
}

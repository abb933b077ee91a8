//! How often the guard takes chance for a fall, and how soon it finds a real one, in simulated runs.
//!
//! A problem is solved with a probability of its own, drawn from Beta(p, 1 − p): most are nearly
//! always or nearly never solved, as a model's problems are. Some answers to it are drawn with that
//! probability, and it is worth the share of them that is right.

use super::{
    adam::{Adam, AdamSettings},
    guard::{Guard, Rules},
    score::{Example, Score},
};

/// A seeded generator (SplitMix64).
struct Draws(u64);

impl Draws {
    /// A number in (0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 12) as f64 / (1u64 << 52) as f64 + 2f64.powi(-53)
    }

    /// From Beta(mean, 1 − mean), by Jöhnk's method.
    fn chance(&mut self, mean: f64) -> f64 {
        loop {
            let solved = self.uniform().powf(1.0 / mean);
            let sum = solved + self.uniform().powf(1.0 / (1.0 - mean));
            if sum > 0.0 && sum <= 1.0 {
                return solved / sum;
            }
        }
    }

    /// What a problem is worth of which so many answers are sampled.
    fn worth(&mut self, rate: f64, answers: usize) -> f64 {
        let chance = self.chance(rate);
        (0..answers).filter(|_| self.uniform() < chance).count() as f64 / answers as f64
    }

    /// Steps of so many problems, at the rates of success given.
    fn run(
        mut self,
        problems: usize,
        answers: usize,
        rates: impl Iterator<Item = f64>,
    ) -> impl Iterator<Item = Score> {
        rates.map(move |rate| {
            let worths: Vec<f64> = (0..problems).map(|_| self.worth(rate, answers)).collect();
            Score::of(&worths).unwrap()
        })
    }
}

/// A drop that explains nothing: what is left is chance alone, as with rewards of a large scale.
const NONE: f64 = 1e-9;
/// The default.
const DROP: f64 = 0.2;
const RUNS: u64 = 60;
/// 5 in 100.
const FEW: usize = 3;
const ALMOST_ALL: usize = 57;

/// The first step that is a fall.
fn fall(scores: impl Iterator<Item = Score>, drop: f64) -> Option<u64> {
    let rules = Rules { drop: Some(drop), patience: None, target: None };
    let adam = Adam::new(vec![0.0], AdamSettings::new(0.1)).unwrap();
    let mut guard = Guard::default();
    (1..)
        .zip(scores)
        .find_map(|(n, score)| guard.observe(n, score, (&adam, n - 1), &rules).map(|_| n))
}

/// In how many runs there is a fall within these steps, and no earlier one.
fn found(within: std::ops::RangeInclusive<u64>, fall: impl Fn(u64) -> Option<u64>) -> usize {
    (0..RUNS).filter(|run| fall(*run).is_some_and(|n| within.contains(&n))).count()
}

/// A rate of 0.6 for 60 steps that falls to 0.1 within 5.
fn collapse() -> impl Iterator<Item = f64> {
    (1..).map(|n: u32| (0.6 - 0.1 * f64::from(n.saturating_sub(60))).max(0.1))
}

#[test]
fn while_the_rate_stays_few_runs_seem_to_fall_however_few_their_problems() {
    for problems in [1, 2, 3, 4, 8, 24] {
        for (answers, rate) in [4, 8].into_iter().flat_map(|n| [0.1, 0.5, 0.9].map(|r| (n, r))) {
            let constant = || (0..400).map(|_| rate);
            let seen =
                found(1..=400, |run| fall(Draws(run).run(problems, answers, constant()), NONE));
            assert!(seen <= FEW, "{problems} problems, {answers} answers, rate {rate}: {seen}");
        }
    }
}

#[test]
fn while_the_rate_rises_few_runs_seem_to_fall() {
    for problems in [1, 2, 4, 24] {
        let rise = || (0..400).map(|n| 0.1 + 0.8 * f64::from(n) / 400.0);
        let seen = found(1..=400, |run| fall(Draws(run).run(problems, 4, rise()), NONE));
        assert!(seen <= FEW, "{problems}: {seen}");
    }
}

#[test]
fn a_collapse_is_found_the_sooner_the_more_problems_there_are() {
    for (problems, within) in [(1, 60), (2, 30), (3, 20), (4, 15), (8, 10), (24, 7)] {
        let fall = |run| fall(Draws(run).run(problems, 8, collapse().take(160)), DROP);
        let seen = found(61..=60 + within, fall);
        assert!(seen >= ALMOST_ALL, "{problems}: {seen}");
    }
}

#[test]
fn the_scale_of_a_reward_does_not_matter() {
    for (problems, scale) in [(1, 1024.0), (2, 1024.0), (4, 1.0 / 1024.0), (24, 1024.0)] {
        for run in 0..20 {
            let scores = || Draws(run).run(problems, 4, collapse().take(160));
            let scaled = scores().map(|s| Score {
                mean: s.mean * scale,
                spread: s.spread.map(|spread| spread * scale * scale),
                ..s
            });
            assert_eq!(fall(scores(), DROP), fall(scaled, DROP * scale), "{problems}, run {run}");
        }
    }
}

/// The losses of examples of all lengths, around a mean, as the score of a step.
fn losses(draws: &mut Draws, examples: usize, mean: f64) -> Score {
    let lengths: Vec<f64> = (0..examples).map(|_| 1.0 + (20.0 * draws.uniform()).floor()).collect();
    let all: f64 = lengths.iter().sum();
    let examples: Vec<Example> = lengths
        .iter()
        .map(|length| {
            let share = length / all;
            Example { share, loss: mean * (0.5 + draws.uniform()) * share }
        })
        .collect();
    Score::of_loss(examples.iter().map(|e| e.loss).sum(), &examples).unwrap()
}

#[test]
fn losses_that_fall_are_no_fall_of_the_score_and_losses_that_grow_are() {
    for (examples, within) in [(1, 60), (4, 30), (16, 12)] {
        let fall = |run, mean: fn(u32) -> f64| {
            let mut draws = Draws(run);
            fall((0..400).map(|n| losses(&mut draws, examples, mean(n))), NONE)
        };
        let calm = |n| 1.0 + 2.0 * f64::exp(-f64::from(n) / 50.0);
        let seen = found(1..=400, |run| fall(run, calm));
        assert!(seen <= FEW, "{examples}: {seen}");
        let seen = found(61..=60 + within, |run| fall(run, |n| if n < 60 { 1.0 } else { 2.0 }));
        assert!(seen >= ALMOST_ALL, "{examples}: {seen}");
    }
}

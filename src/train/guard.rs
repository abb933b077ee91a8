//! The guard against collapse: the best state is kept, and gone back to when the run falls.
//!
//! What is watched is an exponential moving average of the mean reward of a step (of −loss where
//! there is no reward). A step's reward is that of the v its answers were sampled with, so the
//! state kept as the best is the one before that step's updates. A run that falls below its best
//! average by more than [`Rules::drop`], and by more than the spread of the rewards explains, gets
//! v and optimiser of the best back and half the learning rate; a rate that is too large for one
//! part of a run need not end it.
//!
//! At the end the last state ships, unless the average ended more than half of `drop` below the
//! best, and by more than chance explains: then the best ships.

use serde::{Deserialize, Serialize};

use super::adam::Adam;

/// Share of the past in the average.
const KEPT: f64 = 0.8;
/// Standard errors of the difference of two averages that chance is given.
const CHANCE: f64 = 3.0;
/// Steps the average must have seen before it is good enough.
const SETTLED: u64 = 5;

/// When to go back and when to stop. Those that only say when to stop may change when a run
/// resumes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Going back: how far the average may fall below its best. `None` never goes back.
    pub drop: Option<f64>,
    /// Stopping: steps without a better average.
    pub patience: Option<u64>,
    /// Stopping: the average that is good enough.
    pub target: Option<f64>,
}

/// What the guard has seen; part of the state a run resumes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Weighted sum of the scores; over `weight` it is the average, without bias towards 0.
    sum: f64,
    weight: f64,
    /// Variance of `sum`.
    variance: f64,
    seen: u64,
    factor: f64,
    best: Option<Best>,
}

/// The best state so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The step whose answers it gave.
    pub step: u64,
    /// The average then.
    pub average: f64,
    /// The variance of that average.
    variance: f64,
    /// v and optimiser before that step's updates.
    pub adam: Adam,
}

/// The score of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The mean over the step's problems.
    pub mean: f64,
    /// The variance of that mean, from the spread of the problems. 0 where it is not known.
    pub variance: f64,
}

impl Score {
    /// From what each problem was worth; the variance is infinite for a single one. `None` for
    /// nothing.
    pub fn of(worths: &[f64]) -> Option<Self> {
        let n = worths.len() as f64;
        let mean = worths.iter().sum::<f64>() / n;
        let spread = worths.iter().map(|w| (w - mean) * (w - mean)).sum::<f64>();
        match worths.len() {
            0 => None,
            1 => Some(Self { mean, variance: f64::MAX }),
            _ => Some(Self { mean, variance: spread / (n - 1.0) / n }),
        }
    }
}

/// A fall, and the state to go back to.
#[derive(Debug, Clone, PartialEq)]
pub struct Fall {
    /// The average it has fallen to.
    pub fallen_to: f64,
    /// The best average.
    pub average: f64,
    /// The step whose answers were the best.
    pub step: u64,
    /// v and optimiser before that step's updates.
    pub adam: Adam,
}

/// Why a run makes no more steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// The average has not been better for as long as was allowed.
    OutOfPatience,
    /// The average is good enough.
    OnTarget,
}

impl Ending {
    /// Its name in a journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::OutOfPatience => "patience",
            Self::OnTarget => "target",
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self { sum: 0.0, weight: 0.0, variance: 0.0, seen: 0, factor: 1.0, best: None }
    }
}

impl Guard {
    /// The average; nothing before the first score.
    pub fn average(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// What the scheduled learning rate is multiplied with.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Takes the score of step `step`, whose answers `adam` gave; says if it is a fall.
    pub fn observe(&mut self, step: u64, score: Score, adam: &Adam, rules: &Rules) -> Option<Fall> {
        self.sum = KEPT * self.sum + (1.0 - KEPT) * score.mean;
        self.weight = KEPT * self.weight + (1.0 - KEPT);
        let variance = KEPT * KEPT * self.variance + (1.0 - KEPT) * (1.0 - KEPT) * score.variance;
        self.variance = variance.min(f64::MAX);
        self.seen += 1;
        let average = self.sum / self.weight;
        if self.best.as_ref().is_none_or(|best| average > best.average) {
            let variance = self.variance_of_average();
            self.best = Some(Best { step, average, variance, adam: adam.clone() });
        }
        let best = self.best.as_ref()?;
        if average >= best.average - rules.drop?.max(self.chance(best)) {
            return None;
        }
        let Best { step, adam, .. } = best.clone();
        let fall = Fall { fallen_to: average, average: best.average, step, adam };
        self.factor *= 0.5;
        // The average starts again from where the restored state was.
        (self.sum, self.weight, self.variance) = (best.average, 1.0, best.variance);
        Some(fall)
    }

    /// Whether the run is to end after `step` steps.
    pub fn ending(&self, step: u64, rules: &Rules) -> Option<Ending> {
        let (best, average) = (self.best.as_ref()?, self.average()?);
        if self.seen >= SETTLED && rules.target.is_some_and(|target| average >= target) {
            return Some(Ending::OnTarget);
        }
        let waited = step.saturating_sub(best.step);
        rules.patience.is_some_and(|patience| waited >= patience).then_some(Ending::OutOfPatience)
    }

    /// The state to ship in place of the last one, if that ended too low.
    pub fn better_than_last(&self, rules: &Rules) -> Option<&Best> {
        let (best, average, drop) = (self.best.as_ref()?, self.average()?, rules.drop?);
        (average < best.average - (drop / 2.0).max(self.chance(best))).then_some(best)
    }

    fn variance_of_average(&self) -> f64 {
        (self.variance / (self.weight * self.weight)).min(f64::MAX)
    }

    /// How far the average may lie below `best` by chance.
    fn chance(&self, best: &Best) -> f64 {
        CHANCE * (self.variance_of_average() + best.variance).min(f64::MAX).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::adam::AdamSettings;

    const RULES: Rules = Rules { drop: Some(0.25), patience: None, target: None };

    fn adam(v: f32) -> Adam {
        Adam::new(vec![v], AdamSettings::new(0.1)).unwrap()
    }

    fn exactly(mean: f64) -> Score {
        Score { mean, variance: 0.0 }
    }

    /// Scores of steps 1, 2, …; the state before step n holds n.
    fn watch(guard: &mut Guard, scores: &[f64], rules: &Rules) -> Vec<Option<Fall>> {
        let each = scores.iter().enumerate();
        each.map(|(at, score)| {
            guard.observe(at as u64 + 1, exactly(*score), &adam(at as f32 + 1.0), rules)
        })
        .collect()
    }

    #[test]
    fn a_rising_run_goes_on_and_ships_its_last_state() {
        let mut guard = Guard::default();
        let scores: Vec<f64> = (0..30).map(|i| f64::from(i) / 30.0).collect();
        assert!(watch(&mut guard, &scores, &RULES).iter().all(Option::is_none));
        assert_eq!(guard.better_than_last(&RULES), None);
        assert_eq!(guard.factor(), 1.0);
    }

    #[test]
    fn the_average_has_no_bias_towards_zero() {
        let mut guard = Guard::default();
        assert_eq!(guard.average(), None);
        watch(&mut guard, &[0.5, 0.5, 0.5], &RULES);
        assert!((guard.average().unwrap() - 0.5).abs() < 1e-15);
    }

    #[test]
    fn a_fall_brings_back_the_state_that_gave_the_best_answers_and_halves_the_rate() {
        let mut guard = Guard::default();
        let scores = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0];
        let verdicts = watch(&mut guard, &scores, &RULES);
        let fallen = verdicts.iter().position(Option::is_some).unwrap();
        let best = verdicts[fallen].as_ref().unwrap();
        assert!(best.step <= 8 && best.adam.v() == [best.step as f32], "{best:?}");
        // 0.5·0.8ⁿ·(1 − 0.8⁸)/(1 − 0.8⁸⁺ⁿ) has fallen by a quarter with the third zero.
        assert_eq!(fallen, 10);
        assert_eq!(guard.factor(), 0.5);
    }

    #[test]
    fn a_run_that_falls_at_once_gets_its_start_back() {
        let mut guard = Guard::default();
        let verdicts = watch(&mut guard, &[0.4, 0.0, 0.0, 0.0], &RULES);
        let best = verdicts.iter().flatten().next().unwrap();
        assert_eq!((best.step, best.adam.v()), (1, [1.0].as_slice()));
    }

    #[test]
    fn after_a_return_the_run_has_time_to_recover() {
        let mut guard = Guard::default();
        watch(&mut guard, &[0.5; 8], &RULES);
        let fallen: Vec<bool> =
            (9..30).map(|n| guard.observe(n, exactly(0.0), &adam(0.0), &RULES).is_some()).collect();
        let at: Vec<usize> = (0..fallen.len()).filter(|i| fallen[*i]).collect();
        assert!(at.windows(2).all(|w| w[1] - w[0] == 4), "{at:?}");
        assert!(at.len() >= 2, "{at:?}");
        assert_eq!(guard.factor(), 0.5f64.powi(at.len() as i32));
    }

    #[test]
    fn a_fall_that_the_spread_of_the_problems_explains_is_none() {
        let noisy = Score::of(&[0.0, 1.0, 1.0, 1.0]).unwrap();
        let low = Score::of(&[0.0, 0.0, 0.0, 1.0]).unwrap();
        let observe = |scores: &[Score]| {
            let mut guard = Guard::default();
            let each = scores.iter().enumerate();
            each.map(|(n, s)| guard.observe(n as u64, *s, &adam(0.0), &RULES)).collect::<Vec<_>>()
        };
        let verdicts = observe(&[[noisy].as_slice(), &[low; 4]].concat());
        assert!(verdicts.iter().all(Option::is_none), "{verdicts:?}");
        let alone = Score::of(&[1.0]).unwrap();
        let verdicts = observe(&[[alone].as_slice(), &[exactly(0.0); 9]].concat());
        assert!(verdicts.iter().all(Option::is_none), "{verdicts:?}");
        assert_eq!(Score::of(&[]), None);
    }

    #[test]
    fn without_a_drop_nothing_is_brought_back_and_the_last_state_ships() {
        let rules = Rules { drop: None, ..RULES };
        let mut guard = Guard::default();
        let scores = [[1.0; 8], [0.0; 8]].concat();
        assert!(watch(&mut guard, &scores, &rules).iter().all(Option::is_none));
        assert_eq!(guard.better_than_last(&rules), None);
    }

    #[test]
    fn a_run_that_ended_lower_ships_its_best_state() {
        let mut guard = Guard::default();
        watch(&mut guard, &[[0.5; 8].as_slice(), &[0.0; 2]].concat(), &RULES);
        let best = guard.better_than_last(&RULES).unwrap();
        assert!(best.step <= 8, "{best:?}");
    }

    /// The step after which the run ends.
    fn ended(scores: &[f64], rules: &Rules) -> Option<(u64, Ending)> {
        let mut guard = Guard::default();
        (1..).zip(scores).find_map(|(step, score)| {
            guard.observe(step, exactly(*score), &adam(0.0), rules);
            Some((step, guard.ending(step, rules)?))
        })
    }

    #[test]
    fn patience_ends_with_steps_that_bring_nothing_better() {
        let rules = Rules { patience: Some(6), ..RULES };
        let scores = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6].as_slice(), &[0.3; 8]].concat();
        assert_eq!(ended(&scores, &rules), Some((12, Ending::OutOfPatience)));
        assert_eq!(ended(&scores, &RULES), None);
    }

    #[test]
    fn a_target_is_reached_by_the_average_and_not_by_one_step() {
        let rules = Rules { target: Some(0.75), ..RULES };
        assert_eq!(ended(&[0.6, 0.7, 1.0, 0.6, 0.7], &rules), None);
        assert_eq!(ended(&[0.8; 6], &rules), Some((5, Ending::OnTarget)));
    }

    #[test]
    fn it_is_the_same_after_it_was_written_and_read() {
        let mut guard = Guard::default();
        watch(&mut guard, &[0.1, 1.0 / 3.0, 0.7, 0.2, 0.9, 0.1], &RULES);
        let text = serde_json::to_string(&guard).unwrap();
        assert_eq!(serde_json::from_str::<Guard>(&text).unwrap(), guard);
    }
}

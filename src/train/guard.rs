//! The guard against collapse: the best state is kept, and gone back to when the run falls.
//!
//! What is watched is an exponential moving average of the mean reward of a step (of −loss where
//! there is no reward). A step's reward is that of the v its answers were sampled with, so the
//! state kept as the best is the one before that step's updates. A run that falls below its best
//! average by more than [`Rules::drop`], and by more than chance explains, gets v and optimiser of
//! the best back and half the learning rate; a rate that is too large for one part of a run need not
//! end it.
//!
//! Chance is three standard errors of the difference of the two averages. How far chance moves a
//! step is told by the spread of its problems' mean rewards, or of its examples' losses where there
//! is no reward ([`Score`]): both differ from step to step because other problems are taken. A step
//! of a single problem has no spread of its own and is given that of the scores of the run so far
//! ([`Spread`]). It says so little that its average takes in more steps, counts as the best only when
//! it has, and is allowed 4.5 standard errors: of runs of 400 such steps, each solved or not with
//! one probability throughout, less than 4 in 100 then seem to fall, and a run in which every second
//! problem was solved and none is any more is noticed after some 25 steps.
//!
//! At the end the last state ships, unless the average ended more than half of `drop` below the
//! best, and by more than chance explains: then the best ships.

use serde::{Deserialize, Serialize};

use super::{
    adam::Adam,
    score::{Score, Spread},
};

/// Share of the past in the average.
const KEPT: f64 = 0.8;
/// The same where steps have a single problem.
const KEPT_ALONE: f64 = 0.95;
/// Standard errors of the difference of two averages that chance is given.
const CHANCE: f64 = 3.0;
/// The same where steps have a single problem.
const CHANCE_ALONE: f64 = 4.5;
/// The variance of an average of single problems, in that of one, from which on it may be the best.
const SETTLED_ALONE: f64 = 0.1;
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
    /// Variance of `sum`, as far as the scores know theirs.
    variance: f64,
    /// The sum of the squared weights of those that do not.
    unknown: f64,
    spread: Spread,
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
    /// The variance of that average, as far as it was known.
    variance: f64,
    /// The squared weights of the scores with an unknown one.
    unknown: f64,
    /// v and optimiser before that step's updates.
    pub adam: Adam,
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
        Self {
            sum: 0.0,
            weight: 0.0,
            variance: 0.0,
            unknown: 0.0,
            spread: Spread::default(),
            seen: 0,
            factor: 1.0,
            best: None,
        }
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
        let (kept, known, unknown) = match score.variance {
            Some(variance) => (KEPT, variance, 0.0),
            None => (KEPT_ALONE, 0.0, 1.0),
        };
        self.sum = kept * self.sum + (1.0 - kept) * score.mean;
        self.weight = kept * self.weight + (1.0 - kept);
        let with = |past: f64, now| kept * kept * past + (1.0 - kept) * (1.0 - kept) * now;
        self.variance = with(self.variance, known);
        self.unknown = with(self.unknown, unknown);
        self.spread.add(score.mean);
        self.seen += 1;
        let average = self.sum / self.weight;
        let (variance, unknown) = self.of_average();
        let better = self.best.as_ref().is_none_or(|best| average > best.average);
        if better && unknown <= SETTLED_ALONE {
            self.best = Some(Best { step, average, variance, unknown, adam: adam.clone() });
        }
        let best = self.best.as_ref()?;
        if average >= best.average - rules.drop?.max(self.chance(best)) {
            return None;
        }
        let Best { step, adam, .. } = best.clone();
        let fall = Fall { fallen_to: average, average: best.average, step, adam };
        self.factor *= 0.5;
        // The average starts again from where the restored state was.
        (self.sum, self.weight) = (best.average, 1.0);
        (self.variance, self.unknown) = (best.variance, best.unknown);
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

    /// `variance` and `unknown` of the average.
    fn of_average(&self) -> (f64, f64) {
        let square = self.weight * self.weight;
        (self.variance / square, self.unknown / square)
    }

    /// How far the average may lie below `best` by chance; without end where that is not known.
    fn chance(&self, best: &Best) -> f64 {
        let (variance, unknown) = self.of_average();
        let (known, unknown) = (variance + best.variance, unknown + best.unknown);
        match self.spread.variance() {
            _ if unknown == 0.0 => CHANCE * known.sqrt(),
            Some(spread) => CHANCE_ALONE * (known + unknown * spread).sqrt(),
            None => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::sampling::uniform,
        train::{adam::AdamSettings, score::Example},
    };

    const RULES: Rules = Rules { drop: Some(0.25), patience: None, target: None };

    fn adam(v: f32) -> Adam {
        Adam::new(vec![v], AdamSettings::new(0.1)).unwrap()
    }

    fn exactly(mean: f64) -> Score {
        Score { mean, variance: Some(0.0) }
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
    }

    #[test]
    fn a_rise_of_the_loss_that_the_spread_of_the_examples_explains_is_none() {
        let falls = |spread: f64| {
            let mut guard = Guard::default();
            let step = |loss: f64| {
                let example = |away: f64| Example { share: 0.25, loss: (loss + away) / 4.0 };
                Score::of_loss(loss, &[spread, -spread, spread, -spread].map(example))
            };
            (1..=8).any(|n| {
                let loss = if n == 1 { 1.0 } else { 1.5 };
                guard.observe(n, step(loss), &adam(0.0), &RULES).is_some()
            })
        };
        assert!(falls(0.01) && !falls(1.0));
    }

    /// The first of these steps of one problem each that is a fall.
    fn fall(scores: impl Iterator<Item = f64>) -> Option<u64> {
        let mut guard = Guard::default();
        (1..).zip(scores).find_map(|(n, score)| {
            let score = Score::of(&[score]).unwrap();
            guard.observe(n, score, &adam(0.0), &RULES).map(|_| n)
        })
    }

    #[test]
    fn steps_of_one_problem_fall_only_below_what_their_history_explains() {
        let solved =
            |run: u64, n: u64, share: f64| f64::from(u8::from(uniform(run, 0, 0, n) < share));
        // Some problems are solved and some are not, as before.
        for share in [0.1, 0.5, 0.9] {
            let fallen = |run: &u64| fall((0..400).map(|n| solved(*run, n, share))).is_some();
            assert!((0..200).filter(fallen).count() <= 8, "{share}");
        }
        // None is any more.
        for (share, within) in [(0.5, 60), (0.9, 20)] {
            let noticed = |run: &u64| {
                let scores = (0..60).map(|n| solved(*run, n, share)).chain([0.0; 100]);
                fall(scores).is_some_and(|n| (61..=60 + within).contains(&n))
            };
            assert!((0..200).filter(noticed).count() >= 180, "{share}");
        }
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

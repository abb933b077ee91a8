//! The guard against collapse: the best state is kept, and gone back to when the run falls.
//!
//! What is watched is an exponential moving average of the mean reward of a step (of −loss where
//! there is no reward). A step's reward is that of the v its answers were sampled with, so the
//! state kept as the best is the one before that step's updates. A run that falls below its best
//! average by more than [`Rules::drop`], and by more than chance explains, gets v and optimiser of
//! the best back and half the learning rate; a rate that is too large for one part of a run need not
//! end it.
//!
//! Chance is told by the spread of the problems' mean rewards, or of the examples' losses where
//! there is no reward: steps differ because other problems are taken. With σ² the variance of a
//! problem, pooled over steps ([`Spread`]), and a and b the shares of it that are left in the average
//! now and in the best ([`Average`]), the difference of the two has the standard error
//!
//! s = σ·√(a + b).
//!
//! A fall is more than 5 of these errors (widened while σ² is known from little): not the 3 of a
//! single look, since the average is looked at after every step and compared with the highest there
//! ever was. All is in units of the scores, so that only `drop` depends on a reward's scale. The
//! tests of `guard_odds` hold what comes of it: whatever the number of problems a step, less than 5
//! in 100 runs of 400 steps seem to fall while the rate of success stays what it was, and a real
//! fall is found the sooner the more problems there are.
//!
//! The best is the average of the highest lower bound, 3 of its own standard errors below it: a
//! lucky first step is not better than a hundred good ones.
//!
//! At the end the last state ships, unless the average ended more than half of `drop` below the
//! best, and more than 3 standard errors, because here one looks once: then the best ships.

use serde::{Deserialize, Serialize};

use super::{adam::Adam, average::Average, score::Score, spread::Spread};

/// Standard errors of the difference of two averages that chance is given at every step.
const AT_EVERY_STEP: f64 = 5.0;
/// The same at the end.
const AT_THE_END: f64 = 3.0;
/// Standard errors an average may be too high by when it is compared with the best.
const TOO_HIGH: f64 = 3.0;
/// Steps the average must have seen before it is good enough,
const SETTLED: u64 = 5;
/// and the most that may be left in it of a problem's variance.
const SETTLED_SHARE: f64 = 0.1;

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
    average: Average,
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
    /// The variance of that average, in that of a problem.
    share: f64,
    /// v and optimiser before that step's updates.
    pub adam: Adam,
    /// The step after which they were so, 0 for the start: the one before, unless they were restored.
    pub as_after: u64,
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
    /// The step after which they were so, 0 for the start.
    pub as_after: u64,
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
        let (average, spread) = (Average::default(), Spread::default());
        Self { average, spread, seen: 0, factor: 1.0, best: None }
    }
}

impl Guard {
    /// The average; nothing before the first score.
    pub fn average(&self) -> Option<f64> {
        self.average.mean()
    }

    /// What the scheduled learning rate is multiplied with.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Takes the score of step `step`, whose answers `adam` gave, as it was after step `as_after`; says
    /// if it is a fall.
    pub fn observe(
        &mut self,
        step: u64,
        score: Score,
        (adam, as_after): (&Adam, u64),
        rules: &Rules,
    ) -> Option<Fall> {
        self.average.add(&score);
        self.spread.add(&score);
        self.seen += 1;
        let (average, share) = (self.average.mean()?, self.average.share());
        let spread = self.spread.variance().unwrap_or(0.0);
        let at_least = |average: f64, share: f64| average - TOO_HIGH * (share * spread).sqrt();
        let best = self.best.as_ref().map(|best| at_least(best.average, best.share));
        if best.is_none_or(|best| at_least(average, share) > best) {
            self.best = Some(Best { step, average, share, adam: adam.clone(), as_after });
        }
        let best = self.best.as_ref()?;
        if average >= best.average - rules.drop?.max(self.chance(best, AT_EVERY_STEP)) {
            return None;
        }
        let Best { step, adam, as_after, .. } = best.clone();
        let fall = Fall { fallen_to: average, average: best.average, step, adam, as_after };
        self.factor *= 0.5;
        // The average starts again from where the restored state was.
        self.average = Average::from(best.average, best.share);
        Some(fall)
    }

    /// Whether the run is to end after `step` steps.
    pub fn ending(&self, step: u64, rules: &Rules) -> Option<Ending> {
        let (best, average) = (self.best.as_ref()?, self.average()?);
        let settled = self.seen >= SETTLED && self.average.share() <= SETTLED_SHARE;
        if settled && rules.target.is_some_and(|target| average >= target) {
            return Some(Ending::OnTarget);
        }
        let waited = step.saturating_sub(best.step);
        rules.patience.is_some_and(|patience| waited >= patience).then_some(Ending::OutOfPatience)
    }

    /// The state to ship in place of the last one, if that ended too low.
    pub fn better_than_last(&self, rules: &Rules) -> Option<&Best> {
        let (best, average, drop) = (self.best.as_ref()?, self.average()?, rules.drop?);
        let low = (drop / 2.0).max(self.chance(best, AT_THE_END));
        (average < best.average - low).then_some(best)
    }

    /// How far the average may lie below `best` by chance, which is given so many standard errors;
    /// without end where that is not known.
    fn chance(&self, best: &Best, errors: f64) -> f64 {
        let Some(spread) = self.spread.variance() else { return f64::INFINITY };
        let shares = self.average.share() + best.share;
        self.spread.widened(errors) * (shares * spread).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{adam::AdamSettings, score::Example};

    const RULES: Rules = Rules { drop: Some(0.25), patience: None, target: None };

    fn adam(v: f32) -> Adam {
        Adam::new(vec![v], AdamSettings::new(0.1)).unwrap()
    }

    fn exactly(mean: f64) -> Score {
        Score { mean, problems: 24, spread: Some(0.0) }
    }

    /// Scores of steps 1, 2, …; the state before step n holds n.
    fn watch(guard: &mut Guard, scores: &[f64], rules: &Rules) -> Vec<Option<Fall>> {
        let each = scores.iter().enumerate();
        each.map(|(at, score)| {
            let state = adam(at as f32 + 1.0);
            guard.observe(at as u64 + 1, exactly(*score), (&state, at as u64), rules)
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
        let fallen: Vec<bool> = (9..30)
            .map(|n| guard.observe(n, exactly(0.0), (&adam(0.0), 0), &RULES).is_some())
            .collect();
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
            each.map(|(n, s)| guard.observe(n as u64, *s, (&adam(0.0), 0), &RULES))
                .collect::<Vec<_>>()
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
                Score::of_loss(loss, &[spread, -spread, spread, -spread].map(example)).unwrap()
            };
            (1..=8).any(|n| {
                let loss = if n == 1 { 1.0 } else { 1.5 };
                guard.observe(n, step(loss), (&adam(0.0), 0), &RULES).is_some()
            })
        };
        assert!(falls(0.01) && !falls(1.0));
    }

    #[test]
    fn a_lucky_first_step_is_not_the_best_for_ever() {
        let mut guard = Guard::default();
        let worths = [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]];
        for n in 0..40 {
            let score = Score::of(&worths[(n as usize).min(1 + n as usize % 2)]).unwrap();
            assert_eq!(guard.observe(n, score, (&adam(n as f32), 0), &RULES), None);
        }
        let best = guard.best.unwrap();
        assert!(best.step > 0 && best.average < 0.75, "{best:?}");
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
            guard.observe(step, exactly(*score), (&adam(0.0), 0), rules);
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

//! Groups that never vary: a run that learns nothing says so while it can still be stopped.

use serde::{Deserialize, Serialize};

use super::{
    cut::Cut,
    journal::{Step, Warning},
};

/// So many steps in a row without one group that varies are worth a word.
pub const MANY: u64 = 5;

/// Steps in which every group's answers were all worth the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flat {
    in_a_row: u64,
    /// The shares of their answers that were cut, added up.
    cut: f64,
    told: bool,
}

impl Flat {
    /// Takes in a step whose answers might have `max_tokens` tokens; what is to be said after it, once
    /// in a run.
    pub fn observe(&mut self, step: &Step, max_tokens: usize) -> Option<Warning> {
        let flat = step.groups > 0 && step.groups_without_variance == step.groups;
        let cut = step.cut_share.unwrap_or_default();
        (self.in_a_row, self.cut) = match flat {
            true => (self.in_a_row + 1, self.cut + cut),
            false => (0, 0.0),
        };
        if self.told || self.in_a_row < MANY {
            return None;
        }
        self.told = true;
        let reward = step.reward_mean.unwrap_or_default();
        let cut = Cut { share: self.cut / self.in_a_row as f64, max_tokens };
        let text = format!(
            "{cut}for {MANY} steps in a row all answers to each problem were worth the same (mean reward \
             {reward:.3} now), and no reward is learned from those. Raise --samples or --temperature, \
             or choose problems the model solves now and then"
        );
        Some(Warning { step: step.step, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64, flat: u64) -> Step {
        Step { step: number, groups: 4, groups_without_variance: flat, ..Step::default() }
    }

    #[test]
    fn five_wholly_flat_steps_in_a_row_are_told_of_once() {
        let mut flat = Flat::default();
        let groups = [4, 4, 4, 4, 3, 4, 4, 4, 4, 4, 4, 0, 4, 4, 4, 4, 4, 4];
        let told: Vec<Warning> =
            (1..).zip(groups).filter_map(|(n, g)| flat.observe(&step(n, g), 2)).collect();
        let [warning] = &told[..] else { panic!("{told:?}") };
        assert_eq!(warning.step, 10);
        assert!(warning.text.starts_with("for 5 steps"), "{}", warning.text);
        assert!(warning.text.contains("Raise --samples"), "{}", warning.text);
    }

    #[test]
    fn where_most_answers_were_cut_that_is_said_first() {
        let mut flat = Flat::default();
        let cut = [0.0, 1.0, 1.0, 0.5, 1.0];
        let told = (1..)
            .zip(cut)
            .find_map(|(n, cut)| flat.observe(&Step { cut_share: Some(cut), ..step(n, 4) }, 2));
        let text = told.unwrap().text;
        assert!(
            text.starts_with("70 % of the answers were cut at --max-tokens 2: raise"),
            "{text}"
        );
    }
}

//! Groups that never vary: a run that learns nothing says so while it can still be stopped.

use serde::{Deserialize, Serialize};

use super::journal::{Step, Warning};

/// So many steps in a row without one group that varies are worth a word.
pub const MANY: u64 = 5;

/// Steps in which every group's answers were all worth the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flat {
    in_a_row: u64,
    told: bool,
}

impl Flat {
    /// Takes in a step; what is to be said after it, once in a run.
    pub fn observe(&mut self, step: &Step) -> Option<Warning> {
        let flat = step.groups > 0 && step.groups_without_variance == step.groups;
        self.in_a_row = if flat { self.in_a_row + 1 } else { 0 };
        if self.told || self.in_a_row < MANY {
            return None;
        }
        self.told = true;
        let reward = step.reward_mean.unwrap_or_default();
        let text = format!(
            "for {MANY} steps in a row all answers to each problem were worth the same (mean reward \
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
            (1..).zip(groups).filter_map(|(n, g)| flat.observe(&step(n, g))).collect();
        let [warning] = &told[..] else { panic!("{told:?}") };
        assert_eq!(warning.step, 10);
        assert!(warning.text.contains("Raise --samples"), "{}", warning.text);
    }
}

//! What an evaluation says: accuracy, its interval, and the comparison with a baseline.

use serde::{Deserialize, Serialize};

use super::interval::wilson;
use super::paired::Paired;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportError {
    /// No problem was answered.
    #[error("no problem was evaluated. Give a dataset with at least one line")]
    Empty,
    /// Paired outcomes must be of the same problems.
    #[error(
        "the policy answered {policy} problems and the baseline {baseline}. \
         Evaluate both on the same dataset"
    )]
    Unpaired {
        /// Outcomes of the policy.
        policy: usize,
        /// Outcomes of the baseline.
        baseline: usize,
    },
}

/// The result of `tla eval`; serialised, it is the object `--json` prints.
///
/// `{"n": 200, "correct": 150, "accuracy": 0.75, "interval": [0.686, 0.805],
/// "paired": {"p": 0.012, "gained": 31, "lost": 13}}`; `paired` only with a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Problems evaluated, at least 1.
    pub n: u64,
    /// Problems answered correctly.
    pub correct: u64,
    /// `correct / n`.
    pub accuracy: f64,
    /// The Wilson 95 % interval of the accuracy, `[low, high]`.
    pub interval: [f64; 2],
    /// The comparison with the baseline on the same problems, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
}

impl EvalReport {
    /// The report of one policy: `outcomes[i]` says whether problem i was answered correctly.
    pub fn new(outcomes: &[bool]) -> Result<Self, ReportError> {
        let n = outcomes.len() as u64;
        let correct = outcomes.iter().filter(|right| **right).count() as u64;
        let interval = wilson(correct, n).ok_or(ReportError::Empty)?;
        Ok(Self { n, correct, accuracy: correct as f64 / n as f64, interval, paired: None })
    }

    /// The report of a policy compared with a `baseline` on the same problems in the same order.
    pub fn against(outcomes: &[bool], baseline: &[bool]) -> Result<Self, ReportError> {
        if outcomes.len() != baseline.len() {
            return Err(ReportError::Unpaired { policy: outcomes.len(), baseline: baseline.len() });
        }
        let pairs = || outcomes.iter().zip(baseline);
        let gained = pairs().filter(|(now, before)| **now && !**before).count() as u64;
        let lost = pairs().filter(|(now, before)| !**now && **before).count() as u64;
        Ok(Self { paired: Some(Paired::new(gained, lost)), ..Self::new(outcomes)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_promised_keys() {
        let report = EvalReport::new(&[true, true, false, true]).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["n", "correct", "accuracy", "interval"]);
        assert_eq!(json["accuracy"], 0.75);

        let report = EvalReport::against(&[true, true, false], &[false, true, true]).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["paired"], serde_json::json!({"p": 1.0, "gained": 1, "lost": 1}));
    }

    #[test]
    fn gained_and_lost_count_changed_outcomes_only() {
        let now = [true, true, true, false, false];
        let before = [false, false, true, true, false];
        let paired = EvalReport::against(&now, &before).unwrap().paired.unwrap();
        assert_eq!((paired.gained, paired.lost), (2, 1));
    }

    #[test]
    fn an_empty_or_unpaired_evaluation_is_an_error() {
        assert_eq!(EvalReport::new(&[]), Err(ReportError::Empty));
        assert_eq!(
            EvalReport::against(&[true], &[]),
            Err(ReportError::Unpaired { policy: 1, baseline: 0 })
        );
    }
}

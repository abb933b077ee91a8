//! What an evaluation says: accuracy, its interval, and the comparison with a baseline.

use serde::{Deserialize, Serialize};

use super::answers::Answered;
use super::interval::wilson;
use super::paired::Paired;
use super::pass_at::PassAt;

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

/// A share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Problems answered correctly.
    pub correct: u64,
    /// The share of all problems.
    pub accuracy: f64,
    /// Its Wilson 95 % interval, `[low, high]`.
    pub interval: [f64; 2],
}

/// The result of `tla eval` for one policy; serialised, it is the object `--json` prints.
///
/// `{"n": 200, "correct": 150, "accuracy": 0.75, "interval": [0.686, 0.805],
/// "paired": {"p": 0.012, "gained": 31, "lost": 13}, "cut": 3, "reward_mean": 0.75,
/// "flexible": {"correct": 160, "accuracy": 0.8, "interval": [0.739, 0.849]},
/// "pass_at": [{"k": 1, "value": 0.71, "error": 0.03}]}`; `paired` only with a baseline, `flexible`
/// where the reward has such a reading, `pass_at` where answers were sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// The checksum of the adapter that answered, in hexadecimal; none of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
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
    /// Answers that were cut at the longest length and count as wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
    /// Mean reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_mean: Option<f64>,
    /// The same answers by a reading that forgives their form: what is lost to the form alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flexible: Option<Share>,
    /// pass@k of sampled answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<PassAt>,
}

impl EvalReport {
    /// The report of one policy: `outcomes[i]` says whether problem i was answered correctly.
    pub fn new(outcomes: &[bool]) -> Result<Self, ReportError> {
        let n = outcomes.len() as u64;
        let correct = outcomes.iter().filter(|right| **right).count() as u64;
        let interval = wilson(correct, n).ok_or(ReportError::Empty)?;
        Ok(Self {
            checksum: None,
            n,
            correct,
            accuracy: correct as f64 / n as f64,
            interval,
            paired: None,
            cut: None,
            reward_mean: None,
            flexible: None,
            pass_at: Vec::new(),
        })
    }

    /// The report of a policy's answers, compared with those of a `baseline` if there is one.
    pub fn of(answers: &[Answered], baseline: Option<&[Answered]>) -> Result<Self, ReportError> {
        let right = |answers: &[Answered]| answers.iter().map(|a| a.correct).collect::<Vec<_>>();
        let report = match baseline {
            Some(baseline) => Self::against(&right(answers), &right(baseline))?,
            None => Self::new(&right(answers))?,
        };
        let cut = answers.iter().filter(|a| !a.ended).count() as u64;
        let worth: f64 = answers.iter().map(|a| a.reward).sum();
        // Every answer has the reading or none has.
        let flexible: Option<Vec<bool>> = answers.iter().map(|a| a.flexible).collect();
        let share = |outcomes: Vec<bool>| {
            let Self { correct, accuracy, interval, .. } = Self::new(&outcomes)?;
            Ok(Share { correct, accuracy, interval })
        };
        Ok(Self {
            cut: Some(cut),
            reward_mean: Some(worth / answers.len() as f64),
            flexible: flexible.map(share).transpose()?,
            ..report
        })
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
    fn answers_are_counted_by_both_readings() {
        let answer = |reward, ended, flexible| Answered {
            text: String::new(),
            tokens: 1,
            ended,
            reward,
            correct: reward >= 1.0,
            flexible,
        };
        let answers = [answer(1.0, true, Some(true)), answer(0.0, true, Some(true))];
        let answers = [&answers[..], &[answer(0.0, false, Some(false))]].concat();
        let report = EvalReport::of(&answers, None).unwrap();
        assert_eq!((report.n, report.correct, report.cut), (3, 1, Some(1)));
        assert_eq!(report.reward_mean, Some(1.0 / 3.0));
        assert_eq!(report.flexible.unwrap().correct, 2);
        let without = [answer(1.0, true, None)];
        let report = EvalReport::of(&without, Some(&without)).unwrap();
        assert_eq!((report.flexible, report.paired), (None, Some(Paired::new(0, 0))));
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

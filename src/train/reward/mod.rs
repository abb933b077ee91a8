//! Rewards: what a completion is worth.
//!
//! The strict reward follows the "strict match" of GSM8K and its evaluation harnesses, so that
//! accuracies can be compared: the first place in the completion where the regular expression
//! `#### (\-?[0-9\.\,]+)` matches is the answer, whatever follows it. A completion gets one
//! guess: later markers are not looked at, and a number without the marker does not count.
//! A number elsewhere ("the last number in the text") would be a reward that can be gamed
//! (facts, section 1).

pub mod answer;

use answer::{Answer, MARKER};

use super::data::Problem;

/// Why a reward could not be computed. It stops the run: a failure is never a reward of 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The reward itself failed.
    #[error(
        "the reward `{reward}` failed on the problem of line {line}: {reason}. \
         Mend it or choose another, no score was assumed"
    )]
    Failed {
        /// Name of the reward.
        reward: String,
        /// The problem's line in its dataset.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The reward is not a finite number.
    #[error(
        "the reward of the problem of line {line} is {value}. A reward must be a finite number"
    )]
    NotFinite {
        /// The problem's line in its dataset.
        line: usize,
        /// What was returned.
        value: f64,
    },
}

/// What a completion of a problem is worth.
pub trait Reward: Send + Sync {
    /// The worth of `completion`, a finite number; an error if it cannot be said.
    fn score(&self, problem: &Problem, completion: &str) -> Result<f64, RewardError>;
}

/// 1 for the right answer in the strict format, else 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactMatch;

impl Reward for ExactMatch {
    fn score(&self, problem: &Problem, completion: &str) -> Result<f64, RewardError> {
        Ok(if is_correct(problem, completion) { 1.0 } else { 0.0 })
    }
}

/// Whether the completion's strict answer is the problem's.
pub fn is_correct(problem: &Problem, completion: &str) -> bool {
    extract_answer(completion).as_ref() == Some(&problem.answer)
}

/// The answer of a completion by the strict rule: the first match of
/// `#### (\-?[0-9\.\,]+)`, if it is a number. `None` otherwise.
pub fn extract_answer(completion: &str) -> Option<Answer> {
    completion.match_indices(MARKER).find_map(|(at, _)| number_after(&completion[at..])).and_then(
        // The harnesses drop one trailing period and the commas before they compare.
        Answer::parse,
    )
}

/// The text the group of the regular expression captures when it matches at the marker's start.
/// In `##### 5` it matches at the second `#`, which is why one more may stand before the space.
fn number_after(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches('#').strip_prefix(' ')?;
    let sign = usize::from(rest.starts_with('-'));
    let length =
        rest[sign..].bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b',')).count();
    (length > 0).then(|| &rest[..sign + length])
}

/// Scores the completions of one problem, in order, and refuses a score that is not finite.
pub fn score_group<R: Reward + ?Sized, S: AsRef<str>>(
    reward: &R,
    problem: &Problem,
    completions: &[S],
) -> Result<Vec<f64>, RewardError> {
    let finite = |completion: &S| {
        let value = reward.score(problem, completion.as_ref())?;
        if !value.is_finite() {
            return Err(RewardError::NotFinite { line: problem.line, value });
        }
        Ok(value)
    };
    completions.iter().map(finite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(answer: &str) -> Problem {
        let answer = Answer::parse(answer).unwrap();
        Problem { question: "q".into(), answer, solution: "s".into(), line: 3 }
    }

    #[track_caller]
    fn extracted(completion: &str, expected: Option<&str>) {
        let found = extract_answer(completion);
        assert_eq!(found.as_ref().map(Answer::as_str), expected, "{completion}");
    }

    #[test]
    fn the_strict_format_is_read_as_the_regular_expression_reads_it() {
        extracted("3 + 4 = 7\n#### 7", Some("7"));
        extracted("#### 1,234.", Some("1234"));
        extracted("#### -12.50", Some("-12.5"));
        extracted("#### 27 apples\nQuestion: next", Some("27"));
        extracted("##### 5", Some("5"));
        extracted("#### \n#### 8", Some("8"));
    }

    #[test]
    fn what_the_regular_expression_does_not_match_is_no_answer() {
        for completion in
            ["", "27", "The answer is 27.", "####27", "####  27", "#### $27", "### 27", "#### x 27"]
        {
            extracted(completion, None);
        }
    }

    #[test]
    fn a_first_match_that_is_no_number_is_not_mended_by_a_second() {
        extracted("#### 1.2.3\n#### 7", None);
        extracted("#### ...\n#### 7", None);
    }

    #[test]
    fn only_the_first_guess_counts() {
        let score = |text: &str| ExactMatch.score(&problem("7"), text).unwrap();
        assert_eq!(score("#### 7\n#### 8"), 1.0);
        assert_eq!(score("#### 8\n#### 7"), 0.0);
        assert_eq!(score("7"), 0.0);
    }

    #[test]
    fn a_failing_reward_is_an_error_and_never_zero() {
        struct Broken(f64);
        impl Reward for Broken {
            fn score(&self, problem: &Problem, completion: &str) -> Result<f64, RewardError> {
                if completion == "fail" {
                    return Err(RewardError::Failed {
                        reward: "broken".into(),
                        line: problem.line,
                        reason: "no connection".into(),
                    });
                }
                Ok(self.0)
            }
        }
        let group = score_group(&Broken(1.0), &problem("7"), &["ok", "fail"]);
        assert!(matches!(group, Err(RewardError::Failed { line: 3, .. })));
        let group = score_group(&Broken(f64::NAN), &problem("7"), &["ok"]);
        assert!(matches!(group, Err(RewardError::NotFinite { line: 3, .. })));
        assert_eq!(score_group(&ExactMatch, &problem("7"), &["#### 7", ""]).unwrap(), [1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn a_number_after_the_marker_is_found_again(n in any::<i32>(), before in "[a-z0-9 \n]*") {
            let found = extract_answer(&format!("{before}\n#### {n}")).unwrap();
            prop_assert_eq!(found.as_str(), n.to_string());
        }

        #[test]
        fn no_completion_makes_it_panic(text in "[# .,0-9a\u{e9}-]*") {
            let _ = extract_answer(&text);
        }
    }
}

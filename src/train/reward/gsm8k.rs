//! Answers as GSM8K writes them: `#### 27`.
//!
//! The strict reading follows the "strict match" of GSM8K and its evaluation harnesses, so that
//! accuracies can be compared: the first place in the completion where the regular expression
//! `#### (\-?[0-9\.\,]+)` matches is the answer, whatever follows it. Later markers are not looked
//! at, and a number without the marker does not count. The flexible reading follows
//! `flexible-extract` of the LM Evaluation Harness (gsm8k.yaml): the last match of
//! `(-?[$0-9.,]{2,})|(-?[0-9]+)`.

use super::{
    Attempt, Reward, RewardError,
    answer::{Answer, MARKER},
    reference::{ReferenceError, after_marker, not_a_number},
};
use crate::train::data::Problem;

/// 1 for the right number in the strict format, else 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactMatch;

impl ExactMatch {
    fn number(problem: &Problem) -> Result<Answer, ReferenceError> {
        let after = after_marker(&problem.answer)?;
        Answer::parse(after).ok_or_else(|| not_a_number(after))
    }
}

impl Reward for ExactMatch {
    fn name(&self) -> String {
        "gsm8k".to_owned()
    }

    fn key(&self, problem: &Problem) -> Result<String, ReferenceError> {
        Self::number(problem).map(|number| number.to_string())
    }

    fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
        let each = |attempt: &Attempt<'_>| {
            let right = Self::number(attempt.problem)
                .map_err(|error| RewardError::failed("gsm8k", attempt, error))?;
            Ok(f64::from(u8::from(strict(attempt.completion) == Some(right))))
        };
        attempts.iter().map(each).collect()
    }

    fn flexible(&self, attempt: &Attempt<'_>) -> Option<bool> {
        let right = Self::number(attempt.problem).ok()?;
        Some(last_number(attempt.completion) == Some(right))
    }
}

/// The answer of a completion by the strict rule: the first match of
/// `#### (\-?[0-9\.\,]+)`, if it is a number. `None` otherwise.
pub fn strict(completion: &str) -> Option<Answer> {
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

/// The last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`, if it is a number.
///
/// The harness compares text, and takes "3,." or "..." for the answer if they come last; so is it
/// here, where they are no number and no answer.
pub fn last_number(completion: &str) -> Option<Answer> {
    let is_part = |b: u8| matches!(b, b'$' | b'0'..=b'9' | b'.' | b',');
    let bytes = completion.as_bytes();
    let mut end = bytes.len();
    loop {
        end = bytes[..end].iter().rposition(|b| is_part(*b))? + 1;
        let start = bytes[..end].iter().rposition(|b| !is_part(*b)).map_or(0, |at| at + 1);
        // One character alone matches only as a digit.
        if end - start > 1 || bytes[start].is_ascii_digit() {
            let signed = start > 0 && bytes[start - 1] == b'-';
            // Only ASCII was matched, so these are borders of characters.
            return Answer::parse(completion.get(start - usize::from(signed)..end)?);
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::problem, *};
    use crate::train::reward::score_group;
    use proptest::prelude::*;

    #[track_caller]
    fn extracted(completion: &str, expected: Option<&str>) {
        let found = strict(completion);
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
        let completions = ["#### 7\n#### 8", "#### 8\n#### 7", "7"];
        let scores = score_group(&ExactMatch, &problem("so\n#### 7"), &completions).unwrap();
        assert_eq!(scores, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_flexible_reading_is_the_last_number_whatever_its_dress() {
        let flexible = |text: &str| last_number(text).map(|number| number.to_string());
        for (text, expected) in [
            ("#### 8, no: 7.", Some("7")),
            ("it costs $1,234.50 in all", Some("1234.5")),
            ("from 3 to -12", Some("-12")),
            ("5 - a", Some("5")),
            ("7\u{e9}", Some("7")),
            ("the end, . ", None),
            ("so 7...", None),
            ("", None),
        ] {
            assert_eq!(flexible(text).as_deref(), expected, "{text}");
        }
        let right = problem("#### 7");
        let attempt = |completion| Attempt { problem: &right, completion };
        assert_eq!(ExactMatch.flexible(&attempt("It is 7.")), Some(true));
        assert_eq!(ExactMatch.flexible(&attempt("#### 7, or 8")), Some(false));
    }

    #[test]
    fn a_reference_without_a_marked_number_is_refused() {
        let of = |text: &str| ExactMatch.key(&problem(text));
        assert_eq!(of("#### 1\n#### 1,234"), Ok("1234".into()));
        assert_eq!(of("27"), Err(ReferenceError::NoMarker { found: "27".into() }));
        assert_eq!(of("#### many"), Err(ReferenceError::NotNumber { found: "many".into() }));
    }

    proptest! {
        #[test]
        fn a_number_after_the_marker_is_found_again(n in any::<i32>(), before in "[a-z0-9 \n]*") {
            let text = format!("{before}\n#### {n}");
            for found in [strict(&text), last_number(&text)] {
                let found = found.map(|number| number.to_string());
                prop_assert_eq!(found, Some(n.to_string()));
            }
        }

        #[test]
        fn no_completion_makes_it_panic(text in "[# .,0-9a\u{e9}$-]*") {
            let _ = (strict(&text), last_number(&text));
        }
    }
}

//! Answers as MATH writes them: `\boxed{\frac{1}{2}}`.
//!
//! The answer of a completion is what its last `\boxed` holds, as in the graders published with
//! MATH (Hendrycks et al. 2021, `last_boxed_only_string`); earlier boxes are not looked at, and an
//! unfinished last one is no answer. Two answers are compared by [`equivalent`].

use super::{
    Attempt, Reward, RewardError,
    gsm8k::last_number,
    latex::equivalent,
    rational::Rational,
    reference::{ReferenceError, answer_in},
};
use crate::train::data::Problem;

/// What introduces an answer in words.
const PHRASE: &str = "answer is";

/// 1 if the last box of the completion holds the right answer, else 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Boxed;

impl Reward for Boxed {
    fn name(&self) -> String {
        "boxed".to_owned()
    }

    fn key(&self, problem: &Problem) -> Result<String, ReferenceError> {
        answer_in(&problem.answer).map(str::to_owned)
    }

    fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
        let each = |attempt: &Attempt<'_>| {
            let right = answer_in(&attempt.problem.answer)
                .map_err(|error| RewardError::failed("boxed", attempt, error))?;
            let found = last_boxed(attempt.completion);
            Ok(f64::from(u8::from(found.is_some_and(|found| equivalent(found, right)))))
        };
        attempts.iter().map(each).collect()
    }

    fn flexible(&self, attempt: &Attempt<'_>) -> Option<bool> {
        let right = answer_in(&attempt.problem.answer).ok()?;
        let found = flexible_answer(attempt.completion);
        Some(found.is_some_and(|found| equivalent(&found, right)))
    }
}

/// What the last `\boxed{…}` of a text holds, braces inside it balanced; `\boxed 7` holds the rest
/// of its line, up to a `$`. Where there is none, `\fbox` counts.
pub fn last_boxed(text: &str) -> Option<&str> {
    let at = |name: &'static str| {
        let ends = |rest: &&str| !rest.starts_with(|c: char| c.is_ascii_alphabetic());
        text.rmatch_indices(name).map(|(at, _)| &text[at + name.len()..]).find(ends)
    };
    let rest = at("\\boxed").or_else(|| at("\\fbox"))?;
    let inside = rest.trim_start();
    if !inside.starts_with('{') {
        let end = rest.find(['$', '\n']).unwrap_or(rest.len());
        let bare = rest[..end].trim();
        return (rest.starts_with(' ') && !bare.is_empty()).then_some(bare);
    }
    let (mut open, mut escaped) = (0usize, false);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => open += 1,
            b'}' if open == 1 => return Some(&inside[1..at]),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// The last box, else what follows the last "answer is" in its sentence, else the last number.
fn flexible_answer(completion: &str) -> Option<String> {
    if let Some(inside) = last_boxed(completion) {
        return Some(inside.to_owned());
    }
    let number = |text: &str| last_number(text).map(|number| number.to_string());
    let lower = completion.to_ascii_lowercase();
    let Some(at) = lower.rfind(PHRASE) else { return number(completion) };
    let after = completion[at + PHRASE.len()..].trim_start_matches([':', ' ']);
    let line = after.lines().next().unwrap_or_default();
    let sentence = line.split_once(". ").map_or(line, |(sentence, _)| sentence);
    let said = sentence.trim().trim_end_matches('.');
    // "7 apples" says 7; "x + 7" and "\frac{1}{7}" do not.
    let words = said.split_once(' ').is_some_and(|(first, rest)| {
        Rational::parse(first.trim_matches('$')).is_some()
            && rest.chars().all(|c| c.is_alphabetic() || c.is_whitespace())
    });
    if words { number(said) } else { Some(said.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::problem, *};
    use crate::train::reward::score_group;
    use proptest::prelude::*;

    #[test]
    fn the_last_box_counts_with_its_braces_balanced() {
        for (text, expected) in [
            ("so $\\boxed{7}$.", Some("7")),
            ("\\boxed{1} no, \\boxed{\\frac{1}{2}}", Some("\\frac{1}{2}")),
            ("\\boxed{\\left\\{1\\right.} and", Some("\\left\\{1\\right.")),
            ("\\boxed {x}", Some("x")),
            ("it is $\\boxed 12$ then", Some("12")),
            ("\\fbox{3}", Some("3")),
            ("\\boxed{3} \\fbox{4}", Some("3")),
            ("\\boxed{}", Some("")),
            ("\\boxed{1} \\boxed{2", None),
            ("\\boxedness{1}", None),
            ("\\boxed", None),
            ("\\boxed3", None),
            ("boxed{3}", None),
        ] {
            assert_eq!(last_boxed(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_outside_the_last_box_is_worth_nothing() {
        let completions = [
            "\\boxed{0.5}",
            "\\boxed{\\frac12}",
            "\\boxed{\\dfrac{2}{4}} units",
            "\\boxed{0.5} \\boxed{3}",
            "0.5",
            "\\boxed{}",
            "#### 0.5",
        ];
        let right = problem("Half of it:\n$\\boxed{\\tfrac{1}{2}}$");
        let scores = score_group(&Boxed, &right, &completions).unwrap();
        assert_eq!(scores, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let scores = score_group(&Boxed, &problem("so\n#### 1,234"), &["\\boxed{1234}"]).unwrap();
        assert_eq!(scores, [1.0]);
    }

    #[test]
    fn the_flexible_reading_takes_a_phrase_or_the_last_number() {
        let right = problem("1/2");
        let flexible = |completion| Boxed.flexible(&Attempt { problem: &right, completion });
        for (completion, expected) in [
            ("\\boxed{0.5}", true),
            ("The answer is $\\frac{1}{2}$. Done 3.", true),
            ("The answer is: 0.5 apples.", true),
            ("The answer is 3, not 0.5", false),
            ("half of one: 0.50", true),
            ("0.5 of 3", false),
            ("", false),
        ] {
            assert_eq!(flexible(completion), Some(expected), "{completion}");
        }
    }

    #[test]
    fn a_reference_without_an_answer_is_refused() {
        assert!(Boxed.key(&problem("first\nsecond")).is_err());
        assert_eq!(Boxed.key(&problem("a\n\\boxed{x^2}")), Ok("x^2".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_boxed_last_is_found(inside in "[a-z0-9 +]{0,9}", before in "[a-z{}\\\\ ]*") {
            let text = format!("{before} \\boxed{{{inside}}} end");
            prop_assert_eq!(last_boxed(&text), Some(inside.as_str()));
        }

        #[test]
        fn no_completion_makes_it_panic(text in "(\\\\boxed|answer is|[{}$ .7\u{e9}\\\\]){0,12}") {
            let _ = (last_boxed(&text), flexible_answer(&text));
        }
    }
}

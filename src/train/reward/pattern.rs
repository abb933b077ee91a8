//! Answers that a regular expression finds.

use regex::{Regex, RegexBuilder};

use super::{
    Attempt, Reward, RewardError,
    answer::Answer,
    reference::{ReferenceError, answer_in, marked_in},
};
use crate::train::data::Problem;

/// The most bytes a compiled pattern, and the cache of its search, may take each.
const MOST_BYTES: usize = 1 << 22;

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// Not a regular expression, or one that compiles to too much.
    #[error("`{pattern}` is no regular expression this program takes: {reason}. Simplify it")]
    Syntax {
        /// As given.
        pattern: String,
        /// What the compiler said.
        reason: String,
    },
    /// Nothing in it says what the answer is.
    #[error("`{pattern}` has no group. Put the part that is the answer in (parentheses)")]
    NoGroup {
        /// As given.
        pattern: String,
    },
}

/// 1 if the first group of the pattern's first match in the completion is the right answer.
///
/// Both are compared without white space around them, or as decimal numbers if both are. Searching
/// takes time linear in the completion, whatever the pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern in the syntax of the `regex` crate.
    ///
    /// # Errors
    /// If it does not compile within the limits, or has no group.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MOST_BYTES).dfa_size_limit(MOST_BYTES);
        let regex = builder.build().map_err(|error| PatternError::Syntax {
            pattern: pattern.to_owned(),
            reason: in_one_line(&error.to_string()),
        })?;
        match regex.captures_len() {
            0 | 1 => Err(PatternError::NoGroup { pattern: pattern.to_owned() }),
            _ => Ok(Self { regex }),
        }
    }

    /// The answer of a completion; `None` if the pattern does not match or its group takes no part.
    pub fn answer<'a>(&self, completion: &'a str) -> Option<&'a str> {
        Some(self.regex.captures(completion)?.get(1)?.as_str().trim())
    }

    /// The right answer: what the pattern finds in the part that the reference marks, or that part;
    /// without one, what the pattern finds anywhere.
    fn right<'a>(&self, problem: &'a Problem) -> Result<&'a str, ReferenceError> {
        let reference = &problem.answer;
        if let Some(marked) = marked_in(reference).filter(|marked| !marked.is_empty()) {
            let from = marked.as_ptr().addr().saturating_sub(reference.as_ptr().addr());
            let part = from..from + marked.len();
            let mut groups = self.regex.captures_iter(reference).filter_map(|found| found.get(1));
            let within = groups.find(|group| part.contains(&group.start()) && !group.is_empty());
            return Ok(within.map_or(marked, |group| group.as_str().trim()));
        }
        match self.answer(&problem.answer) {
            Some(answer) if !answer.is_empty() => Ok(answer),
            _ => answer_in(&problem.answer),
        }
    }
}

/// A syntax error shows the pattern over several lines before the last says what is wrong.
fn in_one_line(error: &str) -> String {
    let last = error.trim_end().lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").trim_end_matches('.').to_owned()
}

impl Reward for Pattern {
    fn name(&self) -> String {
        format!("regex:{}", self.regex)
    }

    fn key(&self, problem: &Problem) -> Result<String, ReferenceError> {
        self.right(problem).map(str::to_owned)
    }

    fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
        let each = |attempt: &Attempt<'_>| {
            let right = self
                .right(attempt.problem)
                .map_err(|error| RewardError::failed(&self.name(), attempt, error))?;
            let found = self.answer(attempt.completion);
            Ok(f64::from(u8::from(found.is_some_and(|found| is_same(found, right)))))
        };
        attempts.iter().map(each).collect()
    }
}

fn is_same(a: &str, b: &str) -> bool {
    a == b || matches!((Answer::parse(a), Answer::parse(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::problem, *};
    use crate::train::reward::score_group;

    #[test]
    fn the_first_group_of_the_first_match_is_compared_with_the_reference() {
        let pattern = Pattern::new(r"(?i)answer:\s*(\S+)").unwrap();
        let score = |reference: &str, completions: &[&str]| {
            score_group(&pattern, &problem(reference), completions).unwrap()
        };
        let completions = ["Answer: 1234", "answer: 1,234.0", "answer: 7 answer: 1234", "1234"];
        assert_eq!(score("so\n#### 1,234", &completions), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(score("B", &["answer: B", "answer: b", "Answer:"]), [1.0, 0.0, 0.0]);
        assert_eq!(score("long\nANSWER: yes", &["answer: yes"]), [1.0]);
    }

    #[test]
    fn the_numbers_of_a_worked_solution_are_not_its_answer() {
        let right = |pattern: &str, reference: &str| {
            Pattern::new(pattern).unwrap().right(&problem(reference)).map(str::to_owned)
        };
        assert_eq!(right(r"(\d+)", "3 + 4 = 7, and 7 - 1 = 6\n#### 6"), Ok("6".into()));
        assert_eq!(right(r"(\d+)", "3 + 4 is \\boxed{7}."), Ok("7".into()));
        assert_eq!(right(r"####\s*(\S+)", "3\n#### 27 apples"), Ok("27".into()));
        assert_eq!(right(r"answer: (\w+)", "answer: A?\n#### B"), Ok("B".into()));
        assert_eq!(right(r"answer: (\w+)", "long\nanswer: A\n####"), Ok("A".into()));
    }

    #[test]
    fn a_group_that_takes_no_part_is_no_answer() {
        let pattern = Pattern::new("x|(y)").unwrap();
        assert_eq!((pattern.answer("x"), pattern.answer("y")), (None, Some("y")));
    }

    #[test]
    fn a_pattern_that_cannot_be_used_is_refused() {
        let error = |pattern: &str| Pattern::new(pattern).unwrap_err();
        assert_eq!(error("answer"), PatternError::NoGroup { pattern: "answer".into() });
        let reason = "unclosed group".to_owned();
        assert_eq!(error("(a"), PatternError::Syntax { pattern: "(a".into(), reason });
        assert!(matches!(error("(a)\\1"), PatternError::Syntax { .. }));
        assert!(matches!(error("(a{1000}){1000}{1000}"), PatternError::Syntax { .. }));
    }

    #[test]
    fn a_pattern_that_would_backtrack_for_ever_answers() {
        let pattern = Pattern::new("(a+a+)+b").unwrap();
        assert_eq!(pattern.answer(&"a".repeat(100_000)), None);
    }
}

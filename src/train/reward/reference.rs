//! Where a dataset's row keeps the right answer.

use super::{super::data::beginning, answer::MARKER, boxed::last_boxed};

/// How much of a reference's end an error quotes, in characters.
const QUOTED: usize = 60;

/// What is wrong with a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReferenceError {
    /// No marker.
    #[error(
        "the reference answer ends in `{found}` and has no `####`. End it in `#### ` and the \
         number, or choose another --reward"
    )]
    NoMarker {
        /// The reference's end.
        found: String,
    },
    /// What follows the marker is no number.
    #[error(
        "`{found}` after `####` in the reference answer is not a number. Write digits, as in \
         `#### 27`"
    )]
    NotNumber {
        /// What was found.
        found: String,
    },
    /// A text of several lines in which nothing says what the answer is.
    #[error(
        "the reference answer ends in `{found}`, has several lines, and neither `\\boxed{{…}}` nor \
         `####` says which part is the answer. Add one, or name a field that holds the answer \
         alone with --answer-field"
    )]
    NoAnswer {
        /// The reference's end.
        found: String,
    },
    /// Nothing between the marker and the end, or between the braces.
    #[error("the reference answer ends in `{found}`, where the answer is empty. Fill it in")]
    Empty {
        /// The reference's end.
        found: String,
    },
}

/// The right answer in a reference: what follows the last `####`, else what the last `\boxed`
/// holds, else the whole text if it is one line.
///
/// # Errors
/// If the text has several lines and neither, or the answer is empty.
pub fn answer_in(reference: &str) -> Result<&str, ReferenceError> {
    let text = reference.trim();
    let answer = match marked_in(text) {
        Some(answer) => answer,
        None if text.contains('\n') => {
            return Err(ReferenceError::NoAnswer { found: end(text) });
        }
        None => text,
    };
    if answer.is_empty() { Err(ReferenceError::Empty { found: end(text) }) } else { Ok(answer) }
}

/// What follows the last `####` of a reference, else what the last `\boxed` holds, if either is there.
pub fn marked_in(reference: &str) -> Option<&str> {
    let after = reference.rsplit_once(MARKER).map(|(_, after)| after);
    after.or_else(|| last_boxed(reference)).map(str::trim)
}

/// The text after the last `####` of a reference.
///
/// # Errors
/// If there is none.
pub fn after_marker(reference: &str) -> Result<&str, ReferenceError> {
    match reference.rsplit_once(MARKER) {
        Some((_, after)) => Ok(after),
        None => Err(ReferenceError::NoMarker { found: end(reference.trim_end()) }),
    }
}

/// That what follows the marker is no number.
pub fn not_a_number(after: &str) -> ReferenceError {
    ReferenceError::NotNumber { found: beginning(after.trim()) }
}

fn end(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(QUOTED);
    let shown: String = text.chars().skip(skip).collect();
    if skip > 0 { format!("…{shown}") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_after_the_marker_or_in_the_box_or_the_whole_line() {
        assert_eq!(answer_in("so\n#### 7"), Ok("7"));
        assert_eq!(answer_in("so\nit is $\\boxed{\\frac{1}{2}}$."), Ok("\\frac{1}{2}"));
        assert_eq!(answer_in(" 1/2 \n"), Ok("1/2"));
    }

    #[test]
    fn a_text_in_which_no_answer_is_marked_has_none() {
        let found = "a\nb".to_owned();
        assert_eq!(answer_in("a\nb"), Err(ReferenceError::NoAnswer { found }));
        for empty in ["####", "so \\boxed{}", "\\boxed{ }"] {
            assert_eq!(answer_in(empty), Err(ReferenceError::Empty { found: empty.into() }));
        }
        assert_eq!(after_marker("27"), Err(ReferenceError::NoMarker { found: "27".into() }));
    }

    #[test]
    fn a_long_reference_is_quoted_by_its_end() {
        let text = format!("a\n{}", "x".repeat(500));
        let Err(ReferenceError::NoAnswer { found }) = answer_in(&text) else { panic!() };
        assert_eq!(found.chars().count(), QUOTED + 1);
    }
}

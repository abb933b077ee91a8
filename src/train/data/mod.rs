//! Problems, as GSM8K (`question`, `answer`), MATH (`problem`, `solution`) and what follows them
//! publish theirs: one JSON object a line, or a Parquet file.
//!
//! What a reference must look like is for the reward to say; here a row is a question, a
//! reference, and whatever else it holds. Every rejection names the file and the line or row,
//! because a dataset error is found by opening an editor there.

mod fault;
mod hashed;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;

use std::{borrow::Cow, path::Path};

use serde_json::{Map, Value};

pub use fault::{DataError, RowError};
pub use lines::problems;

/// Longest accepted line, in bytes; no text of a Parquet file may be longer either.
pub const MAX_LINE: usize = 1 << 20;
/// Largest accepted file, in bytes.
pub const MAX_FILE: u64 = 1 << 29;
/// How much of an offending value an error quotes, in characters.
const QUOTED: usize = 60;
/// Numbers below this are read as they are written.
const EXACT: f64 = 1e15;

/// What the question is called where no name is given.
const QUESTIONS: [&str; 2] = ["question", "problem"];
/// What the reference answer is called where no name is given, the shorter first.
const ANSWERS: [&str; 2] = ["answer", "solution"];
/// What a worked solution is called.
const SOLUTION: &str = "solution";

/// One problem of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is asked, not empty.
    pub question: String,
    /// The text a reward reads the right answer from: the field `answer`, or else `solution`.
    pub answer: String,
    /// The worked solution as the dataset holds it: the field `solution`, or else `answer`.
    pub solution: String,
    /// Every field of the row, the above included.
    pub fields: Map<String, Value>,
    /// The line of the file it came from, or the row of a Parquet file, counted from 1.
    pub line: usize,
}

/// Which fields hold question and answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// The question's field; by default `question` or `problem`.
    pub question: Option<String>,
    /// The reference's field; by default `answer`, or else `solution`.
    pub answer: Option<String>,
}

/// The problems of a file, and which bytes they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The problems, at least one.
    pub problems: Vec<Problem>,
    /// SHA-256 of the file as it was when they were read.
    pub digest: [u8; 32],
}

/// Reads a file once, which may be a pipe: Parquet if its name ends in `.parquet`, else JSON Lines,
/// of which blank lines are skipped but counted.
///
/// # Errors
/// If it cannot be read, holds no problem, or a row is none.
pub fn read_dataset(path: &Path, fields: &Fields) -> Result<Dataset, DataError> {
    if is_parquet(path) {
        return read_parquet(path, fields);
    }
    lines::read(path, fields)
}

/// The problems of [`read_dataset`].
///
/// # Errors
/// As there.
pub fn read_problems(path: &Path, fields: &Fields) -> Result<Vec<Problem>, DataError> {
    Ok(read_dataset(path, fields)?.problems)
}

#[cfg(feature = "parquet")]
fn read_parquet(path: &Path, fields: &Fields) -> Result<Dataset, DataError> {
    parquet::read(path, fields)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path, _: &Fields) -> Result<Dataset, DataError> {
    Err(DataError::NoParquet { path: path.to_path_buf() })
}

/// The problem in a row.
fn problem(row: Map<String, Value>, fields: &Fields, line: usize) -> Result<Problem, RowError> {
    let question = text(&row, question_field(&row, fields)?)?;
    if question.trim().is_empty() {
        return Err(RowError::EmptyQuestion { found: beginning(question) });
    }
    let answer_field = match &fields.answer {
        Some(field) => field,
        None => first_of(&row, &ANSWERS).unwrap_or(ANSWERS[0]),
    };
    let answer = reference(&row, answer_field)?;
    if answer.trim().is_empty() {
        return Err(RowError::EmptyAnswer { field: answer_field.to_owned() });
    }
    let solution = match row.get(SOLUTION) {
        Some(Value::String(solution)) if !solution.trim().is_empty() => solution.as_str(),
        _ => &answer,
    };
    let [question, answer, solution] = [question, &answer, solution].map(str::to_owned);
    Ok(Problem { question, answer, solution, fields: row, line })
}

fn question_field<'a>(row: &Map<String, Value>, fields: &'a Fields) -> Result<&'a str, RowError> {
    if let Some(field) = &fields.question {
        return Ok(field);
    }
    match QUESTIONS.map(|name| row.contains_key(name)) {
        [true, true] => Err(RowError::TwoQuestions),
        [false, true] => Ok(QUESTIONS[1]),
        _ => Ok(QUESTIONS[0]),
    }
}

fn first_of<'a>(row: &Map<String, Value>, names: &[&'a str]) -> Option<&'a str> {
    names.iter().find(|name| row.contains_key(**name)).copied()
}

/// A reference answer, which may be a number. One that is read with a loss of digits must be a string.
fn reference<'a>(row: &'a Map<String, Value>, field: &str) -> Result<Cow<'a, str>, RowError> {
    match row.get(field) {
        Some(Value::Number(number)) if number.as_f64().is_some_and(|x| x.abs() < EXACT) => {
            Ok(number.to_string().into())
        }
        _ => text(row, field).map(Cow::from),
    }
}

fn text<'a>(row: &'a Map<String, Value>, field: &str) -> Result<&'a str, RowError> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) => Err(RowError::Null { field: field.to_owned() }),
        Some(other) => Err(RowError::WrongType {
            field: field.to_owned(),
            found: beginning(&other.to_string()),
        }),
        None => {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            let found = if names.is_empty() { "no field".to_owned() } else { names.join(", ") };
            Err(RowError::MissingField { field: field.to_owned(), found: beginning(&found) })
        }
    }
}

/// Where a problem is, as errors say it: the file and its line or row.
pub fn place(path: &Path, line: usize) -> String {
    let unit = if is_parquet(path) { "row" } else { "line" };
    format!("{}, {unit} {line}", path.display())
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// A text's beginning, for an error to quote.
pub(super) fn beginning(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(QUOTED).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_may_be_a_number_and_what_is_null_is_said_to_be() {
        let of = |answer: &str| {
            row(&format!(r#"{{"question": "?", "answer": {answer}}}"#), &Fields::default())
        };
        for number in ["27", "-3", "0.5"] {
            let found = of(number).unwrap();
            assert_eq!((found.answer.as_str(), found.solution.as_str()), (number, number));
        }
        assert_eq!(of("null"), Err(RowError::Null { field: "answer".into() }));
        for other in ["true", "[27]", "123456789012345678901234"] {
            assert!(matches!(of(other), Err(RowError::WrongType { .. })), "{other}");
        }
    }

    fn row(json: &str, fields: &Fields) -> Result<Problem, RowError> {
        let Value::Object(row) = serde_json::from_str(json).unwrap() else { panic!("{json}") };
        problem(row, fields, 1)
    }

    fn named(question: &str, answer: &str) -> Fields {
        Fields { question: Some(question.into()), answer: Some(answer.into()) }
    }

    #[test]
    fn gsm8k_and_math_rows_are_read_as_published() {
        let gsm8k = r#####"{"question": "3+4?", "answer": "It is 7.\n#### 7"}"#####;
        let found = row(gsm8k, &Fields::default()).unwrap();
        assert_eq!((found.question.as_str(), found.answer.as_str()), ("3+4?", "It is 7.\n#### 7"));
        assert_eq!(found.solution, found.answer);
        let math =
            r#"{"problem": "p", "level": "Level 5", "type": "Algebra", "solution": "\\boxed{1}"}"#;
        let found = row(math, &Fields::default()).unwrap();
        assert_eq!((found.question.as_str(), found.answer.as_str()), ("p", "\\boxed{1}"));
        assert_eq!(found.fields["level"], "Level 5");
    }

    #[test]
    fn a_row_with_a_solution_and_an_answer_keeps_both() {
        let math500 = r#"{"problem": "p", "solution": "so \\boxed{1}", "answer": "1"}"#;
        let found = row(math500, &Fields::default()).unwrap();
        assert_eq!((found.answer.as_str(), found.solution.as_str()), ("1", "so \\boxed{1}"));
    }

    #[test]
    fn named_fields_are_taken_and_no_others() {
        let text = r#"{"prompt": "p", "target": "t", "question": "q", "answer": "a"}"#;
        let found = row(text, &named("prompt", "target")).unwrap();
        assert_eq!((found.question.as_str(), found.answer.as_str()), ("p", "t"));
        let missing = row(text, &named("prompt", "none"));
        let found = "prompt, target, question, answer".to_owned();
        assert_eq!(missing, Err(RowError::MissingField { field: "none".into(), found }));
    }

    #[test]
    fn every_fault_of_a_row_has_its_own_error_with_the_value_inside() {
        let found = |json: &str| row(json, &Fields::default()).unwrap_err();
        assert_eq!(
            found(r#"{"prompt": "q", "answer": "1"}"#),
            RowError::MissingField { field: "question".into(), found: "prompt, answer".into() }
        );
        assert_eq!(
            found(r#"{"question": "q", "answer": [27]}"#),
            RowError::WrongType { field: "answer".into(), found: "[27]".into() }
        );
        assert_eq!(
            found(r#"{"question": " ", "answer": "1"}"#),
            RowError::EmptyQuestion { found: " ".into() }
        );
        assert_eq!(
            found(r#"{"question": "q", "answer": "\n"}"#),
            RowError::EmptyAnswer { field: "answer".into() }
        );
        assert_eq!(
            found(r#"{"question": "q", "problem": "p", "answer": "1"}"#),
            RowError::TwoQuestions
        );
    }

    #[test]
    fn a_long_value_is_quoted_in_part() {
        assert_eq!(beginning(&"x".repeat(1000)).chars().count(), QUOTED + 1);
    }
}

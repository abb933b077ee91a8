//! Problems in the schema of GSM8K: one JSON object a line, `question` and `answer`, the answer
//! ending in `#### 27`.
//!
//! Every rejection names the file and the line, because a dataset error is found by opening an
//! editor at that line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::reward::answer::{Answer, MARKER};

/// Longest accepted line, in bytes.
pub const MAX_LINE: usize = 1 << 20;
/// Largest accepted file, in bytes.
pub const MAX_FILE: u64 = 1 << 29;
/// How much of an offending value an error quotes, in characters.
const QUOTED: usize = 60;

/// One problem of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is asked, not empty.
    pub question: String,
    /// The number that is right.
    pub answer: Answer,
    /// The worked solution as the dataset holds it, final answer included.
    pub solution: String,
    /// The line of the file it came from, counted from 1.
    pub line: usize,
}

/// Why a dataset was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}. Check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_FILE`].
    #[error("{} is larger than {limit} bytes. Split the dataset", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: u64,
    },
    /// The file holds no problem.
    #[error(
        "{} holds no problem. Give one JSON object a line with \"question\" and \"answer\"",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One line is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineError,
    },
}

/// What is wrong with one line of a dataset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineError {
    /// Longer than [`MAX_LINE`].
    #[error("the line is longer than {limit} bytes. One problem goes on one line, shorten it")]
    TooLong {
        /// The cap.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("byte {column} of the line is not valid UTF-8. Save the file as UTF-8")]
    NotUtf8 {
        /// The first bad byte of the line, counted from 1.
        column: usize,
    },
    /// Not JSON.
    #[error("`{found}` is not JSON ({reason}). Write one JSON object a line")]
    NotJson {
        /// The line's beginning.
        found: String,
        /// What the parser said.
        reason: String,
    },
    /// JSON, but not an object.
    #[error(
        "`{found}` is not an object. Write {{\"question\": \"...\", \"answer\": \"... #### 27\"}}"
    )]
    NotObject {
        /// The value's beginning.
        found: String,
    },
    /// A field is missing.
    #[error("the field \"{field}\" is missing (found: {found}). Rename or add it")]
    MissingField {
        /// The field.
        field: &'static str,
        /// The fields that are there.
        found: String,
    },
    /// A field is not a string.
    #[error("\"{field}\" is {found}, not a string. Put it in quotes")]
    WrongType {
        /// The field.
        field: &'static str,
        /// The value's beginning.
        found: String,
    },
    /// The question is empty.
    #[error("\"question\" is `{found}`, which asks nothing. Fill it in or delete the line")]
    EmptyQuestion {
        /// The question: white space or nothing.
        found: String,
    },
    /// The answer has no marker.
    #[error("\"answer\" ends in `{found}` and has no `####`. End it in `#### ` and the number")]
    NoMarker {
        /// The answer's end.
        found: String,
    },
    /// What follows the marker is no number.
    #[error("`{found}` after `####` in \"answer\" is not a number. Write digits, as in `#### 27`")]
    NotNumber {
        /// What was found.
        found: String,
    },
}

/// Reads the problems of a JSON Lines file. Blank lines are skipped but counted.
pub fn read_problems(path: &Path) -> Result<Vec<Problem>, DataError> {
    let file =
        File::open(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    problems(BufReader::new(file), path)
}

/// Reads problems from anywhere; errors name `path`.
pub fn problems(mut reader: impl BufRead, path: &Path) -> Result<Vec<Problem>, DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let mut problems = Vec::new();
    let mut read_in_all = 0u64;
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        // Two bytes more than a line may have: its line feed, and the one that proves it too long.
        let read = (&mut reader).take(MAX_LINE as u64 + 2).read_until(b'\n', &mut bytes);
        let read = read.map_err(io)?;
        if read == 0 {
            break;
        }
        read_in_all = read_in_all.saturating_add(read as u64);
        if read_in_all > MAX_FILE {
            return Err(DataError::FileTooLarge { path: path.to_path_buf(), limit: MAX_FILE });
        }
        match parse_line(&bytes, line) {
            Ok(Some(problem)) => problems.push(problem),
            Ok(None) => {}
            Err(problem) => {
                return Err(DataError::Line { path: path.to_path_buf(), line, problem });
            }
        }
    }
    if problems.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf() });
    }
    Ok(problems)
}

/// Reads one line; `None` for a blank one.
fn parse_line(bytes: &[u8], line: usize) -> Result<Option<Problem>, LineError> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.len() > MAX_LINE {
        return Err(LineError::TooLong { limit: MAX_LINE });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| LineError::NotUtf8 { column: error.valid_up_to() + 1 })?;
    // A byte order mark is invisible in every editor.
    let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| LineError::NotJson {
        found: beginning(text.trim()),
        reason: error.to_string(),
    })?;
    let Value::Object(fields) = value else {
        return Err(LineError::NotObject { found: beginning(text.trim()) });
    };
    let question = string(&fields, "question")?;
    if question.trim().is_empty() {
        return Err(LineError::EmptyQuestion { found: beginning(question) });
    }
    let solution = string(&fields, "answer")?.to_owned();
    let answer = answer_key(&solution)?;
    Ok(Some(Problem { question: question.to_owned(), answer, solution, line }))
}

fn string<'a>(fields: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, LineError> {
    match fields.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(LineError::WrongType { field, found: beginning(&other.to_string()) }),
        None => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            let found = if names.is_empty() { "no field".to_owned() } else { names.join(", ") };
            Err(LineError::MissingField { field, found: beginning(&found) })
        }
    }
}

/// The number after the last marker of a reference solution.
fn answer_key(text: &str) -> Result<Answer, LineError> {
    let Some((_, key)) = text.rsplit_once(MARKER) else {
        return Err(LineError::NoMarker { found: end(text.trim_end()) });
    };
    Answer::parse(key).ok_or_else(|| LineError::NotNumber { found: beginning(key.trim()) })
}

fn beginning(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(QUOTED).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

fn end(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(QUOTED);
    let shown: String = text.chars().skip(skip).collect();
    if skip > 0 { format!("…{shown}") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Option<Problem>, LineError> {
        parse_line(text.as_bytes(), 1)
    }

    #[test]
    fn a_good_line_is_read() {
        let problem = line(r#"{"question": "3+4?", "answer": "It is 7.\n#### 7", "id": 1}"#);
        let problem = problem.unwrap().unwrap();
        assert_eq!(problem.question, "3+4?");
        assert_eq!(problem.answer.as_str(), "7");
        assert_eq!(problem.line, 1);
    }

    #[test]
    fn the_last_marker_of_a_reference_solution_counts() {
        let problem = line(r#####"{"question": "q", "answer": "#### 1\n#### 1,234"}"#####);
        assert_eq!(problem.unwrap().unwrap().answer.as_str(), "1234");
    }

    #[test]
    fn blank_lines_carriage_returns_and_a_byte_order_mark_are_no_errors() {
        assert_eq!(line("").unwrap(), None);
        assert_eq!(line(" \r\n").unwrap(), None);
        assert!(line("\u{feff}{\"question\":\"q\",\"answer\":\"#### 1\"}\r\n").unwrap().is_some());
    }

    #[test]
    fn every_fault_of_a_line_has_its_own_error_with_the_value_inside() {
        let found = |text: &str| line(text).unwrap_err();
        assert!(matches!(found("{oops"), LineError::NotJson { found, .. } if found == "{oops"));
        assert_eq!(found("[1]"), LineError::NotObject { found: "[1]".into() });
        assert_eq!(
            found(r#####"{"prompt": "q", "answer": "#### 1"}"#####),
            LineError::MissingField { field: "question", found: "prompt, answer".into() }
        );
        assert_eq!(
            found(r#"{"question": "q", "answer": 27}"#),
            LineError::WrongType { field: "answer", found: "27".into() }
        );
        assert_eq!(
            found(r#####"{"question": " ", "answer": "#### 1"}"#####),
            LineError::EmptyQuestion { found: " ".into() }
        );
        assert_eq!(
            found(r#"{"question": "q", "answer": "27"}"#),
            LineError::NoMarker { found: "27".into() }
        );
        assert_eq!(
            found(r#####"{"question": "q", "answer": "#### many"}"#####),
            LineError::NotNumber { found: "many".into() }
        );
        assert_eq!(
            parse_line(b"{\"question\": \"\xff\"}", 1),
            Err(LineError::NotUtf8 { column: 15 })
        );
        let long = vec![b' '; MAX_LINE + 1];
        assert_eq!(parse_line(&long, 1), Err(LineError::TooLong { limit: MAX_LINE }));
    }

    #[test]
    fn a_long_value_is_quoted_in_part() {
        let text = "x".repeat(1000);
        let LineError::NotJson { found, .. } = line(&text).unwrap_err() else { panic!() };
        assert_eq!(found.chars().count(), QUOTED + 1);
    }
}

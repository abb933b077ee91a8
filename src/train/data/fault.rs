//! Why a dataset was refused.

use std::path::PathBuf;

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
    /// The file is larger than [`super::MAX_FILE`].
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
        problem: RowError,
    },
    /// One row of a Parquet file is wrong.
    #[error("{}, row {row}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1.
        row: usize,
        /// What is wrong with it.
        problem: RowError,
    },
    /// Not a Parquet file, or one that its reader does not take.
    #[error("{} is not a Parquet file that can be read: {reason}. Download it again", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What its reader said.
        reason: String,
    },
    /// A build without the reader of Parquet files.
    #[error(
        "{} is a Parquet file, and this tla was built without their reader. Build it with \
         --features parquet, or save the dataset as JSON Lines",
        path.display()
    )]
    NoParquet {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with one line or row of a dataset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// Longer than [`super::MAX_LINE`].
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
    #[error(
        "the field \"{field}\" is missing (found: {found}). Rename or add it, or name another \
         with --question-field or --answer-field"
    )]
    MissingField {
        /// The field.
        field: String,
        /// The fields that are there.
        found: String,
    },
    /// Two fields that may be the question.
    #[error(
        "both \"question\" and \"problem\" are there. Say with --question-field which one is asked"
    )]
    TwoQuestions,
    /// A field without a value.
    #[error(
        "\"{field}\" is null, so there is nothing to ask or to compare. Fill it in or delete the line"
    )]
    Null {
        /// The field.
        field: String,
    },
    /// A field is not a string.
    #[error("\"{field}\" is {found}, not a string. Put it in quotes")]
    WrongType {
        /// The field.
        field: String,
        /// The value's beginning.
        found: String,
    },
    /// The question is empty.
    #[error("the question is `{found}`, which asks nothing. Fill it in or delete the line")]
    EmptyQuestion {
        /// The question: white space or nothing.
        found: String,
    },
    /// The reference is empty.
    #[error("\"{field}\" is empty, so no answer can be right. Fill it in or delete the line")]
    EmptyAnswer {
        /// The reference's field.
        field: String,
    },
    /// A value that JSON has no form for.
    #[error("\"{field}\" holds {found}. Drop the column or store it as text or numbers")]
    NotAValue {
        /// The column.
        field: String,
        /// What it holds.
        found: String,
    },
}

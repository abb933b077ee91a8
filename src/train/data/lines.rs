//! JSON Lines: one object a line.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

use super::{
    DataError, Dataset, Fields, MAX_FILE, MAX_LINE, Problem, RowError, beginning, hashed::Hashed,
    problem,
};

/// Reads a file.
pub fn read(path: &Path, fields: &Fields) -> Result<Dataset, DataError> {
    let file =
        File::open(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let mut reader = BufReader::new(Hashed::new(file));
    let problems = problems(&mut reader, path, fields)?;
    Ok(Dataset { problems, digest: reader.into_inner().digest() })
}

/// Reads problems in JSON Lines from anywhere; errors name `path`.
///
/// # Errors
/// As [`super::read_problems`].
pub fn problems(
    mut reader: impl BufRead,
    path: &Path,
    fields: &Fields,
) -> Result<Vec<Problem>, DataError> {
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
        match parse_line(&bytes, line, fields) {
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
fn parse_line(bytes: &[u8], line: usize, fields: &Fields) -> Result<Option<Problem>, RowError> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.len() > MAX_LINE {
        return Err(RowError::TooLong { limit: MAX_LINE });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| RowError::NotUtf8 { column: error.valid_up_to() + 1 })?;
    // A byte order mark is invisible in every editor.
    let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| RowError::NotJson {
        found: beginning(text.trim()),
        reason: error.to_string(),
    })?;
    let Value::Object(row) = value else {
        return Err(RowError::NotObject { found: beginning(text.trim()) });
    };
    problem(row, fields, line).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Option<Problem>, RowError> {
        parse_line(text.as_bytes(), 1, &Fields::default())
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
        assert!(matches!(found("{oops"), RowError::NotJson { found, .. } if found == "{oops"));
        assert_eq!(found("[1]"), RowError::NotObject { found: "[1]".into() });
        let fields = Fields::default();
        assert_eq!(
            parse_line(b"{\"question\": \"\xff\"}", 1, &fields),
            Err(RowError::NotUtf8 { column: 15 })
        );
        let long = vec![b' '; MAX_LINE + 1];
        assert_eq!(parse_line(&long, 1, &fields), Err(RowError::TooLong { limit: MAX_LINE }));
    }
}

//! Where words go: results to stdout, for people or for machines, and talk to stderr.

use super::CliError;
use serde::Serialize;
use std::{
    fmt::{Display, Write as _},
    io::{self, Write},
};

/// The two streams of a command.
pub struct Output {
    json: bool,
}

impl Output {
    /// Results as JSON, or for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// The result: one line of JSON, or its `Display` without control characters.
    pub fn report<R: Serialize + Display>(&mut self, report: &R) -> Result<(), CliError> {
        let text = match self.json {
            true => serde_json::to_string(report).map_err(|e| CliError::Stdout(e.into()))? + "\n",
            false => harmless(&report.to_string()),
        };
        to_stdout(&text).map_err(CliError::Stdout)
    }

    /// Talk: what the user should know beside the result.
    pub fn say(&self, text: impl Display) {
        to_stderr(&text.to_string());
    }

    /// An error, as a sentence.
    pub fn fail(&self, error: &CliError) {
        let mut text = error.to_string();
        if !text.ends_with(['.', '\n']) {
            text.push('.');
        }
        to_stderr(&text);
    }
}

/// Writes to stdout. A reader that has seen enough is no failure.
pub fn to_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes to stderr, with the program's name before it. Nobody can be told of a failure.
pub fn to_stderr(text: &str) {
    let text = format!("tla: {}\n", harmless(text.trim_end()));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Names and messages come from files, and a terminal would obey their control characters.
fn harmless(text: &str) -> String {
    escaped(text, |c| c.is_control() && c != '\n')
}

/// A name from a file on one line of its own.
pub fn name(text: &str) -> String {
    escaped(text, char::is_control)
}

fn escaped(text: &str, which: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match which(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_from_files_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\nc\\u{9b}");
        assert_eq!(name("a\nbase digest"), "a\\nbase digest");
    }

    #[test]
    fn digests_are_in_lower_case() {
        assert_eq!(hex(&[0x00, 0xab, 0xff]), "00abff");
    }
}

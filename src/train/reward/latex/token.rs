//! LaTeX in pieces.

/// A piece of LaTeX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `\name`.
    Command(&'a str),
    /// `\` and one character that is no letter.
    Escaped(char),
    /// Any other character.
    Char(char),
}

use Token::{Char, Command, Escaped};

/// The pieces of a text; a minus sign of Unicode is a hyphen.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        if first != '\\' {
            found.push(Char(if first == '\u{2212}' { '-' } else { first }));
            continue;
        }
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        match (letters, rest.chars().next()) {
            (0, None) => {}
            (0, Some(escaped)) => {
                found.push(Escaped(escaped));
                rest = &rest[escaped.len_utf8()..];
            }
            _ => {
                found.push(Command(&rest[..letters]));
                rest = &rest[letters..];
            }
        }
    }
    found
}

/// Whether it is white space.
pub fn is_space(token: Token<'_>) -> bool {
    matches!(token, Char(c) if c.is_whitespace())
}

/// The text of pieces.
pub fn written(tokens: &[Token<'_>]) -> String {
    let mut text = String::new();
    let mut after_command = false;
    for token in tokens {
        match token {
            Command(name) => {
                text.push('\\');
                text.push_str(name);
            }
            Escaped(c) => text.extend(['\\', *c]),
            Char(c) => {
                if after_command && c.is_ascii_alphabetic() {
                    text.push(' ');
                }
                text.push(*c);
            }
        }
        after_command = matches!(token, Command(_));
    }
    text
}

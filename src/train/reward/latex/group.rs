//! Braces: what is wrapped in them or a command, and what takes them.

use super::token::Token::{self, Char, Command, Escaped};

/// Without a final point, braces around the whole, `x =` before it, and with a text that is the
/// whole taken out of its command.
pub fn unwrapped(mut tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    if tokens.last() == Some(&Char('.')) {
        tokens.pop();
    }
    if tokens.first() == Some(&Command("text"))
        && group_end(&tokens, 1).is_some_and(|end| end + 1 == tokens.len())
    {
        tokens.remove(0);
    }
    if group_end(&tokens, 0).is_some_and(|end| end + 1 == tokens.len()) {
        tokens.pop();
        tokens.remove(0);
    }
    let equals = tokens.iter().filter(|t| **t == Char('=')).count();
    let named = match tokens[..] {
        [Char(name), Char('='), _, ..] => name.is_alphabetic(),
        [Command(_), Char('='), _, ..] => true,
        _ => false,
    };
    if named && equals == 1 {
        tokens.drain(..2);
    }
    tokens
}

/// Where the group that opens at `from` closes.
fn group_end(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    if tokens.get(from) != Some(&Char('{')) {
        return None;
    }
    let mut open = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Char('{') => open += 1,
            Char('}') if open == 1 => return Some(at),
            Char('}') => open -= 1,
            _ => {}
        }
    }
    None
}

/// Without a unit, a text with which the answer ends and perhaps its power, behind a number or a
/// name: `5\text{ cm}^2` is 5. Behind a sign of relation or operation a text is part of the answer, and
/// so is the half of a day everywhere.
pub fn without_unit(mut tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    let Some(at) = tokens.iter().rposition(|t| *t == Command("text")) else { return tokens };
    let Some(end) = group_end(&tokens, at + 1) else { return tokens };
    let after = match tokens[end + 1..] {
        [Char('^'), Char('{'), ..] => group_end(&tokens, end + 2),
        [Char('^'), _, ..] => Some(end + 2),
        _ => Some(end),
    };
    let measured = at.checked_sub(1).is_some_and(|before| match tokens[before] {
        Char(c) => c.is_alphanumeric() || matches!(c, '}' | ')' | ']' | '.'),
        Escaped(c) => c == '}',
        Command(name) => name == "pi",
    });
    let letters = tokens[at + 1..end].iter().filter_map(|t| match t {
        Char(c) if c.is_alphabetic() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    let half = ["am", "pm"].iter().any(|half| letters.clone().eq(half.chars()));
    if measured && !half && after == tokens.len().checked_sub(1) {
        tokens.truncate(at);
    }
    tokens
}

/// How many arguments a command or sign takes whose braces may be left out.
fn arguments(token: Token<'_>) -> usize {
    match token {
        Command("frac" | "binom") => 2,
        Command("sqrt" | "overline" | "bar" | "vec" | "hat" | "mathbb" | "mathcal") => 1,
        Char('^' | '_') => 1,
        _ => 0,
    }
}

/// With braces around every argument, and without `\text` and its braces where they hold none.
pub fn braced<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut out = Vec::with_capacity(tokens.len());
    // How many arguments are awaited, in each group that is open, and whether its braces show.
    let mut awaited = vec![(0usize, true)];
    let mut rest = tokens.iter().peekable();
    while let Some(&token) = rest.next() {
        let bare = awaited.last().is_some_and(|(n, _)| *n > 0);
        if token == Command("text") {
            if !bare && rest.next_if_eq(&&Char('{')).is_some() {
                awaited.push((0, false));
            }
            continue;
        }
        match token {
            Char(' ') if bare => {}
            Char('{') => {
                if let Some((n, _)) = awaited.last_mut() {
                    *n = n.saturating_sub(1);
                }
                awaited.push((0, true));
                out.push(token);
            }
            Char('}') => {
                let group = awaited.pop();
                if awaited.is_empty() {
                    awaited.push((0, true));
                }
                if group.is_none_or(|(_, shows)| shows) {
                    out.push(token);
                }
            }
            // `\sqrt[3]{x}`: the index comes before the argument.
            Char('[') if bare && out.last() == Some(&Command("sqrt")) => {
                out.push(token);
                out.extend(rest.by_ref().take_while(|t| **t != Char(']')).copied());
                out.push(Char(']'));
            }
            _ if bare => {
                out.extend([Char('{'), token, Char('}')]);
                if let Some((n, _)) = awaited.last_mut() {
                    *n -= 1;
                }
            }
            _ => {
                out.push(token);
                if let Some((n, _)) = awaited.last_mut() {
                    *n = arguments(token);
                }
            }
        }
    }
    out
}

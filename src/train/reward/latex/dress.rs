//! What changes the looks of an answer and nothing else.

use super::token::{
    Token::{self, Char, Command, Escaped},
    is_space,
};

/// Without what changes nothing but the looks, and with one name for each command.
pub fn without_dress(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    let mut kept: Vec<Token<'_>> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        match token {
            Command("left" | "right") => {
                // `\right.` shows nothing.
                rest.next_if_eq(&Char('.'));
            }
            Command(
                "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr"
                | "displaystyle" | "textstyle" | "limits",
            )
            | Escaped('!' | ',' | ';' | ':' | '$' | '%' | '(' | ')' | '[' | ']')
            | Char('$' | '%') => {}
            Command("quad" | "qquad") | Escaped(' ') | Char('~') => kept.push(Char(' ')),
            Command("dfrac" | "tfrac" | "cfrac") => kept.push(Command("frac")),
            Command("le") => kept.push(Command("leq")),
            Command("ge") => kept.push(Command("geq")),
            Command("ne") => kept.push(Command("neq")),
            Command("lbrace") => kept.push(Escaped('{')),
            Command("rbrace") => kept.push(Escaped('}')),
            Command(
                "mbox" | "textbf" | "textit" | "textrm" | "mathrm" | "mathbf" | "operatorname",
            ) => {
                kept.push(Command("text"));
            }
            Char('\u{b0}') | Command("degree") => {}
            Command("circ") => degree(&mut kept, &mut rest),
            other => kept.push(other),
        }
    }
    kept
}

/// `^\circ` and `^{\circ}` are signs of degrees, and go; any other circle stays.
fn degree<'a>(
    kept: &mut Vec<Token<'a>>,
    rest: &mut std::iter::Peekable<impl Iterator<Item = Token<'a>>>,
) {
    let shown: Vec<Token<'a>> =
        kept.iter().rev().filter(|t| !is_space(**t)).take(2).copied().collect();
    let (raised, in_braces) = match shown[..] {
        [Char('^'), ..] => (true, false),
        [Char('{'), Char('^')] => (true, true),
        _ => (false, false),
    };
    if !raised {
        return kept.push(Command("circ"));
    }
    while rest.next_if(|t| is_space(*t)).is_some() {}
    if in_braces && rest.next_if_eq(&Char('}')).is_none() {
        return kept.push(Command("circ"));
    }
    let shown = if in_braces { 2 } else { 1 };
    for _ in 0..shown {
        while kept.pop_if(|t| is_space(*t)).is_some() {}
        kept.pop();
    }
}

/// Keeps a space only between digits, where it separates the parts of a mixed number, and behind a
/// comma, where it separates items; `{,}` is a comma.
pub fn spaced(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    let mut kept: Vec<Token<'_>> = Vec::with_capacity(tokens.len());
    let mut space = false;
    for token in tokens {
        if is_space(token) {
            space = true;
            continue;
        }
        let decides = match (kept.last(), token) {
            (Some(Char(',')), _) => true,
            (Some(Char(before)), Char(c)) => before.is_ascii_digit() && c.is_ascii_digit(),
            _ => false,
        };
        if space && decides {
            kept.push(Char(' '));
        }
        space = false;
        match (&kept[..], token) {
            ([.., Char('{'), Char(',')], Char('}')) => {
                kept.truncate(kept.len() - 2);
                kept.push(Char(','));
            }
            _ => kept.push(token),
        }
    }
    kept
}

//! When two answers in LaTeX are the same.
//!
//! Both are brought to a normal form, and are the same if these are equal as text, or are numbers
//! of one exact value (`\frac{1}{2}`, `1/2`, `0.5`), or lists of the same brackets whose items are
//! the same. Nothing is evaluated beyond that: `\sqrt{4}` is not `2`, and `\pi` is only itself.
//!
//! The normal form follows the grader published with MATH (Hendrycks et al. 2021,
//! `math_equivalence.py`, `_strip_string`), token by token where that replaces text: spacing,
//! `$`, `\left` and `\right`, degree and per cent signs, a unit in `\text{…}` at the end and `x =`
//! at the beginning go; `\dfrac` and `\tfrac` become `\frac`; `\frac12` and `\sqrt3` get their
//! braces. As there, `50\%` is 50 and not 0.5. Beyond it: `x^2` is `x^{2}`, `\text{(A)}` alone is
//! `(A)`, and spaces that decide what is meant stay (`3 1/2` is not `31/2`).

use super::rational::Rational;

/// The longest answer that is brought to a normal form, in bytes; longer ones are compared as they
/// are.
pub const MAX_ANSWER: usize = 2000;

/// Whether two answers are the same.
pub fn equivalent(a: &str, b: &str) -> bool {
    if a.trim() == b.trim() {
        return !a.trim().is_empty();
    }
    let (Some(a), Some(b)) = (normal(a), normal(b)) else { return false };
    same(&a, &b) || same_items(&a, &b)
}

/// Two answers in normal form, or two items of lists.
fn same(a: &str, b: &str) -> bool {
    // A space behind a comma tells a list from a grouped number, and nothing else.
    let plain = |text: &str| text.replace(", ", ",");
    if plain(a) == plain(b) {
        return !a.is_empty();
    }
    matches!((Rational::parse(a), Rational::parse(b)), (Some(a), Some(b)) if a == b)
}

fn same_items(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (List::of(a), List::of(b)) else { return false };
    let pairs = || a.items.iter().zip(&b.items);
    a.brackets == b.brackets && a.items.len() == b.items.len() && pairs().all(|(a, b)| same(a, b))
}

/// Several items between commas, in brackets or not.
struct List<'a> {
    brackets: Option<(char, char)>,
    items: Vec<&'a str>,
}

impl<'a> List<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (first, last) = (text.chars().next()?, text.chars().next_back()?);
        let bracketed = matches!(first, '(' | '[') && matches!(last, ')' | ']');
        let inside = if bracketed { &text[1..text.len() - 1] } else { text };
        let (mut open, mut from) = (0i32, 0);
        let mut found = Vec::new();
        for (at, byte) in inside.bytes().enumerate() {
            match byte {
                b'(' | b'[' | b'{' => open += 1,
                b')' | b']' | b'}' => open -= 1,
                b',' if open == 0 => {
                    found.push(inside[from..at].trim());
                    from = at + 1;
                }
                _ => {}
            }
            if open < 0 {
                return None;
            }
        }
        found.push(inside[from..].trim());
        let brackets = bracketed.then_some((first, last));
        (found.len() > 1).then_some(Self { brackets, items: found })
    }
}

/// The normal form of an answer; `None` if it is longer than [`MAX_ANSWER`].
pub fn normal(answer: &str) -> Option<String> {
    if answer.len() > MAX_ANSWER {
        return None;
    }
    let mut tokens = spaced(without_dress(tokens(answer)));
    loop {
        let before = tokens.len();
        tokens = without_unit(unwrapped(tokens));
        if tokens.len() == before {
            break;
        }
    }
    Some(written(&braced(&tokens)))
}

/// A piece of LaTeX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// `\name`.
    Command(&'a str),
    /// `\` and one character that is no letter.
    Escaped(char),
    /// Any other character.
    Char(char),
}

use Token::{Char, Command, Escaped};

fn tokens(text: &str) -> Vec<Token<'_>> {
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

/// Without what changes nothing but the looks, and with one name for each command.
fn without_dress(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
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

fn is_space(token: Token<'_>) -> bool {
    matches!(token, Char(c) if c.is_whitespace())
}

/// Keeps a space only between digits, where it separates the parts of a mixed number, and behind a
/// comma, where it separates items; `{,}` is a comma.
fn spaced(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
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

/// Without a final point, braces around the whole, `x =` before it, and with a text that is the
/// whole taken out of its command.
fn unwrapped(mut tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
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
/// name: `5\text{ cm}^2` is 5. Behind a sign of relation or operation a text is part of the answer.
fn without_unit(mut tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
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
    if measured && after == tokens.len().checked_sub(1) {
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

/// With braces around every argument, and without `\text`.
fn braced<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut out = Vec::with_capacity(tokens.len());
    // How many arguments are awaited, in each group that is open.
    let mut awaited = vec![0usize];
    let mut rest = tokens.iter().peekable();
    while let Some(&token) = rest.next() {
        if token == Command("text") {
            continue;
        }
        let bare = awaited.last().is_some_and(|n| *n > 0);
        match token {
            Char(' ') if bare => {}
            Char('{') => {
                if let Some(n) = awaited.last_mut() {
                    *n = n.saturating_sub(1);
                }
                awaited.push(0);
                out.push(token);
            }
            Char('}') => {
                if awaited.len() > 1 {
                    awaited.pop();
                }
                out.push(token);
            }
            // `\sqrt[3]{x}`: the index comes before the argument.
            Char('[') if bare && out.last() == Some(&Command("sqrt")) => {
                out.push(token);
                out.extend(rest.by_ref().take_while(|t| **t != Char(']')).copied());
                out.push(Char(']'));
            }
            _ if bare => {
                out.extend([Char('{'), token, Char('}')]);
                if let Some(n) = awaited.last_mut() {
                    *n -= 1;
                }
            }
            _ => {
                out.push(token);
                if let Some(n) = awaited.last_mut() {
                    *n = arguments(token);
                }
            }
        }
    }
    out
}

fn written(tokens: &[Token<'_>]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn all_same(answers: &[&str]) {
        for (a, b) in answers.iter().flat_map(|a| answers.iter().map(move |b| (a, b))) {
            assert!(equivalent(a, b), "{a} ({:?}) and {b} ({:?})", normal(a), normal(b));
        }
    }

    #[track_caller]
    fn all_different(answers: &[&str]) {
        for (i, a) in answers.iter().enumerate() {
            for b in &answers[i + 1..] {
                assert!(!equivalent(a, b), "{a} ({:?}) and {b} ({:?})", normal(a), normal(b));
            }
        }
    }

    #[test]
    fn fractions_and_decimals_of_one_value_are_the_same() {
        all_same(&[
            "\\frac{1}{2}",
            "1/2",
            "0.5",
            ".5",
            "\\dfrac{1}{2}",
            "\\tfrac12",
            "\\frac1{2}",
            "$0.50$",
            "\\frac{2}{4}",
            "0.5.",
            "{0.5}",
            "x = 0.5",
            "x=\\frac 1 2",
        ]);
        all_same(&[
            "3\\frac{1}{2}",
            "3 1/2",
            "3.5",
            "\\frac{7}{2}",
            "3\\tfrac12",
            "3 \\frac{1}{2}",
        ]);
        all_same(&["-\\frac{1}{3}", "\\frac{-1}{3}", "-1/3", "\u{2212}1/3", "\\frac{1}{-3}"]);
        all_same(&["10{,}000", "10,000", "10000", "10\\,000", "10,\\!000", "\\$10,000"]);
        all_different(&["0.5", "5", "0.05", "\\frac{1}{3}", "0.333", "3 1/2", "31/2"]);
    }

    #[test]
    fn units_and_signs_of_measure_are_no_part_of_an_answer() {
        all_same(&[
            "5",
            "5\\text{ cm}",
            "5 \\mbox{ cm}^2",
            "5\\mathrm{cm}^{2}",
            "\\$5",
            "5\\%",
            "5\\text{ m}^2.",
        ]);
        all_same(&["90", "90^\\circ", "90^{\\circ}", "90\u{b0}", "90 ^ { \\circ }", "90\\degree"]);
        all_same(&["\\text{(A)}", "(A)", "\\textbf{(A)}"]);
        all_same(&["\\text{Evelyn}", "Evelyn", "\\mbox{Evelyn}"]);
        all_different(&["x=\\text{even}", "x=\\text{odd}", "\\text{A or B}", "\\text{A}"]);
        all_different(&["50\\%", "0.5"]);
    }

    #[test]
    fn symbols_are_compared_by_their_normal_form() {
        all_same(&["\\sqrt3", "\\sqrt{3}", " \\sqrt {3} "]);
        all_same(&["x^2+1", "x^{2} + 1", "x^2\\!+1"]);
        all_same(&["\\left[0,\\infty\\right)", "[0, \\infty)", "[0,\\infty)"]);
        all_same(&["x \\le 3", "x\\leq3"]);
        all_same(&["(1, \\frac12)", "(1,0.5)", "\\left( 1, \\dfrac{2}{4} \\right)"]);
        all_same(&["\\sqrt[3]{2}", "\\sqrt[3]2"]);
        all_different(&["\\pi r", "\\pi", "r", "2\\pi", "x^2", "x^{22}", "x2"]);
        all_different(&["[1,2]", "(1,2)", "1,2", "(1,2,3)", "(2,1)", "(1,2]"]);
        all_different(&["\\frac{\\pi}{2}", "1.5707963", "\\sqrt{4}", "2"]);
        all_different(&["1, 234", "1234"]);
    }

    #[test]
    fn nothing_is_no_answer_and_long_texts_are_compared_as_they_are() {
        assert!(!equivalent("", ""));
        assert!(!equivalent("$$", "\\!"));
        let long = "x".repeat(MAX_ANSWER + 1);
        assert!(equivalent(&long, &long) && !equivalent(&long, "x"));
    }

    proptest! {
        #[test]
        fn equivalence_is_symmetric_and_holds_for_the_normal_form(
            a in "(\\\\frac|\\\\text|\\\\left|\\\\circ|\\\\sqrt|[{}^_ ,.=x12/$()\u{e9}\\\\-]){0,14}",
            b in "(\\\\frac|\\\\text|\\\\left|\\\\circ|\\\\sqrt|[{}^_ ,.=x12/$()\u{e9}\\\\-]){0,14}",
        ) {
            prop_assert_eq!(equivalent(&a, &b), equivalent(&b, &a));
            prop_assert_eq!(equivalent(&a, &a), !a.trim().is_empty());
        }

        #[test]
        fn a_fraction_is_the_same_in_every_form(n in -999i64..999, d in 1i64..999) {
            let forms = [format!("{n}/{d}"), format!("\\dfrac{{{n}}}{{{d}}}"), format!("$\\frac{{{}}}{{{}}}$", 3 * n, 3 * d)];
            prop_assert!(forms.iter().all(|form| equivalent(form, &forms[0])));
            let other = format!("{}/{d}", n + 1);
            prop_assert!(!equivalent(&forms[0], &other));
        }
    }
}

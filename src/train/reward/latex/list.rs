//! Answers of several parts.

/// What holds the parts of an answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Commas, and nothing around them: `1,2`.
    Bare,
    /// Brackets, and commas between: `(1,2]`, `\{1,2\}`.
    Bracketed(&'a str, &'a str),
    /// Signs of union: `[0,1)\cup(2,3]`.
    Union,
}

/// An answer of several parts, or of one in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<'a> {
    pub form: Form<'a>,
    pub items: Vec<&'a str>,
}

const OPENING: [&str; 3] = ["(", "[", "\\{"];
const CLOSING: [&str; 3] = [")", "]", "\\}"];

impl<'a> List<'a> {
    /// The parts of a text in normal form; `None` if it has one only, or its brackets do not match.
    pub fn of(text: &'a str) -> Option<Self> {
        let union = split(text, "\\cup")?;
        if union.len() > 1 {
            return Some(Self { form: Form::Union, items: union });
        }
        let items = split(text, ",")?;
        if items.len() > 1 {
            return Some(Self { form: Form::Bare, items });
        }
        let open = OPENING.into_iter().find(|open| text.starts_with(open))?;
        let close = CLOSING.into_iter().find(|close| text.ends_with(close))?;
        let inside = text.get(open.len()..text.len().checked_sub(close.len())?)?;
        Some(Self { form: Form::Bracketed(open, close), items: split(inside, ",")? })
    }
}

/// The parts of `text` between the `separator`s outside of all brackets and braces, trimmed.
fn split<'a>(text: &'a str, separator: &str) -> Option<Vec<&'a str>> {
    let (mut open, mut from) = (0usize, 0);
    let mut parts = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.checked_sub(1)?,
            _ if open == 0
                && at >= from
                && text.as_bytes()[at..].starts_with(separator.as_bytes()) =>
            {
                parts.push(text[from..at].trim());
                from = at + separator.len();
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    (open == 0).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_what_is_outside_of_all_brackets() {
        let of = |text| List::of(text).map(|list| (list.form, list.items));
        let pair = Form::Bracketed("(", ")");
        assert_eq!(of("(1,2)"), Some((pair, vec!["1", "2"])));
        assert_eq!(of("(1,2),(3,4)"), Some((Form::Bare, vec!["(1,2)", "(3,4)"])));
        assert_eq!(of("((1,2),3)"), Some((pair, vec!["(1,2)", "3"])));
        assert_eq!(of("\\{1,2\\}"), Some((Form::Bracketed("\\{", "\\}"), vec!["1", "2"])));
        assert_eq!(of("[0,1)\\cup(2,3]"), Some((Form::Union, vec!["[0,1)", "(2,3]"])));
        assert_eq!(of("\\frac{1,2}{3}"), None);
        for none in ["", "7", "(1", "1)", "(1,2))", "\u{e9}", "(", ")("] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}

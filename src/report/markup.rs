//! HTML and SVG that is escaped by construction.
//!
//! Nothing but this file makes [`Markup`], and every text and attribute that enters it is escaped: an
//! answer that a model sampled is shown, whatever it holds. Every element is closed, so what comes out
//! is well-formed XML too.

use std::fmt::{Display, Write};

/// A piece of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markup(String);

/// Elements of HTML that hold nothing.
const VOID: [&str; 2] = ["meta", "br"];

impl Markup {
    /// Text as it is.
    pub fn text(text: impl Display) -> Self {
        let mut found = Self::default();
        escape(&text.to_string(), &mut found.0);
        found
    }

    /// The pieces one after the other.
    pub fn all(pieces: impl IntoIterator<Item = Self>) -> Self {
        Self(pieces.into_iter().map(|piece| piece.0).collect())
    }

    /// A style sheet or a script of our own. Neither may hold `</`, which would end it.
    pub fn own(name: &'static str, content: &'static str) -> Self {
        debug_assert!(!content.contains("</"));
        Self(format!("<{name}>{content}</{name}>"))
    }

    /// The page as text.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// An element. Names come from the program, all else from anywhere.
pub fn element(
    name: &'static str,
    attributes: &[(&'static str, &dyn Display)],
    content: Markup,
) -> Markup {
    let mut found = format!("<{name}");
    for (attribute, value) in attributes {
        found.push(' ');
        found.push_str(attribute);
        found.push_str("=\"");
        escape(&value.to_string(), &mut found);
        found.push('"');
    }
    if VOID.contains(&name) {
        found.push_str("/>");
        return Markup(found);
    }
    found.push('>');
    found.push_str(&content.0);
    // Writing to a string cannot fail.
    let _ = write!(found, "</{name}>");
    Markup(found)
}

/// An element of a class.
pub fn of_class(name: &'static str, class: &'static str, content: Markup) -> Markup {
    element(name, &[("class", &class)], content)
}

/// An element without attributes.
pub fn plain(name: &'static str, content: Markup) -> Markup {
    element(name, &[], content)
}

/// Control characters, which HTML forbids, become their pictures.
fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        match character {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            '\n' | '\t' => into.push(character),
            '\0'..='\x1f' => into.extend(char::from_u32(0x2400 + u32::from(character))),
            '\x7f' => into.push('\u{2421}'),
            '\u{80}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => into.push('\u{fffd}'),
            // Would turn the text around them, on the page and in a copy of it.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => into.push('\u{fffd}'),
            _ => into.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_become_markup() {
        let hostile = "</p><script>alert(\"1\" + '2') && x</script>";
        let page = element("p", &[("title", &hostile)], Markup::text(hostile)).into_string();
        let tree = roxmltree::Document::parse(&page).unwrap();
        let root = tree.root_element();
        assert_eq!((root.attribute("title"), root.text()), (Some(hostile), Some(hostile)));
        assert_eq!(tree.descendants().filter(|node| node.is_element()).count(), 1);
    }

    #[test]
    fn characters_that_html_forbids_are_shown_as_pictures() {
        let shown = Markup::text("a\0b\x1b[2J\u{9b}\u{202e}\n\tc").into_string();
        assert_eq!(shown, "a\u{2400}b\u{241b}[2J\u{fffd}\u{fffd}\n\tc");
    }

    #[test]
    fn elements_without_content_are_closed_as_html_wants_it() {
        assert_eq!(
            element("meta", &[("charset", &"utf-8")], Markup::default()).into_string(),
            r#"<meta charset="utf-8"/>"#
        );
        assert_eq!(plain("td", Markup::default()).into_string(), "<td></td>");
    }
}

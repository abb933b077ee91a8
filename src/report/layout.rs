//! Sections, tables and remarks of the page.

use super::markup::{Markup, element, of_class, plain};

/// A section with its heading.
pub fn section(id: &'static str, heading: &str, content: Markup) -> Markup {
    let heading = plain("h2", Markup::text(heading));
    element("section", &[("id", &id)], Markup::all([heading, content]))
}

/// A table of names and what they stand for.
pub fn rows(pairs: impl IntoIterator<Item = (String, String)>) -> Markup {
    let row = |(name, value): (String, String)| {
        let name = element("th", &[("scope", &"row")], Markup::text(name));
        plain("tr", Markup::all([name, plain("td", Markup::text(value))]))
    };
    plain("table", plain("tbody", Markup::all(pairs.into_iter().map(row))))
}

/// A remark.
pub fn note(text: &str) -> Markup {
    of_class("p", "note", Markup::text(text))
}

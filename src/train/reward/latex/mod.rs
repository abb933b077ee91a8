//! When two answers in LaTeX are the same.
//!
//! Both are brought to a normal form, and are the same if these are equal as text, or are numbers
//! of one exact value (`\frac{1}{2}`, `1/2`, `0.5`), or lists of the same brackets, of points or unions
//! of intervals too, whose items are the same. Nothing is evaluated beyond that: `\sqrt{4}` is not `2`, and `\pi` is only itself.
//!
//! The normal form follows the grader published with MATH (Hendrycks et al. 2021,
//! `math_equivalence.py`, `_strip_string`), token by token where that replaces text: spacing,
//! `$`, `\left` and `\right`, degree and per cent signs, a unit in `\text{…}` at the end and `x =`
//! at the beginning go; `\dfrac` and `\tfrac` become `\frac`; `\frac12` and `\sqrt3` get their
//! braces. As there, `50\%` is 50 and not 0.5. Beyond it: `x^2` is `x^{2}`, `\text{(A)}` alone is
//! `(A)`, and spaces that decide what is meant stay (`3 1/2` is not `31/2`).

mod dress;
mod group;
mod list;
mod token;

use dress::{spaced, without_dress};
use group::{braced, unwrapped, without_unit};
use list::List;
use token::{tokens, written};

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
    same(&a, &b)
}

/// Two answers in normal form, or two items of lists; an item is shorter than its list, so this ends.
fn same(a: &str, b: &str) -> bool {
    // A space behind a comma tells a list from a grouped number, and nothing else.
    let plain = |text: &str| text.replace(", ", ",");
    if plain(a) == plain(b) {
        return !a.is_empty();
    }
    if let (Some(a), Some(b)) = (Rational::parse(a), Rational::parse(b)) {
        return a == b;
    }
    let (Some(a), Some(b)) = (List::of(a), List::of(b)) else { return false };
    a.form == b.form
        && a.items.len() == b.items.len()
        && a.items.iter().zip(&b.items).all(|(a, b)| same(a, b))
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
    let text = written(&braced(&tokens));
    Some(text.trim_end_matches('.').to_owned())
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
        all_same(&["(\\text{E})", "(E)", "(\\mbox{E})", "\\text{(E)}"]);
        all_same(&["12\\text{ and }13", "12 and 13", "\\text{12 and 13}"]);
        all_same(&["4:30\\text{ p.m.}", "\\text{4:30 p.m.}", "4:30 p.m.", "4:30\\text{ p.m}"]);
        all_different(&["4:30\\text{ p.m.}", "4:30\\text{ a.m.}", "4:30"]);
        all_same(&["\\frac{\\text{a}}{\\text{b}}c", "\\frac\\text{a}\\text{b}c", "\\frac abc"]);
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
        all_same(&[
            "(1,0.5),(3,4)",
            "(1,\\frac12), (3,4)",
            "\\left(1, \\tfrac{2}{4}\\right),(3,4.0)",
        ]);
        all_same(&["[0,0.5)\\cup(1,2]", "[0,\\frac12) \\cup \\left(1, 2\\right]"]);
        all_same(&["\\{1,0.5\\}", "\\left\\{1, \\frac{1}{2}\\right\\}", "\\lbrace 1,.5\\rbrace"]);
        all_same(&["((1,2),0.5)", "((1, 2), \\frac12)"]);
        all_different(&[
            "(1,0.5),(3,4)",
            "(1,0.5,3,4)",
            "(3,4),(1,0.5)",
            "(1,0.5),[3,4)",
            "(1,0.5)",
        ]);
        all_different(&["[0,1)\\cup(1,2]", "[0,1)\\cup[1,2]", "[0,1),(1,2]", "\\{1,2\\}", "(1,2)"]);
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

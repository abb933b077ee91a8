//! The number that answers a problem, compared exactly.

use std::fmt;

/// What announces the final answer in GSM8K.
pub const MARKER: &str = "####";

/// An exact number in canonical decimal form: no sign but a leading `-`, no leading zeros
/// before the unit, no trailing zeros after the point, no `-0`.
///
/// Two answers are equal when their canonical strings are; no float is involved, so
/// `0.1` and `0.10` are equal and `10000000000000001` and `10000000000000000` are not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer(String);

impl Answer {
    /// Reads a number as GSM8K writes it: surrounding white space, commas between digits, a
    /// leading `+`, a `$` before or after the sign and one trailing period are removed.
    /// `None` if what remains is not digits with at most one point.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('$').unwrap_or(text);
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let text = text.strip_prefix('$').unwrap_or(text);
        let text = text.strip_suffix('.').unwrap_or(text);
        let digits: String = text.chars().filter(|c| *c != ',').collect();
        let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let mut canonical = String::with_capacity(digits.len() + 2);
        if negative && !(whole.is_empty() && fraction.is_empty()) {
            canonical.push('-');
        }
        canonical.push_str(if whole.is_empty() { "0" } else { whole });
        if !fraction.is_empty() {
            canonical.push('.');
            canonical.push_str(fraction);
        }
        Some(Self(canonical))
    }

    /// The canonical decimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn canonical(text: &str, expected: Option<&str>) {
        assert_eq!(Answer::parse(text).as_ref().map(Answer::as_str), expected, "{text}");
    }

    #[test]
    fn notation_is_removed_and_the_number_kept() {
        canonical(" 27 ", Some("27"));
        canonical("1,234,567", Some("1234567"));
        canonical("+5", Some("5"));
        canonical("$18", Some("18"));
        canonical("-$18.50", Some("-18.5"));
        canonical("$-3", Some("-3"));
        canonical("27.", Some("27"));
        canonical("27.00", Some("27"));
        canonical("007", Some("7"));
        canonical(".5", Some("0.5"));
        canonical("-0.0", Some("0"));
        canonical("000", Some("0"));
    }

    #[test]
    fn what_is_not_one_number_is_refused() {
        for text in
            ["", " ", ".", ",", "-", "$", "1.2.3", "1e3", "1/2", "5%", "--5", "1 2", "٣", "NaN"]
        {
            canonical(text, None);
        }
    }

    #[test]
    fn comparison_is_exact_where_floats_are_not() {
        assert_ne!(Answer::parse("10000000000000001"), Answer::parse("10000000000000000"));
        assert_eq!(Answer::parse("0.10"), Answer::parse(".1"));
    }

    proptest! {
        #[test]
        fn every_integer_is_its_own_canonical_form(n in any::<i64>()) {
            let answer = Answer::parse(&n.to_string()).unwrap();
            prop_assert_eq!(answer.as_str(), n.to_string());
        }

        #[test]
        fn the_canonical_form_is_a_fixed_point(text in "[-+$]?[0-9,]{0,8}[.]?[0-9]{0,5}") {
            if let Some(answer) = Answer::parse(&text) {
                let again = Answer::parse(answer.as_str());
                prop_assert_eq!(again, Some(answer));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Answer::parse(&text);
        }
    }
}

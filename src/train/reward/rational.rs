//! Exact values of the numbers answers are written as.

use num_bigint::{BigInt, BigUint, Sign};

/// Fractions inside fractions that are followed.
const MAX_DEPTH: usize = 4;

/// A fraction of integers of any size. Two are equal when their values are.
#[derive(Debug, Clone)]
pub struct Rational {
    numerator: BigInt,
    /// Not 0.
    denominator: BigUint,
}

impl PartialEq for Rational {
    fn eq(&self, other: &Self) -> bool {
        let across = |a: &Self, b: &Self| &a.numerator * BigInt::from(b.denominator.clone());
        across(self, other) == across(other, self)
    }
}

impl Eq for Rational {}

impl Rational {
    /// The value of a number in the normal form of [`super::latex::normal`]: `-1,234.5`, `1/2`,
    /// `\frac{1}{2}` with numbers in it, or the mixed numbers `3\frac{1}{2}` and `3 1/2`.
    ///
    /// `None` for anything else: a product or a root has no value here. A mixed number needs a
    /// fraction below 1, because `2\frac{3}{2}` may be meant as a product. The work is at most
    /// quadratic in the length of `text`.
    pub fn parse(text: &str) -> Option<Self> {
        value(text, MAX_DEPTH)
    }

    fn over(self, other: &Self) -> Option<Self> {
        let by = BigInt::from_biguint(other.numerator.sign(), other.denominator.clone());
        let denominator = self.denominator * other.numerator.magnitude();
        if denominator.bits() == 0 {
            return None;
        }
        Some(Self { numerator: self.numerator * by, denominator })
    }

    fn plus(self, other: &Self) -> Self {
        let left = self.numerator * BigInt::from(other.denominator.clone());
        let right = &other.numerator * BigInt::from(self.denominator.clone());
        Self { numerator: left + right, denominator: self.denominator * &other.denominator }
    }

    fn is_proper(&self) -> bool {
        self.numerator.sign() != Sign::Minus && *self.numerator.magnitude() < self.denominator
    }
}

fn value(text: &str, depth: usize) -> Option<Rational> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text.strip_prefix('+').unwrap_or(text).trim_start()),
    };
    let mut found = unsigned(text, depth)?;
    if negative {
        found.numerator = -found.numerator;
    }
    Some(found)
}

fn unsigned(text: &str, depth: usize) -> Option<Rational> {
    if let Some((whole, rest)) = text.split_once("\\frac") {
        let fraction = fraction(rest, depth)?;
        if whole.is_empty() {
            return Some(fraction);
        }
        return mixed(whole, fraction);
    }
    let Some((above, below)) = text.split_once('/') else { return decimal(text) };
    let (whole, above) = match above.trim_end().split_once(' ') {
        Some((whole, above)) => (Some(whole), above),
        None => (None, above.trim_end()),
    };
    let fraction = decimal(above)?.over(&decimal(below.trim_start())?)?;
    match whole {
        Some(whole) => mixed(whole, fraction),
        None => Some(fraction),
    }
}

fn mixed(whole: &str, fraction: Rational) -> Option<Rational> {
    let whole = whole.trim_end();
    let is_whole = !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit());
    (is_whole && fraction.is_proper()).then(|| decimal(whole)).flatten().map(|w| w.plus(&fraction))
}

/// `{a}{b}`, and nothing after.
fn fraction(text: &str, depth: usize) -> Option<Rational> {
    let (above, rest) = group(text)?;
    let (below, rest) = group(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let depth = depth.checked_sub(1)?;
    value(above, depth)?.over(&value(below, depth)?)
}

/// What is in the braces `text` begins with, and what follows them.
fn group(text: &str) -> Option<(&str, &str)> {
    let mut open = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open = open.checked_sub(1)?,
            _ if open == 0 => return None,
            _ => {}
        }
        if open == 0 {
            return Some((&text[1..at], &text[at + 1..]));
        }
    }
    None
}

/// Digits with at most one point, and commas between groups of three before it.
fn decimal(text: &str) -> Option<Rational> {
    let (whole, after) = text.split_once('.').unwrap_or((text, ""));
    let mut digits = String::with_capacity(text.len());
    let mut groups = whole.split(',');
    digits.push_str(groups.next()?);
    let grouped = whole.contains(',');
    if grouped && !(1..=3).contains(&digits.len()) {
        return None;
    }
    for group in groups {
        if group.len() != 3 {
            return None;
        }
        digits.push_str(group);
    }
    digits.push_str(after);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let numerator = BigUint::parse_bytes(digits.as_bytes(), 10)?;
    let places = u32::try_from(after.len()).ok()?;
    Some(Rational { numerator: numerator.into(), denominator: BigUint::from(10u8).pow(places) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn equal(texts: &[&str]) {
        let values: Vec<_> = texts.iter().map(|t| Rational::parse(t)).collect();
        for (value, text) in values.iter().zip(texts) {
            assert!(value.is_some() && *value == values[0], "{text} is not {}", texts[0]);
        }
    }

    #[test]
    fn one_value_has_many_forms() {
        equal(&["0.5", ".5", "1/2", "\\frac{1}{2}", "\\frac{-1}{-2}", "2/4", "\\frac{.5}{1}"]);
        equal(&["-7/2", "-3.5", "-3\\frac{1}{2}", "-3 1/2", "\\frac{-7}{2}", "-\\frac{7}{2}"]);
        equal(&["1,234,567", "1234567", "1234567.00"]);
        equal(&["\\frac{\\frac{1}{2}}{3}", "1/6"]);
        equal(&["0", "-0", "0/5", "0.000"]);
    }

    #[test]
    fn values_are_exact() {
        let of = |text: &str| Rational::parse(text).unwrap();
        assert_ne!(of("10000000000000001"), of("10000000000000000"));
        assert_ne!(of("0.333333333333333333"), of("1/3"));
        assert_eq!(of(&format!("1{}/1{}", "0".repeat(900), "0".repeat(899))), of("10"));
    }

    #[test]
    fn what_has_no_value_here_has_none() {
        for text in [
            "",
            "-",
            ".",
            "1.2.3",
            "1/0",
            "\\frac{1}{0}",
            "1/2/3",
            "x",
            "2\\frac{3}{2}",
            "1,23",
            "12,34",
            "1234,567",
            ",123",
            "1,234,",
            "\\frac{1}",
            "\\frac{1}{2}3",
            "\\frac12",
            "1e3",
            "3 4",
            "1.5 1/2",
            "\\frac{1}{2",
            "(1,2)",
            "--1",
            "\u{663}",
        ] {
            assert_eq!(Rational::parse(text), None, "{text}");
        }
        assert_eq!(Rational::parse(&"\\frac{".repeat(1000)), None);
    }

    proptest! {
        #[test]
        fn equality_is_that_of_cross_products(a in -99i64..99, b in 1i64..99, c in -99i64..99, d in 1i64..99) {
            let of = |n: i64, d: i64| Rational::parse(&format!("{n}/{d}")).unwrap();
            prop_assert_eq!(of(a, b) == of(c, d), a * d == c * b);
            let nested = Rational::parse(&format!("\\frac{{{a}}}{{{b}}}")).unwrap();
            prop_assert_eq!(nested, of(a, b));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9./, {}\\\\frac\u{e9}]*") {
            let _ = Rational::parse(&text);
        }
    }
}

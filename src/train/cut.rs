//! Answers cut at the longest length: they are worth nothing whatever they were going to say, so where
//! most are cut, that is the first thing to change.

use std::fmt;

/// The share of cut answers from which on it is worth a word.
const MANY: f64 = 0.5;

/// How many answers were cut; displayed as what to do about it, or as nothing where few were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The share of the answers.
    pub share: f64,
    /// The most tokens an answer might have.
    pub max_tokens: usize,
}

impl Cut {
    /// `cut` of `answers`.
    pub fn of(cut: u64, answers: u64, max_tokens: usize) -> Self {
        Self { share: cut as f64 / answers.max(1) as f64, max_tokens }
    }

    /// Whether most answers were cut.
    pub fn is_most(&self) -> bool {
        self.share >= MANY
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_most() {
            return Ok(());
        }
        let (percent, most) = (100.0 * self.share, self.max_tokens);
        write!(f, "{percent:.0} % of the answers were cut at --max-tokens {most}: raise it; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_most_answers_were_cut_is_the_longest_length_blamed() {
        let told = Cut::of(3, 4, 2).to_string();
        assert_eq!(told, "75 % of the answers were cut at --max-tokens 2: raise it; ");
        assert_eq!(Cut::of(1, 4, 2).to_string(), "");
        assert_eq!(Cut::of(0, 0, 2).to_string(), "");
    }
}

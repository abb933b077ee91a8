//! Prompts of one batch, side by side.

/// The length of the longest prompt.
pub(super) fn longest(prompts: &[Vec<u32>]) -> usize {
    prompts.iter().map(Vec::len).max().unwrap_or(0)
}

/// Prompts padded to one length, on the left unless the model's attention wants it on the right.
pub(super) struct Prefill {
    pub length: usize,
    pub ids: Vec<i64>,
    pub mask: Vec<i64>,
    pub positions: Vec<i64>,
    /// Where the last token of each prompt is.
    pub ends: Vec<usize>,
}

impl Prefill {
    /// Pads `prompts` to `length`, which none exceeds.
    pub fn new(prompts: &[Vec<u32>], length: usize, pad: u32, padded_right: bool) -> Self {
        let (ids, mask, positions, ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut made = Self { length, ids, mask, positions, ends };
        for prompt in prompts {
            let before = if padded_right { 0 } else { length - prompt.len() };
            let own = before..before + prompt.len();
            made.ids.extend(std::iter::repeat_n(i64::from(pad), before));
            made.ids.extend(prompt.iter().map(|t| i64::from(*t)));
            made.ids.extend(std::iter::repeat_n(i64::from(pad), length - own.end));
            made.mask.extend((0..length).map(|k| i64::from(own.contains(&k))));
            let last = prompt.len().saturating_sub(1);
            made.positions.extend((0..length).map(|k| k.saturating_sub(before).min(last) as i64));
            made.ends.push(own.end.saturating_sub(1));
        }
        made
    }
}

//! Prompts in parts, for threads to share out.

use std::ops::Range;

/// The fewest answers that are worth a thread's while.
const LEAST: usize = 8;
/// About the most answers that are written at once: more of them are no faster, and leave less for
/// other threads.
const MOST: usize = 32;

/// Consecutive prompts, in parts of about as many answers each; an even number of parts, or one if
/// there is too little to do. What the parts are does not depend on who takes them.
pub(super) fn parts(prompts: usize, samples: usize) -> Vec<Range<usize>> {
    let answers = prompts.saturating_mul(samples);
    let wanted = answers.div_ceil(MOST).max(2).next_multiple_of(2);
    let count = wanted.min(prompts).min(answers / LEAST).max(1);
    (0..count).map(|part| part * prompts / count..(part + 1) * prompts / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_in_one_part_and_the_parts_are_of_about_one_size() {
        for (prompts, samples, count) in
            [(32, 1, 2), (192, 1, 6), (24, 8, 6), (4, 8, 2), (9, 100, 9), (65, 1, 4), (23, 1, 2)]
        {
            let made = parts(prompts, samples);
            assert_eq!(made.len(), count, "{made:?}");
            assert_eq!((made[0].start, made[count - 1].end), (0, prompts));
            assert!(made.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = made.iter().map(ExactSizeIterator::len);
            assert!(sizes.clone().max() <= sizes.clone().min().map(|least| least + 1));
            assert!(sizes.clone().all(|size| size * samples >= LEAST), "{made:?}");
        }
    }

    #[test]
    fn few_answers_make_one_part() {
        for (prompts, samples) in [(0, 8), (8, 0), (1, 64), (15, 1), (3, 5)] {
            assert_eq!(parts(prompts, samples), vec![0..prompts; 1]);
        }
    }
}

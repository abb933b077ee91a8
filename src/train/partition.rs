//! Which answers go through the gradient graph together.

use std::cmp::Reverse;

use super::batch::{Layout, Sample};

/// The most positions in a run unless something else is said.
const POSITIONS: usize = 8192;
/// The most bytes that the logits of a run, in float32, come to then.
const LOGITS: usize = 1 << 29;

/// The positions in a run of the gradient graph for a vocabulary of so many tokens, unless
/// something else is said: 8192, or fewer where the logits of all would take more than 512 MiB.
pub fn usual_positions(vocabulary: usize) -> usize {
    (LOGITS / size_of::<f32>() / vocabulary.max(1)).clamp(1, POSITIONS)
}

/// What one more run of the graph costs, in positions: the price of its operators' overhead.
const RUN: usize = 256;

/// Identical answers to one prompt, worth the same, as one that weighs as much as all of them.
/// Neighbours of the same prompt are a group.
pub fn distinct<'a>(samples: &[Sample<'a>]) -> Vec<Sample<'a>> {
    let mut kept: Vec<Sample<'a>> = Vec::with_capacity(samples.len());
    let mut group = 0;
    for sample in samples {
        if kept.last().is_some_and(|last| last.prompt != sample.prompt) {
            group = kept.len();
        }
        let same = |other: &&mut Sample<'a>| {
            other.advantage == sample.advantage && other.completion == sample.completion
        };
        match kept[group..].iter_mut().find(same) {
            Some(first) => first.weight += sample.weight,
            None => kept.push(*sample),
        }
    }
    kept
}

/// Splits samples so that at most `tokens` positions, padding included, go through the graph at
/// once, and as few as may be in all: samples of similar length go together. At least one sample
/// each; with [`Layout::Shared`] a group is split only if it alone is too large. Indices into
/// `samples`.
pub fn micro_batches(samples: &[Sample<'_>], tokens: usize, layout: Layout) -> Vec<Vec<usize>> {
    let mut blocks = match layout {
        Layout::Whole => (0..samples.len()).map(|i| Block::whole(samples, i)).collect(),
        Layout::Shared => groups(samples, tokens),
    };
    blocks.sort_by_key(|b: &Block| (Reverse((b.answer, b.prompt)), b.indices.first().copied()));
    // best[n]: the least positions the first n blocks can cost, and where their last run begins.
    let mut best = vec![(0usize, 0usize)];
    for end in 1..=blocks.len() {
        let mut found: Option<(usize, usize)> = None;
        let mut run = Run::default();
        for start in (0..end).rev() {
            run.add(&blocks[start]);
            let size = run.positions();
            if size > tokens && end - start > 1 {
                break;
            }
            let cost = best[start].0.saturating_add(size).saturating_add(RUN);
            if found.is_none_or(|(least, _)| cost < least) {
                found = Some((cost, start));
            }
        }
        best.push(found.unwrap_or_default());
    }
    let mut batches = Vec::new();
    let mut end = blocks.len();
    while end > 0 {
        let start = best[end].1;
        batches.push(blocks[start..end].iter().flat_map(|b| b.indices.clone()).collect());
        end = start;
    }
    batches.reverse();
    batches
}

/// Samples that stay together.
struct Block {
    indices: Vec<usize>,
    /// Positions of the prompt computed once.
    prompt: usize,
    /// Positions of the longest row.
    answer: usize,
}

impl Block {
    fn whole(samples: &[Sample<'_>], index: usize) -> Self {
        let sample = &samples[index];
        let answer = sample.prompt.len() + sample.completion.tokens.len();
        Self { indices: vec![index], prompt: 0, answer }
    }
}

/// The size of one run.
#[derive(Default)]
struct Run {
    prompts: usize,
    prompt: usize,
    rows: usize,
    answer: usize,
}

impl Run {
    fn add(&mut self, block: &Block) {
        self.prompts += 1;
        self.prompt = self.prompt.max(block.prompt);
        self.rows += block.indices.len();
        self.answer = self.answer.max(block.answer);
    }

    fn positions(&self) -> usize {
        self.prompts
            .saturating_mul(self.prompt)
            .saturating_add(self.rows.saturating_mul(self.answer))
    }
}

/// Neighbours of the same prompt, cut where one prompt and its answers, longest first, are too
/// many positions.
fn groups(samples: &[Sample<'_>], tokens: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut start = 0;
    for group in samples.chunk_by(|a, b| a.prompt == b.prompt) {
        let length = |i: &usize| samples[*i].completion.tokens.len().max(1);
        let mut order: Vec<usize> = (start..start + group.len()).collect();
        start += group.len();
        order.sort_by_key(|i| (Reverse(length(i)), *i));
        let prompt = group.first().map_or(1, |s| s.prompt.len().saturating_sub(1).max(1));
        let longest = order.first().map_or(1, length);
        let room = (tokens.saturating_sub(prompt) / longest).max(1);
        for part in order.chunks(room) {
            let answer = part.first().map_or(0, length);
            blocks.push(Block { indices: part.to_vec(), prompt, answer });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{policy::rollout::Completion, train::batch::MicroBatch};

    fn completion(length: usize) -> Completion {
        let logprobs = vec![-0.5; length];
        Completion { tokens: vec![1; length], logprobs, stopped: true, ..Completion::default() }
    }

    fn samples<'a>(
        prompts: &'a [Vec<u32>],
        answers: &'a [Completion],
        each: usize,
    ) -> Vec<Sample<'a>> {
        let of = |(k, completion): (usize, &'a Completion)| Sample {
            prompt: &prompts[k / each][..],
            completion,
            advantage: 0.5,
            weight: 1.0,
        };
        answers.iter().enumerate().map(of).collect()
    }

    proptest! {
        #[test]
        fn micro_batches_hold_every_sample_once_within_the_budget(
            lengths in prop::collection::vec(1usize..12, 1..25),
            each in 1usize..5, budget in 1usize..60, shared: bool,
        ) {
            let answers: Vec<Completion> = lengths.iter().map(|n| completion(*n)).collect();
            let prompts: Vec<Vec<u32>> =
                (0..lengths.len().div_ceil(each)).map(|k| vec![k as u32; 1 + k % 4]).collect();
            let samples = samples(&prompts, &answers, each);
            let layout = if shared { Layout::Shared } else { Layout::Whole };
            let batches = micro_batches(&samples, budget, layout);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let chosen: Vec<Sample<'_>> = batch.iter().map(|i| samples[*i]).collect();
                let made = MicroBatch::new(&chosen, 0, layout);
                let prompts = made.prompts.map_or(0, |p| p.ids.len());
                prop_assert!(batch.len() == 1 || made.ids.len() + prompts <= budget);
            }
            if shared {
                for (k, prompt) in prompts.iter().enumerate() {
                    let own = k * each..((k + 1) * each).min(lengths.len());
                    let longest = lengths[own.clone()].iter().max().unwrap_or(&0);
                    let whole = (prompt.len() - 1).max(1) + own.len() * longest;
                    let parts = batches.iter().filter(|b| b.iter().any(|i| own.contains(i)));
                    prop_assert!(parts.count() == 1 || whole > budget);
                }
            }
        }
    }

    #[test]
    fn the_logits_of_a_run_are_bounded_whatever_the_vocabulary() {
        assert_eq!([0, 1, 512, 16_384].map(usual_positions), [8192; 4]);
        // Qwen2.5 and Llama 3.
        assert_eq!([151_936, 128_256].map(usual_positions), [883, 1046]);
        assert_eq!(usual_positions(usize::MAX), 1);
    }

    #[test]
    fn lengths_far_apart_go_through_the_graph_apart() {
        let answers: Vec<Completion> =
            (0..40).map(|k| completion(if k % 2 == 0 { 100 } else { 10 })).collect();
        let prompts: Vec<Vec<u32>> = (0..40).map(|k| vec![k]).collect();
        let samples = samples(&prompts, &answers, 1);
        let batches = micro_batches(&samples, 1 << 20, Layout::Shared);
        assert_eq!(batches.len(), 2);
        assert!(batches[0].iter().all(|i| i % 2 == 0));
    }

    #[test]
    fn identical_answers_of_a_group_become_one_that_weighs_as_much() {
        let answers = [completion(2), completion(3), completion(2), completion(2)];
        let prompts = [vec![1], vec![2]];
        let mut samples = samples(&prompts, &answers, 3);
        samples[1].advantage = 0.25;
        let kept = distinct(&samples);
        let seen: Vec<_> =
            kept.iter().map(|s| (s.prompt[0], s.completion.tokens.len(), s.weight)).collect();
        assert_eq!(seen, [(1, 2, 2.0), (1, 3, 1.0), (2, 2, 1.0)]);
    }
}

//! From sampled answers to micro-batches of the gradient graph.

use crate::policy::rollout::Completion;

/// One answer and what it is worth.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Its prompt.
    pub prompt: &'a [u32],
    /// The answer.
    pub completion: &'a Completion,
    /// Its advantage over its group.
    pub advantage: f64,
    /// Share of each of its tokens in the loss; over all tokens of a step the shares sum to 1.
    pub weight: f32,
}

/// Rows padded on the right to one length, and the tokens of their answers. Right padding keeps
/// every row's first position unmasked, so no softmax row is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MicroBatch {
    /// Number of rows.
    pub rows: usize,
    /// Token ids, `[rows, length]`.
    pub ids: Vec<i64>,
    /// 1 where a token counts, `[rows, length]`.
    pub mask: Vec<i64>,
    /// Position of each token in its text, `[rows, length]`.
    pub positions: Vec<i64>,
    /// For each answer token, row·length + column of the position that predicts it.
    pub predicted_from: Vec<i64>,
    /// The answer tokens.
    pub labels: Vec<i64>,
    /// Advantage of each answer token's answer.
    pub advantages: Vec<f32>,
    /// Share of each answer token in the loss.
    pub weights: Vec<f32>,
    /// log-probability of each answer token when it was sampled.
    pub sampled_logprobs: Vec<f32>,
}

impl MicroBatch {
    /// Lays out `samples`, none with an empty prompt.
    pub fn new(samples: &[Sample<'_>], pad: u32) -> Self {
        let of = |s: &Sample<'_>| s.prompt.len() + s.completion.tokens.len();
        let length = samples.iter().map(of).max().unwrap_or(0);
        let mut made = Self { rows: samples.len(), ..Self::default() };
        for (row, sample) in samples.iter().enumerate() {
            let text = sample.prompt.iter().chain(&sample.completion.tokens);
            made.ids.extend(text.map(|t| i64::from(*t)));
            made.ids.resize((row + 1) * length, i64::from(pad));
            let own = of(sample);
            made.mask.extend((0..length).map(|k| i64::from(k < own)));
            made.positions.extend((0..length).map(|k| k.min(own.saturating_sub(1)) as i64));
            let first = row * length + sample.prompt.len() - 1;
            let tokens = sample.completion.tokens.len();
            made.predicted_from.extend((first..first + tokens).map(|k| k as i64));
            made.labels.extend(sample.completion.tokens.iter().map(|t| i64::from(*t)));
            made.advantages.extend(std::iter::repeat_n(sample.advantage as f32, tokens));
            made.weights.extend(std::iter::repeat_n(sample.weight, tokens));
            made.sampled_logprobs.extend_from_slice(&sample.completion.logprobs);
        }
        made
    }
}

/// Groups samples of similar length so that at most `tokens` positions, padding included, go
/// through the graph at once; at least one sample each. Indices into `samples`, longest first.
pub fn micro_batches(samples: &[Sample<'_>], tokens: usize) -> Vec<Vec<usize>> {
    let length = |i: &usize| samples[*i].prompt.len() + samples[*i].completion.tokens.len();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(length(i)), *i));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * length(&batch[0]) <= tokens => batch.push(index),
            _ => batches.push(vec![index]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(tokens: &[u32]) -> Completion {
        Completion { tokens: tokens.to_vec(), logprobs: vec![-0.5; tokens.len()], stopped: true }
    }

    #[test]
    fn each_answer_token_is_predicted_from_the_position_before_it() {
        let (long, short) = (completion(&[7, 8]), completion(&[9]));
        let samples = [
            Sample { prompt: &[1, 2, 3], completion: &long, advantage: 1.0, weight: 0.5 },
            Sample { prompt: &[4], completion: &short, advantage: -1.0, weight: 0.25 },
        ];
        let batch = MicroBatch::new(&samples, 0);
        assert_eq!(batch.ids, [1, 2, 3, 7, 8, 4, 9, 0, 0, 0]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 0, 1, 1, 1, 1]);
        assert_eq!(batch.predicted_from, [2, 3, 5]);
        assert_eq!(batch.labels, [7, 8, 9]);
        assert_eq!(batch.advantages, [1.0, 1.0, -1.0]);
        assert_eq!(batch.weights, [0.5, 0.5, 0.25]);
    }

    #[test]
    fn micro_batches_hold_every_sample_once_within_the_budget() {
        let answers: Vec<Completion> = (1..9).map(|n| completion(&vec![1; n])).collect();
        let samples: Vec<Sample<'_>> = answers
            .iter()
            .map(|c| Sample { prompt: &[1], completion: c, advantage: 0.5, weight: 1.0 })
            .collect();
        let batches = micro_batches(&samples, 12);
        let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        for batch in &batches {
            let longest = 1 + answers[batch[0]].tokens.len();
            assert!(batch.len() == 1 || batch.len() * longest <= 12);
        }
    }
}

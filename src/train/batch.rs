//! From sampled answers to one run of the gradient graph.

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

/// What a row of the gradient graph holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A prompt and an answer; a prompt is computed as often as it was answered.
    Whole,
    /// An answer, behind a prompt that is computed once for all its answers.
    Shared,
}

impl Layout {
    /// Its name in a journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Shared => "shared",
        }
    }
}

/// Prompts, each once, without their last token: that is the first of every row behind it, where
/// the answer's first token is predicted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompts {
    /// Number of prompts.
    pub rows: usize,
    /// Token ids, `[prompts, length]`.
    pub ids: Vec<i64>,
    /// 1 where a token counts, `[prompts, length]`.
    pub mask: Vec<i64>,
    /// Position of each token in its text, `[prompts, length]`.
    pub positions: Vec<i64>,
    /// The prompt each row of the batch goes on from, `[rows]`.
    pub of_row: Vec<i64>,
}

/// Rows padded on the right to one length, and the tokens of their answers. Right padding keeps
/// every row's first position unmasked, so no softmax row is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MicroBatch {
    /// The prompts, if the rows do not hold them.
    pub prompts: Option<Prompts>,
    /// Number of rows.
    pub rows: usize,
    /// Token ids, `[rows, length]`.
    pub ids: Vec<i64>,
    /// 1 where a token counts, `[rows, length]`, or `[rows, prompt + length]` with prompts.
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
    /// Lays out `samples`, none with an empty prompt. With [`Layout::Shared`], neighbours of the
    /// same prompt share it.
    pub fn new(samples: &[Sample<'_>], pad: u32, layout: Layout) -> Self {
        let mut made = Self { rows: samples.len(), ..Self::default() };
        let shared = layout == Layout::Shared;
        let own = |s: &Sample<'_>| Self::row(s, layout).len();
        let length = samples.iter().map(own).max().unwrap_or(0);
        let prompts = shared.then(|| Prompts::new(samples, pad));
        let before = prompts.as_ref().map_or(0, |p| p.ids.len() / p.rows.max(1));
        for (row, sample) in samples.iter().enumerate() {
            let (text, tokens) = (Self::row(sample, layout), sample.completion.tokens.len());
            let past = if shared { sample.prompt.len() - 1 } else { 0 };
            let own = text.len();
            made.ids.extend(text);
            made.ids.resize((row + 1) * length, i64::from(pad));
            made.mask.extend((0..before).map(|k| i64::from(k < past)));
            made.mask.extend((0..length).map(|k| i64::from(k < own)));
            made.positions
                .extend((0..length).map(|k| (past + k.min(own.saturating_sub(1))) as i64));
            let first = row * length + sample.prompt.len() - 1 - past;
            made.predicted_from.extend((first..first + tokens).map(|k| k as i64));
            made.labels.extend(sample.completion.tokens.iter().map(|t| i64::from(*t)));
            made.advantages.extend(std::iter::repeat_n(sample.advantage as f32, tokens));
            made.weights.extend(std::iter::repeat_n(sample.weight, tokens));
            made.sampled_logprobs.extend_from_slice(&sample.completion.logprobs);
        }
        made.prompts = prompts;
        made
    }

    /// The tokens of a row: without a prompt of its own, the last answer token is predicted and
    /// predicts nothing, so it is left out.
    fn row(sample: &Sample<'_>, layout: Layout) -> Vec<i64> {
        let (prompt, answer) = (sample.prompt, &sample.completion.tokens[..]);
        let (prompt, answer) = match layout {
            Layout::Whole => (prompt, answer),
            Layout::Shared => {
                (&prompt[prompt.len() - 1..], &answer[..answer.len().saturating_sub(1)])
            }
        };
        prompt.iter().chain(answer).map(|t| i64::from(*t)).collect()
    }
}

impl Prompts {
    fn new(samples: &[Sample<'_>], pad: u32) -> Self {
        // A prompt of one token leaves a row of padding, of which the first is not masked here so
        // that no softmax row is empty; the rows behind it do not see it.
        let longest = samples.iter().map(|s| s.prompt.len() - 1).max().unwrap_or(0).max(1);
        let mut made = Self::default();
        let mut last: Option<&[u32]> = None;
        for sample in samples {
            if last != Some(sample.prompt) {
                last = Some(sample.prompt);
                let own = sample.prompt.len() - 1;
                made.rows += 1;
                made.ids.extend(sample.prompt[..own].iter().map(|t| i64::from(*t)));
                made.ids.resize(made.rows * longest, i64::from(pad));
                made.mask.extend((0..longest).map(|k| i64::from(k < own.max(1))));
                made.positions.extend((0..longest).map(|k| k.min(own.saturating_sub(1)) as i64));
            }
            made.of_row.push(made.rows as i64 - 1);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(tokens: &[u32]) -> Completion {
        let logprobs = vec![-0.5; tokens.len()];
        Completion { tokens: tokens.to_vec(), logprobs, stopped: true, ..Completion::default() }
    }

    #[test]
    fn each_answer_token_is_predicted_from_the_position_before_it() {
        let (long, short) = (completion(&[7, 8]), completion(&[9]));
        let samples = [
            Sample { prompt: &[1, 2, 3], completion: &long, advantage: 1.0, weight: 0.5 },
            Sample { prompt: &[4], completion: &short, advantage: -1.0, weight: 0.25 },
        ];
        let batch = MicroBatch::new(&samples, 0, Layout::Whole);
        assert_eq!(batch.prompts, None);
        assert_eq!(batch.ids, [1, 2, 3, 7, 8, 4, 9, 0, 0, 0]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 0, 1, 1, 1, 1]);
        assert_eq!(batch.predicted_from, [2, 3, 5]);
        assert_eq!(batch.labels, [7, 8, 9]);
        assert_eq!(batch.advantages, [1.0, 1.0, -1.0]);
        assert_eq!(batch.weights, [0.5, 0.5, 0.25]);
    }

    #[test]
    fn a_shared_prompt_is_there_once_and_its_last_token_begins_every_row() {
        let answers = [completion(&[7, 8, 6]), completion(&[9]), completion(&[5, 4])];
        let sample =
            |prompt, completion| Sample { prompt, completion, advantage: 1.0, weight: 0.5 };
        let samples = [
            sample(&[1, 2, 3][..], &answers[0]),
            sample(&[1, 2, 3][..], &answers[1]),
            sample(&[4][..], &answers[2]),
        ];
        let batch = MicroBatch::new(&samples, 0, Layout::Shared);
        let prompts = batch.prompts.unwrap();
        assert_eq!((prompts.rows, &prompts.of_row[..]), (2, &[0, 0, 1][..]));
        assert_eq!(prompts.ids, [1, 2, 0, 0]);
        assert_eq!(prompts.mask, [1, 1, 1, 0]);
        assert_eq!(prompts.positions, [0, 1, 0, 0]);
        assert_eq!(batch.ids, [3, 7, 8, 3, 0, 0, 4, 5, 0]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(batch.positions, [2, 3, 4, 2, 2, 2, 0, 1, 1]);
        assert_eq!(batch.predicted_from, [0, 1, 2, 3, 6, 7]);
        assert_eq!(batch.labels, [7, 8, 6, 9, 5, 4]);
    }
}

//! Batched sampling with a key-value cache.
//!
//! A prompt is run once for all its samples: its cache rows are repeated, not recomputed. Rows
//! whose answer is complete leave the batch as soon as enough of them have.

use super::{
    PolicyError,
    sampling::{greedy, sample, uniform},
};
use crate::runtime::{Cache, CausalGraph, Rows, RuntimeError, Tensor};

/// The share of live rows under which finished ones are dropped from the batch: dropping copies
/// the cache once, keeping computes the finished rows for nothing.
const COMPACT_BELOW: f64 = 0.8;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decoding {
    /// The likeliest token, the first among equals.
    Greedy,
    /// From softmax(logits / temperature).
    Sampled {
        /// Above 0.
        temperature: f32,
        /// Names the stream of random numbers.
        seed: u64,
        /// Second name of the stream: the training step.
        step: u64,
        /// Third name of the stream for the first answer; the next have those that follow.
        first_row: u64,
    },
}

/// What a rollout is asked for.
#[derive(Debug, Clone, Copy)]
pub struct RolloutPlan<'a> {
    /// Prompts as token ids, none empty.
    pub prompts: &'a [Vec<u32>],
    /// Answers per prompt.
    pub samples: usize,
    /// The most tokens an answer may have.
    pub max_tokens: usize,
    /// Tokens that end an answer.
    pub stop: &'a [u32],
    /// The token that fills short prompts; it is masked.
    pub pad: u32,
    /// How tokens are chosen.
    pub decoding: Decoding,
}

/// One sampled answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// Its tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// log-probability of each when it was sampled; 0 under greedy decoding.
    pub logprobs: Vec<f32>,
    /// Whether it ended by itself.
    pub stopped: bool,
    /// Sum over its tokens of the entropy, in nats, of the distribution they were drawn from; 0
    /// under greedy decoding.
    pub entropy: f64,
}

/// An additional input of the graph with a row for each row of the batch.
#[derive(Clone, Copy)]
pub struct ByPrompt<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value for a batch whose rows answer these prompts.
    pub rows: &'a dyn Fn(&[usize]) -> Result<Tensor, PolicyError>,
}

/// Answers `plan.samples` times to each prompt; answer s of prompt p is at p·samples + s. The
/// graph's additional inputs, such as the adapter, are in `extra`.
///
/// # Errors
/// If a prompt is empty, the runtime fails, or logits are not finite.
pub fn rollout(
    graph: &mut CausalGraph,
    extra: &[(&str, &Tensor)],
    plan: &RolloutPlan<'_>,
) -> Result<Vec<Completion>, PolicyError> {
    answers(graph, &Extra::Shared(extra), plan)
}

/// [`rollout`] with an input that differs between prompts, such as an adapter for each.
///
/// # Errors
/// As [`rollout`].
pub fn rollout_by_prompt(
    graph: &mut CausalGraph,
    extra: ByPrompt<'_>,
    plan: &RolloutPlan<'_>,
) -> Result<Vec<Completion>, PolicyError> {
    answers(graph, &Extra::Own(extra), plan)
}

/// Inputs beside those of the language model.
enum Extra<'a> {
    Shared(&'a [(&'a str, &'a Tensor)]),
    Own(ByPrompt<'a>),
}

impl Extra<'_> {
    /// The logits and cache of a batch whose rows answer `prompts`.
    fn step(
        &self,
        graph: &mut CausalGraph,
        rows: &Rows<'_>,
        cache: &Cache,
        prompts: impl Iterator<Item = usize>,
    ) -> Result<(Tensor, Cache), PolicyError> {
        match self {
            Self::Shared(extra) => Ok(graph.step(rows, cache, extra)?),
            Self::Own(ByPrompt { name, rows: values }) => {
                let own = values(&prompts.collect::<Vec<_>>())?;
                Ok(graph.step(rows, cache, &[(name, &own)])?)
            }
        }
    }
}

fn answers(
    graph: &mut CausalGraph,
    extra: &Extra<'_>,
    plan: &RolloutPlan<'_>,
) -> Result<Vec<Completion>, PolicyError> {
    if let Some(at) = plan.prompts.iter().position(Vec::is_empty) {
        return Err(PolicyError::EmptyPrompt { at });
    }
    let mut answers = vec![Completion::default(); plan.prompts.len() * plan.samples];
    if answers.is_empty() || plan.max_tokens == 0 {
        return Ok(answers);
    }
    let prefill = Prefill::new(plan, graph.interface.padded_right);
    let rows = Rows {
        batch: plan.prompts.len(),
        ids: &prefill.ids,
        mask: &prefill.mask,
        positions: &prefill.positions,
    };
    let empty = graph.interface.empty_cache(plan.prompts.len())?;
    let (logits, cache) = extra.step(graph, &rows, &empty, 0..plan.prompts.len())?;
    let picks: Vec<usize> = (0..answers.len()).map(|row| row / plan.samples).collect();
    let mut live = Live::new(plan, &prefill, graph.rows(&cache, &picks)?);
    drop(cache);
    live.choose(plan, &logits, &picks, &mut answers)?;
    while !live.rows.is_empty() {
        live.compact(graph)?;
        let logits = live.advance(graph, extra, plan.samples)?;
        let own: Vec<usize> = (0..live.rows.len()).collect();
        live.choose(plan, &logits, &own, &mut answers)?;
    }
    Ok(answers)
}

/// Prompts padded to one length, on the left unless the model's attention wants it on the right.
struct Prefill {
    length: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    positions: Vec<i64>,
    /// Where the last token of each prompt is.
    ends: Vec<usize>,
}

impl Prefill {
    fn new(plan: &RolloutPlan<'_>, padded_right: bool) -> Self {
        let length = plan.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let (ids, mask, positions, ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut made = Self { length, ids, mask, positions, ends };
        for prompt in plan.prompts {
            let before = if padded_right { 0 } else { length - prompt.len() };
            let own = before..before + prompt.len();
            made.ids.extend(std::iter::repeat_n(i64::from(plan.pad), before));
            made.ids.extend(prompt.iter().map(|t| i64::from(*t)));
            made.ids.extend(std::iter::repeat_n(i64::from(plan.pad), length - own.end));
            made.mask.extend((0..length).map(|k| i64::from(own.contains(&k))));
            let last = prompt.len().saturating_sub(1);
            made.positions.extend((0..length).map(|k| k.saturating_sub(before).min(last) as i64));
            made.ends.push(own.end.saturating_sub(1));
        }
        made
    }
}

/// A row still being written.
struct Row {
    answer: usize,
    last: u32,
    position: i64,
    /// Where the last token is among those of the last run.
    end: usize,
    done: bool,
    mask: Vec<i64>,
}

struct Live {
    rows: Vec<Row>,
    cache: Cache,
}

impl Live {
    fn new(plan: &RolloutPlan<'_>, prefill: &Prefill, cache: Cache) -> Self {
        let rows = (0..plan.prompts.len() * plan.samples)
            .map(|answer| {
                let prompt = answer / plan.samples;
                let from = prompt * prefill.length;
                Row {
                    answer,
                    last: plan.pad,
                    position: plan.prompts[prompt].len() as i64,
                    end: prefill.ends[prompt],
                    done: false,
                    mask: prefill.mask[from..from + prefill.length].to_vec(),
                }
            })
            .collect();
        Self { rows, cache }
    }

    /// Chooses the next token of every row from the logits' row in `picks`, at the row's last token
    /// or at the one position the graph was cut to.
    fn choose(
        &mut self,
        plan: &RolloutPlan<'_>,
        logits: &Tensor,
        picks: &[usize],
        answers: &mut [Completion],
    ) -> Result<(), PolicyError> {
        let dims = logits.dims();
        let [_, length, vocabulary] = dims[..] else {
            return Err(PolicyError::Runtime(RuntimeError::Tensor {
                name: "logits".to_owned(),
                found: format!("of dimensions {dims:?}"),
                expected: "[batch, length, vocabulary]".to_owned(),
            }));
        };
        let values = logits.to_f32("logits")?;
        for (row, pick) in self.rows.iter_mut().zip(picks).filter(|(row, _)| !row.done) {
            let place = pick * length + row.end.min(length - 1);
            let scores = &values[place * vocabulary..][..vocabulary];
            let answer = &mut answers[row.answer];
            let (token, logprob) = match plan.decoding {
                Decoding::Greedy => (greedy(scores)?, 0.0),
                Decoding::Sampled { temperature, seed, step, first_row } => {
                    let row = first_row + row.answer as u64;
                    let chance = uniform(seed, step, row, answer.tokens.len() as u64);
                    let drawn = sample(scores, temperature, chance)?;
                    answer.entropy += drawn.entropy;
                    (drawn.token, drawn.log_probability as f32)
                }
            };
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.stopped = plan.stop.contains(&token);
            row.last = token;
            row.done = answer.stopped || answer.tokens.len() >= plan.max_tokens;
        }
        if self.rows.iter().all(|r| r.done) {
            self.rows.clear();
        }
        Ok(())
    }

    fn compact(&mut self, graph: &mut CausalGraph) -> Result<(), PolicyError> {
        let keep: Vec<usize> = (0..self.rows.len()).filter(|r| !self.rows[*r].done).collect();
        if (keep.len() as f64) < COMPACT_BELOW * self.rows.len() as f64 {
            self.cache = graph.rows(&self.cache, &keep)?;
            self.rows.retain(|r| !r.done);
        }
        Ok(())
    }

    /// Runs one token of every row.
    fn advance(
        &mut self,
        graph: &mut CausalGraph,
        extra: &Extra<'_>,
        samples: usize,
    ) -> Result<Tensor, PolicyError> {
        for row in &mut self.rows {
            row.mask.push(1);
        }
        let ids: Vec<i64> = self.rows.iter().map(|r| i64::from(r.last)).collect();
        let positions: Vec<i64> = self.rows.iter().map(|r| r.position).collect();
        let mask: Vec<i64> = self.rows.iter().flat_map(|r| r.mask.iter().copied()).collect();
        let rows = Rows { batch: self.rows.len(), ids: &ids, mask: &mask, positions: &positions };
        let prompts = self.rows.iter().map(|r| r.answer / samples);
        let (logits, cache) = extra.step(graph, &rows, &self.cache, prompts)?;
        self.cache = cache;
        for row in &mut self.rows {
            row.position += 1;
            row.end = 0;
        }
        Ok(logits)
    }
}

//! Batched sampling with a key-value cache.
//!
//! What answers to a prompt have in common is run once: a row of the batch stands for all answers
//! that hold the same tokens so far, and becomes several, its cache rows repeated, where they part.
//! Rows whose answers are complete leave the batch as soon as enough of them have.
//!
//! Where the model is small, prompts are answered in parts: threads do more with a part each than all
//! at one operator. The parts do not depend on how many threads there are, so neither do the bits of
//! an answer.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use rayon::prelude::*;

use super::{
    PolicyError,
    parts::parts,
    prefill::{Prefill, longest},
    sampling::{Drawn, SamplingError, Softmax, greedy, uniform},
};
use crate::runtime::{Cache, CausalGraph, Rows, RuntimeError, Tensor};

/// The share of live rows under which finished ones are dropped from the batch: dropping copies
/// the cache once, keeping computes the finished rows for nothing.
const COMPACT_BELOW: f64 = 0.8;
/// From this many logits on, rows are shared out among threads.
const PARALLEL: usize = 1 << 16;

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
        /// So many answers have a stream of their own; those after them have the same ones again, in
        /// order.
        streams: u64,
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
    pub rows: &'a (dyn Fn(&[usize]) -> Result<Tensor, PolicyError> + Sync),
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
        cache: Cache,
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
    match parts(plan.prompts.len(), plan.samples) {
        parts if graph.in_parts() && parts.len() > 1 => {
            let hands = graph.hands(parts.len())?;
            share_out(hands, parts, plan, extra, &mut answers)?;
        }
        _ => {
            let prompts = 0..plan.prompts.len();
            Part { plan, extra, prompts, threaded: true }.fill(graph, &mut answers)?;
        }
    }
    Ok(answers)
}

/// Answers `parts`, each of `hands` taking the next one that is left.
fn share_out(
    hands: &mut [CausalGraph],
    parts: Vec<Range<usize>>,
    plan: &RolloutPlan<'_>,
    extra: &Extra<'_>,
    answers: &mut [Completion],
) -> Result<(), PolicyError> {
    let mut outcomes: Vec<Result<(), PolicyError>> = parts.iter().map(|_| Ok(())).collect();
    let mut rest = answers;
    let mut left = Vec::with_capacity(parts.len());
    for (prompts, outcome) in parts.into_iter().zip(&mut outcomes) {
        let (own, others) = rest.split_at_mut(prompts.len() * plan.samples);
        rest = others;
        left.push((Part { plan, extra, prompts, threaded: false }, own, outcome));
    }
    let left = Mutex::new(left.into_iter());
    thread::scope(|scope| {
        for hand in hands {
            let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
            scope.spawn(move || {
                while let Some((part, answers, outcome)) = next() {
                    *outcome = part.fill(hand, answers);
                }
            });
        }
    });
    // In order, so that of several errors the same one is reported whatever the threads.
    outcomes.into_iter().collect()
}

/// Some of the prompts, answered together.
struct Part<'a> {
    plan: &'a RolloutPlan<'a>,
    extra: &'a Extra<'a>,
    prompts: Range<usize>,
    /// Whether threads may share its rows.
    threaded: bool,
}

impl Part<'_> {
    /// Writes the answers to these prompts.
    fn fill(&self, graph: &mut CausalGraph, answers: &mut [Completion]) -> Result<(), PolicyError> {
        let (plan, batch) = (self.plan, self.prompts.len());
        let prompts = &plan.prompts[self.prompts.clone()];
        let prefill =
            Prefill::new(prompts, longest(plan.prompts), plan.pad, graph.interface.padded_right);
        let Prefill { ids, mask, positions, .. } = &prefill;
        let rows = Rows { batch, ids, mask, positions };
        let empty = graph.empty_cache(batch)?;
        let (logits, cache) = self.extra.step(graph, &rows, empty, self.prompts.clone())?;
        let mut live = Live::new(self, &prefill, cache);
        live.choose(self, graph, &logits, answers)?;
        while !live.rows.is_empty() {
            let logits = live.advance(graph, self.extra)?;
            live.choose(self, graph, &logits, answers)?;
        }
        Ok(())
    }
}

/// A row, and each token its answers went on with beside the answers that did.
type Parting = (usize, Vec<(u32, Vec<usize>)>);

/// Answers that hold the same tokens so far.
struct Row {
    prompt: usize,
    /// Those still being written, counted from the first of the part; none once all are complete.
    answers: Vec<usize>,
    last: u32,
    position: i64,
    /// Where the last token is among those of the last run.
    end: usize,
    mask: Vec<i64>,
}

struct Live {
    rows: Vec<Row>,
    cache: Cache,
}

impl Live {
    fn new(part: &Part<'_>, prefill: &Prefill, cache: Cache) -> Self {
        let (plan, samples) = (part.plan, part.plan.samples);
        let masks = prefill.mask.chunks(prefill.length.max(1));
        let rows = part.prompts.clone().zip(masks).enumerate().map(|(index, (prompt, mask))| Row {
            prompt,
            answers: (index * samples..(index + 1) * samples).collect(),
            last: plan.pad,
            position: plan.prompts[prompt].len() as i64,
            end: prefill.ends[index],
            mask: mask.to_vec(),
        });
        Self { rows: rows.collect(), cache }
    }

    /// Chooses the next token of every answer from the logits of its row, at the row's last token or
    /// at the one position the graph was cut to.
    fn choose(
        &mut self,
        part: &Part<'_>,
        graph: &mut CausalGraph,
        logits: &Tensor,
        answers: &mut [Completion],
    ) -> Result<(), PolicyError> {
        let plan = part.plan;
        let dims = logits.dims();
        let [_, length, vocabulary] = dims[..] else {
            return Err(PolicyError::Runtime(RuntimeError::Tensor {
                name: "logits".to_owned(),
                found: format!("of dimensions {dims:?}"),
                expected: "[batch, length, vocabulary]".to_owned(),
            }));
        };
        let values = logits.to_f32("logits")?;
        let first = part.prompts.start * plan.samples;
        let written: Vec<u64> = answers.iter().map(|a| a.tokens.len() as u64).collect();
        let draw = |(index, row): (usize, &Row)| {
            let place = index * length + row.end.min(length - 1);
            let scores = &values[place * vocabulary..][..vocabulary];
            drawn(plan.decoding, scores, first, &row.answers, &written)
        };
        // In order, so that of several errors the same one is reported whatever the threads.
        let chosen: Vec<Result<Vec<Drawn>, SamplingError>> =
            match part.threaded && self.rows.len().saturating_mul(vocabulary) >= PARALLEL {
                true => self.rows.par_iter().enumerate().map(draw).collect(),
                false => self.rows.iter().enumerate().map(draw).collect(),
            };
        let mut next = Vec::with_capacity(self.rows.len());
        for (from, (row, chosen)) in self.rows.iter().zip(chosen).enumerate() {
            let mut parts: Vec<(u32, Vec<usize>)> = Vec::new();
            for (index, drawn) in row.answers.iter().zip(chosen?) {
                let (answer, token) = (&mut answers[*index], drawn.token);
                answer.tokens.push(token);
                answer.logprobs.push(drawn.log_probability as f32);
                answer.entropy += drawn.entropy;
                answer.stopped = plan.stop.contains(&token);
                if answer.stopped || answer.tokens.len() >= plan.max_tokens {
                    continue;
                }
                match parts.iter_mut().find(|(other, _)| *other == token) {
                    Some((_, together)) => together.push(*index),
                    None => parts.push((token, vec![*index])),
                }
            }
            next.push((from, parts));
        }
        self.part(graph, next)
    }

    /// Makes of each row one for every token its answers went on with. Finished rows stay while
    /// nothing has to be copied for others.
    fn part(&mut self, graph: &mut CausalGraph, next: Vec<Parting>) -> Result<(), PolicyError> {
        let live: usize = next.iter().map(|(_, parts)| parts.len()).sum();
        if live == 0 {
            self.rows.clear();
            return Ok(());
        }
        let stay = next.iter().all(|(_, parts)| parts.len() <= 1)
            && live as f64 >= COMPACT_BELOW * self.rows.len() as f64;
        if stay {
            for (row, (_, parts)) in self.rows.iter_mut().zip(next) {
                row.answers.clear();
                for (token, answers) in parts {
                    (row.last, row.answers) = (token, answers);
                }
            }
            return Ok(());
        }
        let mut rows = Vec::with_capacity(live);
        let mut picks = Vec::with_capacity(live);
        for (from, parts) in next {
            let Row { prompt, position, end, ref mask, .. } = self.rows[from];
            for (last, answers) in parts {
                picks.push(from);
                rows.push(Row { prompt, answers, last, position, end, mask: mask.clone() });
            }
        }
        self.cache = graph.rows(&self.cache, &picks)?;
        self.rows = rows;
        Ok(())
    }

    /// Runs one token of every row.
    fn advance(
        &mut self,
        graph: &mut CausalGraph,
        extra: &Extra<'_>,
    ) -> Result<Tensor, PolicyError> {
        for row in &mut self.rows {
            row.mask.push(1);
        }
        let ids: Vec<i64> = self.rows.iter().map(|r| i64::from(r.last)).collect();
        let positions: Vec<i64> = self.rows.iter().map(|r| r.position).collect();
        let mask: Vec<i64> = self.rows.iter().flat_map(|r| r.mask.iter().copied()).collect();
        let rows = Rows { batch: self.rows.len(), ids: &ids, mask: &mask, positions: &positions };
        let prompts = self.rows.iter().map(|r| r.prompt);
        let held = std::mem::take(&mut self.cache);
        let (logits, cache) = extra.step(graph, &rows, held, prompts)?;
        self.cache = cache;
        for row in &mut self.rows {
            row.position += 1;
            row.end = 0;
        }
        Ok(logits)
    }
}

/// The next token of each of `answers`, all from the same logits; `written` counts the tokens every
/// answer has. They are counted from `first`.
fn drawn(
    decoding: Decoding,
    scores: &[f32],
    first: usize,
    answers: &[usize],
    written: &[u64],
) -> Result<Vec<Drawn>, SamplingError> {
    if answers.is_empty() {
        return Ok(Vec::new());
    }
    let Decoding::Sampled { temperature, seed, step, first_row, streams } = decoding else {
        let likeliest = Drawn { token: greedy(scores)?, log_probability: 0.0, entropy: 0.0 };
        return Ok(vec![likeliest; answers.len()]);
    };
    let softmax = Softmax::new(scores, temperature)?;
    let draw = |answer: &usize| {
        let row = first_row + (first + *answer) as u64 % streams.max(1);
        softmax.draw(uniform(seed, step, row, written[*answer]))
    };
    answers.iter().map(draw).collect()
}

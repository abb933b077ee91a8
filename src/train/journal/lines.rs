//! The lines of a journal, one type for each kind.
//!
//! `docs/journal.md` lists the same fields for readers who write no Rust; a test holds the two
//! together. Times are seconds of wall clock. A field that was not measured is absent: nothing is
//! ever written as `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line; `kind` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A run begins.
    Start(Start),
    /// A run goes on from its saved state.
    Resume(Resume),
    /// Where the update lives.
    Placement(Placement),
    /// One step of training.
    Step(Step),
    /// Some of a step's answers.
    Samples(Samples),
    /// Something about the run that its user should see to.
    Warning(Warning),
    /// Training fell back to its best state.
    Restore(Restore),
    /// The same questions answered before and after.
    Answers(Answers),
    /// The run is over.
    End(End),
}

/// What is trained, on what and how: `{"kind": "start", ...}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`](super::VERSION).
    pub version: u32,
    /// Version of this program.
    pub program: String,
    /// The model's folder.
    pub model: String,
    /// The base digest, in hexadecimal.
    pub base_digest: String,
    /// The dataset.
    pub data: String,
    /// The reward, by the name it was chosen by.
    pub reward: String,
    /// The text questions were put in, `{question}` standing for them.
    pub prompt: String,
    /// The system message, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Problems in it.
    pub problems: u64,
    /// `grpo` or `sft`.
    pub objective: String,
    /// Seed of the run: order of the problems and samples.
    pub seed: u64,
    /// Steps planned.
    pub steps: u64,
    /// Problems, and so groups, in a step.
    pub problems_per_step: u64,
    /// Completions sampled for each; 1, the dataset's own, under `sft`.
    pub samples_per_problem: u64,
    /// Longest completion, in tokens.
    pub max_tokens: u64,
    /// Sampling temperature.
    pub temperature: f64,
    /// Learning rate at its peak.
    pub learning_rate: f64,
    /// Gradient steps per batch of answers.
    pub updates: u64,
    /// Ratios were clipped to 1 − this, and to 1 + the `--clip-high` of `settings`.
    pub clip: f64,
    /// Weight of the divergence from the base.
    pub kl: f64,
    /// Batches of answers the gradient was to be measured on before training.
    pub survey: u64,
    /// What a row of the gradient graph holds: `whole`, a prompt and an answer, or `shared`, an
    /// answer behind a prompt that is computed once for all its answers.
    #[serde(default)]
    pub layout: String,
    /// The most positions, padding included, in one pass of the gradient graph.
    #[serde(default)]
    pub micro_tokens: u64,
    /// Everything the numbers depend on, by the name of its option; a run resumes only with the
    /// same.
    pub settings: BTreeMap<String, String>,
}

/// A run goes on: `{"kind": "resume", ...}`. Lines the interrupted process wrote after its last
/// saved state are no longer in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// The last step that was kept, 0 if training had not begun.
    pub step: u64,
    /// Steps planned now.
    pub steps: u64,
    /// Version of this program.
    pub program: String,
}

/// Where the update lives and why: `{"kind": "placement", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Roles that are adapted, by name.
    pub roles: Vec<String>,
    /// First layer.
    pub first_layer: u16,
    /// Number of layers, 0 for all.
    pub layers: u16,
    /// Modules that come to.
    pub modules: u64,
    /// Rank r.
    pub rank: u16,
    /// Numbers in a group.
    pub width: u16,
    /// Groups.
    pub groups: u16,
    /// Numbers trained in all.
    pub parameters: u64,
    /// Seed of the projection.
    pub seed: u64,
    /// Seeds that were compared; absent if the seed was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds_searched: Option<u64>,
    /// Share of the gradient's energy in these modules; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_share: Option<f64>,
    /// Share of the modules' energy the trained directions capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<f64>,
    /// Signal-to-noise ratio of the gradient these shares were computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snr: Option<f64>,
}

impl Placement {
    /// Whether the gradient was measured with more noise than signal, so that the shares say little.
    pub fn is_uncertain(&self) -> bool {
        self.snr.is_some_and(|snr| snr < 1.0)
    }
}

/// One step: `{"kind": "step", ...}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 1.
    pub step: u64,
    /// Wall clock time it took.
    pub seconds: f64,
    /// The part of it that sampling took.
    pub rollout_seconds: f64,
    /// The part of it that the reward took.
    pub reward_seconds: f64,
    /// The part of it that gradients took.
    pub gradient_seconds: f64,
    /// Mean reward of all completions; absent under `sft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_mean: Option<f64>,
    /// Exponential moving average of the mean reward, or of −loss under `sft`: what the guard
    /// against collapse and early stopping look at. Absent if there has been nothing to average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// Groups sampled.
    pub groups: u64,
    /// Groups whose rewards were all equal, which have no gradient.
    pub groups_without_variance: u64,
    /// Completion tokens.
    pub tokens: u64,
    /// Mean length of a completion, in tokens.
    pub completion_length_mean: f64,
    /// Share of the completions that were cut at the longest length; absent under `sft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_share: Option<f64>,
    /// Mean entropy, in nats, of the distributions the tokens were sampled from; absent under
    /// `sft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_mean: Option<f64>,
    /// The loss before the first update; 0 if there was none.
    pub loss: f64,
    /// Euclidean norm of dL/dv before the first update and before it is clipped.
    pub grad_norm: f64,
    /// Euclidean norm of v after the updates.
    pub v_norm: f64,
    /// Largest |log-probability when sampled − log-probability when differentiated|, in nats, at
    /// the first update; 0 under `sft`.
    pub logprob_gap: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// The updates made on this step's completions, in order; empty if no group had a gradient.
    pub updates: Vec<Update>,
}

/// One update within a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// The loss before it.
    pub loss: f64,
    /// Euclidean norm of dL/dv before it is clipped.
    pub grad_norm: f64,
    /// Mean over tokens, weighed as in the loss, of the ratio of their probability now to that when
    /// sampled; absent under `sft`, like the next three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_mean: Option<f64>,
    /// The largest such ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_max: Option<f64>,
    /// Share of the tokens whose ratio was clipped, which have no gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipped_share: Option<f64>,
    /// Estimated divergence, in nats a token, from the policy that sampled: mean of ρ − 1 − ln ρ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    /// Estimated divergence from the base, in nats a token; present where it counts in the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}

/// A few answers of a step: `{"kind": "samples", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Number of the step.
    pub step: u64,
    /// The answers.
    pub samples: Vec<SampledAnswer>,
}

/// One answer and what it was worth. Long texts are shortened and end in `…`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampledAnswer {
    /// The problem's line in its dataset.
    pub line: u64,
    /// The question.
    pub question: String,
    /// The answer.
    pub text: String,
    /// Its reward.
    pub reward: f64,
    /// Its advantage over its group; absent if all of the group were worth the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
}

/// Something looks wrong while the run goes on, told once: `{"kind": "warning", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The step it was noticed after.
    pub step: u64,
    /// What it is, and what to do.
    pub text: String,
}

/// Training collapsed and went back: `{"kind": "restore", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restore {
    /// The step whose average had fallen too far.
    pub step: u64,
    /// The average it had fallen to.
    pub average: f64,
    /// The best average, which it fell from.
    pub best_average: f64,
    /// v and its optimiser are again as they were before this step.
    pub best_step: u64,
    /// What the learning rate is multiplied with from now on.
    pub learning_rate_factor: f64,
}

/// A fixed handful of problems, answered greedily by the base and by what was trained:
/// `{"kind": "answers", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// The pairs, in the order of the dataset.
    pub answers: Vec<Compared>,
}

/// One problem answered before and after. Long texts are shortened and end in `…`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The problem's line in its dataset.
    pub line: u64,
    /// The question.
    pub question: String,
    /// The base's answer.
    pub before: String,
    /// The adapter's.
    pub after: String,
    /// What the base's answer is worth.
    pub reward_before: f64,
    /// What the adapter's is worth.
    pub reward_after: f64,
}

/// How it ended: `{"kind": "end", ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Steps done.
    pub steps: u64,
    /// Wall clock time of this process.
    pub seconds: f64,
    /// `finished`, `patience`, `target`, `interrupted`, or what went wrong.
    pub reason: String,
    /// The adapter that was written, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The step after which v was as it ships, 0 for the start; absent if nothing ships.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped_step: Option<u64>,
}

//! What of a step is drawn and logged, under which names.

use crate::train::journal::{Step, Update};

/// One number of a step.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in TensorBoard.
    pub tag: &'static str,
    /// The title of its curve.
    pub title: &'static str,
    /// What the curve shows.
    pub note: &'static str,
    /// The number, if the step has it.
    pub of: fn(&Step) -> Option<f64>,
}

/// The mean reward, which every other curve is read beside.
pub const REWARD: Metric = Metric {
    tag: "train/reward",
    title: "Reward",
    note: "mean over the answers of a step, before its update",
    of: |step| step.reward_mean,
};

/// The loss, which stands in the reward's place where nothing is sampled.
pub const LOSS: Metric = Metric {
    tag: "train/loss",
    title: "Loss",
    note: "before the first update of a step",
    of: |step| Some(step.loss),
};

/// All there is, in the order in which it is drawn; a number that no step has is left out.
pub const METRICS: [Metric; 17] = [
    REWARD,
    Metric {
        tag: "train/reward_average",
        title: "Moving average",
        note: "what the guard against collapse looks at",
        of: |step| step.average,
    },
    Metric {
        tag: "train/length",
        title: "Length of an answer",
        note: "tokens, mean over the answers of a step",
        of: |step| Some(step.completion_length_mean),
    },
    Metric {
        tag: "train/groups_without_variance",
        title: "Groups without variance",
        note: "all answers worth the same",
        of: |step| Some(step.groups_without_variance as f64),
    },
    Metric {
        tag: "train/cut",
        title: "Cut answers",
        note: "share that reached the longest length",
        of: |step| step.cut_share,
    },
    Metric {
        tag: "train/entropy",
        title: "Entropy",
        note: "nats a token",
        of: |step| step.entropy_mean,
    },
    LOSS,
    Metric {
        tag: "train/grad_norm",
        title: "Norm of the gradient",
        note: "|dL/dv|, before it is clipped",
        of: |step| Some(step.grad_norm),
    },
    Metric {
        tag: "train/v_norm",
        title: "Norm of v",
        note: "after the updates",
        of: |step| Some(step.v_norm),
    },
    Metric {
        tag: "train/learning_rate",
        title: "Learning rate",
        note: "of the step",
        of: |step| Some(step.learning_rate),
    },
    Metric {
        tag: "train/kl",
        title: "Divergence from the base",
        note: "nats a token, before the first update",
        of: |step| step.updates.first().and_then(|update| update.kl),
    },
    Metric {
        tag: "train/clip_fraction",
        title: "Clipped tokens",
        note: "share, mean over the updates of a step",
        of: |step| mean(&step.updates, |update| update.clipped_share),
    },
    Metric {
        tag: "train/ratio_mean",
        title: "Probability ratio",
        note: "now over when sampled, last update",
        of: |step| step.updates.last().and_then(|update| update.ratio_mean),
    },
    Metric {
        tag: "train/ratio_max",
        title: "Largest probability ratio",
        note: "at the last update",
        of: |step| step.updates.last().and_then(|update| update.ratio_max),
    },
    Metric {
        tag: "train/drift",
        title: "Drift within a step",
        note: "from the policy that sampled, nats a token",
        of: |step| step.updates.last().and_then(|update| update.drift),
    },
    Metric {
        tag: "train/logprob_gap",
        title: "Sampled against differentiated",
        note: "largest gap of a log-probability, nats",
        of: |step| Some(step.logprob_gap),
    },
    Metric {
        tag: "time/step",
        title: "Time of a step",
        note: "seconds",
        of: |step| Some(step.seconds),
    },
];

fn mean(updates: &[Update], of: fn(&Update) -> Option<f64>) -> Option<f64> {
    let found: Vec<f64> = updates.iter().filter_map(of).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// Seconds of a step by phase; what is not timed by itself is `other`. They sum to those of the step.
pub fn phases(step: &Step) -> [(&'static str, f64); 4] {
    let timed = step.rollout_seconds + step.reward_seconds + step.gradient_seconds;
    [
        ("rollout", step.rollout_seconds),
        ("reward", step.reward_seconds),
        ("gradient", step.gradient_seconds),
        ("other", (step.seconds - timed).max(0.0)),
    ]
}

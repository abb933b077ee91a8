//! What can stop a training run.

use thiserror::Error;

use super::{
    adam::AdamError,
    cut::Cut,
    folder::FolderError,
    placement::{mean_gradient::GradientError, modules::PlacementError},
    reward::RewardError,
};
use crate::{
    autodiff::AutodiffError,
    format::{FormatError, ModuleId},
    model::ModelError,
    policy::PolicyError,
    projection::ProjectionError,
    runtime::RuntimeError,
    surgery::{GraftError, PatchError},
};

/// Why training or one of its parts cannot go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A model file without a graph.
    #[error("the model holds no graph. Export it again")]
    NoGraph,
    /// A module the model does not offer.
    #[error("{module} is not a module of this model. See `tla inspect` for those that are")]
    NotATarget {
        /// The module.
        module: ModuleId,
    },
    /// A placement by a gradient that was not measured.
    #[error("the placement needs a measured gradient. This is a fault of tla: report it")]
    NotMeasured,
    /// Gradients asked of a model loaded for answering only.
    #[error("this model was loaded without its gradient graph. This is a fault of tla: report it")]
    NotTrainable,
    /// The loss or a gradient overflowed.
    #[error(
        "the gradient is not finite (loss {loss}). Lower --learning-rate, or check the model's logits"
    )]
    NotFinite {
        /// The loss of the step.
        loss: f64,
    },
    /// A saved state of other numbers.
    #[error(
        "the saved state holds {found} numbers and the adapter has {expected}. Delete the run's folder \
         and begin again"
    )]
    OtherState {
        /// How many it holds.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// A problem that cannot be put in tokens.
    #[error("the problem of line {line} cannot be asked: {source}")]
    NoPrompt {
        /// The problem's line in its dataset.
        line: usize,
        /// Why.
        source: PolicyError,
    },
    /// A prompt and its answer that the model has no room for.
    #[error(
        "the problem of line {line} takes {prompt} tokens and its answer up to {answer}, and the model \
         has room for {room} (max_position_embeddings in config.json). Lower --max-tokens, or leave the \
         problem out"
    )]
    NoRoom {
        /// The problem's line in its dataset.
        line: usize,
        /// Tokens of its prompt.
        prompt: usize,
        /// The most tokens of the answer.
        answer: usize,
        /// Tokens the model can look at.
        room: usize,
    },
    /// No group of answers had one better than another.
    #[error(
        "{cut}{answers} sampled answers (mean reward {reward:.3}) held no group with both right and \
         wrong ones, so there is nothing to learn from. Check the answer format the model was \
         taught, raise --samples or --temperature, or take easier or harder problems"
    )]
    NothingToLearn {
        /// Answers sampled.
        answers: usize,
        /// Their mean reward.
        reward: f64,
        /// How many of them were cut.
        cut: Cut,
    },
    /// Too few parts of the survey had a group of answers with one better than another.
    #[error(
        "{cut}{} of the survey's {parts} parts, {answers} answers with the mean reward {reward:.3}, held a \
         group with both right and wrong ones, and telling the gradient from its noise takes two. Raise \
         --survey, --problems or --samples, or choose --roles and a --seed by hand",
        if *varied == 0 { "none" } else { "only 1" }
    )]
    SurveyedTooLittle {
        /// Parts with such a group, below 2.
        varied: usize,
        /// Parts there were.
        parts: usize,
        /// Answers sampled.
        answers: usize,
        /// Their mean reward.
        reward: f64,
        /// How many of them were cut.
        cut: Cut,
    },
    /// The optimiser refuses a gradient.
    #[error(transparent)]
    Adam(#[from] AdamError),
    /// The gradient cannot be averaged.
    #[error(transparent)]
    Average(#[from] GradientError),
    /// No place for the parameters.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The adapter cannot be encoded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The run was told to stop.
    #[error(
        "interrupted after step {step} of {steps}, which is kept. Go on with the same command and \
         --resume"
    )]
    Interrupted {
        /// Steps done.
        step: u64,
        /// Steps planned.
        steps: u64,
    },
    /// The run folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An answer cannot be judged.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// The graph has no gradient.
    #[error(transparent)]
    Autodiff(#[from] AutodiffError),
    /// The low-rank path does not fit.
    #[error(transparent)]
    Graft(#[from] GraftError),
    /// A weight cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An edit of the graph was refused.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The geometry does not fit the modules.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The text side failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

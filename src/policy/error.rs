//! What can go wrong between a question and an answer.

use thiserror::Error;

use super::{sampling::SamplingError, template::TemplateError, tokenizer::TokenizerError};
use crate::{format::ModuleId, runtime::RuntimeError};

/// A failure of the text side or of a rollout.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A prompt of no tokens.
    #[error("prompt {at} has no tokens. Check the question and the chat template")]
    EmptyPrompt {
        /// Its place among the prompts.
        at: usize,
    },
    /// A question that comes to no tokens.
    #[error("its prompt has no tokens. Check the question and the chat template")]
    NoTokens,
    /// An adapter of another rank than the graph's.
    #[error(
        "the adapter has rank {adapter} and the graph rank {graph}. This is a fault of tla: report it"
    )]
    OtherRank {
        /// The graph's.
        graph: usize,
        /// The adapter's.
        adapter: usize,
    },
    /// An adapter for a module that the graph has no path beside.
    #[error("the graph has no path beside {module}. This is a fault of tla: report it")]
    NotGrafted {
        /// The module.
        module: ModuleId,
    },
    /// ONNX Runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model's scores cannot be sampled from.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// No chat template, or one that fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// No tokenizer, or one of another model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

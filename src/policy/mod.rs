//! A language model that answers: tokenizer, chat template, sampling, rollouts.

pub mod attention;
mod error;
pub mod last_token;
pub mod live;
pub mod mixed;
mod parts;
mod prefill;
pub mod rollout;
pub mod sampling;
pub mod side_files;
pub mod template;
pub mod tokenizer;
pub mod voice;
pub mod wording;

pub use error::PolicyError;

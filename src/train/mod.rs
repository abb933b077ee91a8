//! Reinforcement learning of a few numbers: rewards, GRPO, placement, journal.
//!
//! `plan` is what is asked for, `fit` goes from there to an adapter; `run` is the training loop, to
//! be read from top to bottom.

pub mod adam;
pub mod batch;
pub mod data;
mod error;
pub mod explore;
pub mod fit;
pub mod gradient;
pub mod gradient_model;
pub mod grpo;
pub mod journal;
pub mod order;
pub mod partition;
pub mod placement;
pub mod plan;
pub mod reward;
pub mod run;
pub mod student;

pub use error::TrainError;

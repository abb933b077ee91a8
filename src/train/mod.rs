//! Reinforcement learning of a few numbers: rewards, GRPO, placement, journal.
//!
//! `plan` is what is asked for, `fit` goes from there to an adapter; `run` is the training loop, to
//! be read from top to bottom.

pub mod adam;
pub mod answer;
pub mod batch;
pub mod data;
mod error;
pub mod explore;
pub mod fit;
pub mod gradient;
pub mod grpo;
pub mod journal;
pub mod mean_gradient;
pub mod order;
pub mod placement;
pub mod plan;
pub mod reward;
pub mod run;
pub mod scout;
pub mod seed_search;
pub mod student;

pub use error::TrainError;

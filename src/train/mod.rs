//! Reinforcement learning of a few numbers: rewards, GRPO, placement, journal, resume.
//!
//! `plan` and `recipe` are what is asked for, `fit` goes from there to an adapter; `run` is the
//! training loop, to be read from top to bottom; `folder` is what a run leaves behind and goes on
//! from.

pub mod adam;
pub mod average;
pub mod batch;
pub mod cut;
pub mod data;
pub mod diagnostics;
mod error;
pub mod excerpts;
pub mod explore;
pub mod fit;
pub mod flat;
pub mod folder;
pub mod gradient;
pub mod gradient_model;
pub mod grpo;
pub mod guard;
#[cfg(test)]
mod guard_odds;
pub mod journal;
pub mod order;
pub mod partition;
pub mod placement;
pub mod plan;
pub mod pull;
pub mod recipe;
pub mod reward;
pub mod room;
pub mod run;
pub mod schedule;
pub mod score;
pub mod spread;
pub mod state;
pub mod student;

pub use error::TrainError;

//! `tla` trains adapters of as few as 13 numbers for language models with reinforcement
//! learning on ONNX Runtime, and ships them as a 154-byte file that anyone can verify,
//! rebuild bit for bit, and merge into the exported model they deploy.
//!
//! The map of the house; a module imports only from those above its own:
//!
//! | module | what it knows |
//! |---|---|
//! | [`mod@format`] | the file: layout, codec, errors |
//! | [`projection`] | seed → P; canonical SVD; factors; ΔW |
//! | [`model`] | containers (ONNX, safetensors), targets, base digest |
//! | [`surgery`] | every edit of a model: merge, graft |
//! | [`exchange`] | adapters in the formats of PEFT and ONNX Runtime |
//! | [`autodiff`] | forward graph → gradient graph |
//! | [`runtime`] | the only place that names ONNX Runtime |
//! | [`policy`] | tokenizer, chat template, sampling, rollouts |
//! | [`train`] | rewards, GRPO, placement, journal |
//! | [`eval`] | accuracy with intervals, paired comparison |
//! | [`report`] | what a run was like: TensorBoard's event files, a page of HTML |
//! | [`cli`] | one file per command |
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod format;
pub mod projection;

#[cfg(feature = "std")]
pub mod autodiff;
#[cfg(feature = "std")]
pub mod exchange;
#[cfg(feature = "std")]
pub mod model;
#[cfg(feature = "std")]
pub mod surgery;

#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod policy;
#[cfg(feature = "train")]
pub mod report;
#[cfg(feature = "train")]
pub mod runtime;
#[cfg(feature = "train")]
pub mod train;

#[cfg(feature = "cli")]
pub mod cli;

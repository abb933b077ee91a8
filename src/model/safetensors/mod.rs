//! Hugging Face checkpoints: one safetensors file, or several and the index that names them.
//!
//! The headers are read and checked here, not by the `safetensors` crate: that one checks a
//! header only together with the whole file as one slice, which takes a memory map or the size
//! of the model in memory, and lets the second of two tensors of one name replace the first. The
//! tests hold both against each other.

mod checkpoint;
mod config;
mod error;
mod header;
mod index;
mod names;
mod reader;

pub use checkpoint::{Checkpoint, Shard};
pub use error::CheckpointError;
pub use header::Tensor;
pub use reader::TensorReader;

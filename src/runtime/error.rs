//! What can go wrong between us and ONNX Runtime.

use thiserror::Error;

/// A failure to find, load or run ONNX Runtime.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// No usable library; the places are listed one a line.
    #[error(
        "no usable ONNX Runtime library was found. Install it with `pip install \
         onnxruntime==1.31.1` or set ORT_DYLIB_PATH to libonnxruntime. Looked at:\n{looked}"
    )]
    NotFound {
        /// One line a place: what it was and what was wrong with it.
        looked: String,
    },
    /// The library the user named cannot be used.
    #[error("ORT_DYLIB_PATH names {path}, which cannot be used: {reason}. Correct or unset it")]
    Named {
        /// The path as given.
        path: String,
        /// The loader's words.
        reason: String,
    },
    /// ONNX Runtime refused a graph.
    #[error("ONNX Runtime refuses {what}: {reason}. Check the model with `tla inspect`")]
    Load {
        /// Which graph.
        what: String,
        /// The runtime's words.
        reason: String,
    },
    /// A run failed.
    #[error(
        "ONNX Runtime failed while running {what}: {reason}. Check that tokenizer and model belong together, or ask for less at once"
    )]
    Run {
        /// Which graph.
        what: String,
        /// The runtime's words.
        reason: String,
    },
    /// A tensor is not what was expected of it.
    #[error("tensor '{name}' is {found}, expected {expected}. Export the model again")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The model lacks an input or output a language model with a cache has.
    #[error(
        "the model has no {what}. Export it with a key-value cache: \
         optimum-cli export onnx --task text-generation-with-past"
    )]
    NotCausal {
        /// What is missing.
        what: String,
    },
}

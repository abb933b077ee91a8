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
    /// CUDA was asked of a library that cannot do it.
    #[error(
        "{library} is a build of ONNX Runtime without CUDA. Install `pip install \
         onnxruntime-gpu[cuda,cudnn]==1.31.1` in an environment of its own and activate it, set \
         ORT_DYLIB_PATH to its libonnxruntime, or use --provider cpu"
    )]
    CpuOnly {
        /// Where the library lies.
        library: String,
    },
    /// A library that the CUDA provider needs is missing.
    #[error(
        "ONNX Runtime's CUDA provider cannot be loaded: {reason}. Install the CUDA 13 libraries \
         with `pip install onnxruntime-gpu[cuda,cudnn]==1.31.1`, or put their folder on \
         LD_LIBRARY_PATH"
    )]
    CudaLibraries {
        /// The loader's words.
        reason: String,
    },
    /// The machine has no NVIDIA driver.
    #[error(
        "no NVIDIA driver was found: {reason}. Install the driver of this machine's device, give a \
         container its devices, or use --provider cpu"
    )]
    NoDriver {
        /// The loader's words.
        reason: String,
    },
    /// A device cannot be opened.
    #[error(
        "CUDA device {device} cannot be used: {reason}. `nvidia-smi -L` lists the devices there \
         are; choose one with --device"
    )]
    CudaDevice {
        /// The device's number.
        device: u16,
        /// CUDA's words.
        reason: String,
    },
    /// A provider lacks what a graph needs.
    #[error(
        "ONNX Runtime's {provider} provider has no kernel that {what} needs: {reason}. Export the \
         model in float32 or float16, or use another --provider"
    )]
    NoKernel {
        /// Which graph.
        what: String,
        /// Which provider.
        provider: &'static str,
        /// The runtime's words.
        reason: String,
    },
    /// Nodes that compute would run on the CPU although CUDA was asked for.
    #[error(
        "ONNX Runtime's CUDA provider leaves {count} nodes of {what} that compute to the CPU: \
         {nodes}. Export the model in another type or by another exporter, or use --provider cpu"
    )]
    LeftToCpu {
        /// Which graph.
        what: String,
        /// How many.
        count: usize,
        /// Operators and names of some.
        nodes: String,
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

//! Everything a safetensors checkpoint can be refused for.

use std::path::PathBuf;

/// Why a checkpoint was refused. The text states a fact, then a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// No length and no JSON object after it.
    #[error("{path} is not a safetensors file. Give a .safetensors file, or download it again")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
    },
    /// A header larger than any model's.
    #[error(
        "{path} states a header of {bytes} bytes, and {limit} is the most that is read. The file is damaged; download it again"
    )]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// As stated.
        bytes: u64,
        /// The cap.
        limit: u64,
    },
    /// A header that does not end before the file does.
    #[error(
        "{path} states a header of {bytes} bytes and has {size} bytes in all. The file is cut short; download it again"
    )]
    HeaderBeyondFile {
        /// The file.
        path: PathBuf,
        /// As stated.
        bytes: u64,
        /// Size of the file.
        size: u64,
    },
    /// A header that is no JSON, or not of the right form.
    #[error(
        "the header of {path} cannot be read: {source}. The file is damaged; download it again"
    )]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Two tensors of one name in a file or a checkpoint, or one named twice in the index.
    #[error("{path} defines {name:?} a second time. Download the checkpoint again")]
    DuplicateName {
        /// The file with the second.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// Sizes whose product is out of range.
    #[error(
        "the tensor {name:?} has the impossible shape {shape:?}. The file is damaged; download it again"
    )]
    BadShape {
        /// The tensor.
        name: String,
        /// Its sizes as stored.
        shape: Vec<u64>,
    },
    /// Bytes that do not fill the shape.
    #[error(
        "the tensor {name:?} holds {actual} bytes where its shape needs {expected}. The file is damaged; download it again"
    )]
    WrongLength {
        /// The tensor.
        name: String,
        /// Bytes that shape and type ask for.
        expected: u64,
        /// Bytes between the offsets.
        actual: u64,
    },
    /// Offsets in the wrong order, or beyond the file.
    #[error(
        "the tensor {name:?} lies at {start}..{end} of {size} bytes of data. The file is cut short or damaged; download it again"
    )]
    OutOfRange {
        /// The tensor.
        name: String,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes of data in the file.
        size: u64,
    },
    /// Two tensors that share bytes.
    #[error("the tensors {first:?} and {second:?} overlap. The file is damaged; download it again")]
    Overlap {
        /// First tensor by offset.
        first: String,
        /// Second.
        second: String,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "{path} has {bytes} bytes of data from byte {start} on that belong to no tensor. The file is damaged; download it again"
    )]
    Unclaimed {
        /// The file.
        path: PathBuf,
        /// Offset in the data.
        start: u64,
        /// How many.
        bytes: u64,
    },
    /// An index larger than any model's.
    #[error("{path} has {bytes} bytes, and {limit} is the most that is read. It is not an index")]
    IndexTooLarge {
        /// The index.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cap.
        limit: u64,
    },
    /// An index that is no JSON, or not of the right form.
    #[error(
        "{path} is not the index of a safetensors checkpoint: {source}. Download the checkpoint again"
    )]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A name that is no file name, or a link out of the folder.
    #[error(
        "{path} names the file {file:?}, which is not a .safetensors file inside its folder. Put the files beside the index; do not use this checkpoint if you do not trust it"
    )]
    Escapes {
        /// The index.
        path: PathBuf,
        /// The file as named.
        file: String,
    },
    /// A file that is not there.
    #[error("{path} names the file {file:?}, which does not exist. Download the checkpoint again")]
    MissingFile {
        /// The index.
        path: PathBuf,
        /// The file as named.
        file: String,
    },
    /// Index and file disagree about a tensor.
    #[error(
        "{path} and {file:?} disagree: the tensor {name:?} is {}. Download the checkpoint again",
        if *.indexed { "in the index alone" } else { "in the file alone" }
    )]
    Disagree {
        /// The index.
        path: PathBuf,
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Whether it is the index that has it.
        indexed: bool,
    },
    /// A file that is not what it was when its header was read.
    #[error("{path} was changed while it was used. Run the command again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A tensor larger than memory.
    #[error("there is no memory for the {bytes} bytes of {name:?}. Use a larger machine")]
    NoMemory {
        /// The tensor.
        name: String,
        /// Its size as f32.
        bytes: u64,
    },
    /// A tensor that is not in the checkpoint.
    #[error("the checkpoint has no tensor {name:?}. Find the targets again")]
    NoTensor {
        /// The name.
        name: String,
    },
    /// Nothing to adapt.
    #[error(
        "{path} has no matrix that can be adapted ({skipped} were skipped, first {first}). Use a checkpoint in fp32, bf16 or fp16 whose tensors are named like model.layers.0.self_attn.q_proj.weight"
    )]
    NothingToAdapt {
        /// The checkpoint.
        path: PathBuf,
        /// How many matrices were seen and skipped.
        skipped: usize,
        /// The first of them and the reason, or "there was none".
        first: String,
    },
}

//! Everything a model file can be refused for.

use super::{CheckpointError, WireError};
use crate::format::ModuleId;
use std::{io, path::PathBuf};

/// Why a model was refused. The text states a fact, then a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system refused.
    #[error(
        "cannot {action} {path}: {source}. {}",
        way_out(source, "Check that the path exists and may be used")
    )]
    Io {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Of several files one could not be written, and those before it could not be taken back.
    #[error(
        "cannot write {path}: {source}, and {} took the place of what was there. Write the output \
         again as a whole",
        listed(left)
    )]
    HalfPlaced {
        /// The file that could not be written.
        path: PathBuf,
        /// Places that hold new files, or none.
        left: Vec<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
    /// A safetensors checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint where a graph is needed.
    #[error(
        "{path} is a safetensors checkpoint, which holds weights and no graph to run. Export the model in fp32 with optimum-onnx and give that; an adapter made for the one fits the other if their base digests agree"
    )]
    NoGraph {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Nothing at this path.
    #[error("{path} does not exist. Give the file of a model, or its folder")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// A folder without the one file that is looked for.
    #[error(
        "the folder {path} holds no model.onnx, nor one in a folder onnx, nor a checkpoint as model.safetensors. Give the file itself, or export the model first"
    )]
    NoModelInFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A folder of transformers.js with more than one graph.
    #[error("{path} holds several models: {names}. Give the file that is meant")]
    SeveralGraphs {
        /// The folder.
        path: PathBuf,
        /// Their names.
        names: String,
    },
    /// Neither a file nor a folder.
    #[error("{path} is not a regular file. Give the file of a model, or its folder")]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// A file of zero bytes.
    #[error("{path} is empty. Export or download the model again")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Protobuf files end at 2 GiB.
    #[error(
        "{path} has {bytes} bytes, and an ONNX file may have {limit} at most. Keep the weights in an external data file"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// A pointer that git leaves in place of a large file.
    #[error("{path} is a Git LFS pointer, not the model. Run `git lfs pull` where it came from")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not a protobuf message of this type.
    #[error("{path} is not an ONNX model, or is cut short: {source}. Export or download it again")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: WireError,
    },
    /// Something changed that holds more than this crate knows of it.
    #[error(
        "{what} of {path} would be changed, and holds bytes that this version does not know and could not keep. \
         Export the model with an older onnx, or use a newer tla"
    )]
    WouldLose {
        /// The input.
        path: PathBuf,
        /// The part of the model: `node "…"`, …
        what: String,
    },
    /// A file that was replaced or written to while it was in use.
    #[error("{path} changed since it was read. Run the command again when nothing writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Values in the file and in another.
    #[error(
        "the tensor {name:?} holds its bytes and names another file for them. The file breaks the ONNX rules; export it again"
    )]
    TwoPlaces {
        /// The tensor.
        name: String,
    },
    /// External data in the model file itself.
    #[error(
        "the tensor {name:?} names the model file itself for its data. The file breaks the ONNX rules; export it again"
    )]
    OwnFile {
        /// The tensor.
        name: String,
    },
    /// External data outside the main graph, or of a node but in a file of its own, or in a file
    /// that would be renamed.
    #[error(
        "the tensor {name:?}, a constant of a node, subgraph or function, lies in another file, which \
         is not followed here. Export the model with its constants inline, or write to another folder"
    )]
    ExternalConstant {
        /// The tensor's name.
        name: String,
    },
    /// A protobuf message that is no model.
    #[error("{path} is not a complete ONNX model: it has no {part}. Export or download it again")]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// "graph", "nodes" or "operator set".
        part: &'static str,
    },
    /// A tensor no one can refer to.
    #[error(
        "initializer number {index} has no name. The file breaks the ONNX rules; export it again"
    )]
    UnnamedInitializer {
        /// Its place in the graph's list.
        index: usize,
    },
    /// A rule of the user that no name of the model follows.
    #[error(
        "no node or tensor of the model is named as in {rule:?}. Correct the name: `tla inspect` lists \
         what is skipped"
    )]
    UnusedRule {
        /// The rule as given.
        rule: String,
    },
    /// Two tensors, or two node outputs, of one name.
    #[error(
        "the name {name:?} is defined twice in the graph. The file breaks the ONNX rules; export it again"
    )]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A negative size, or sizes whose product is out of range.
    #[error(
        "the tensor {name:?} has the impossible shape {dims:?}. The file is damaged; export it again"
    )]
    BadShape {
        /// The tensor.
        name: String,
        /// Its sizes as stored.
        dims: Vec<i64>,
    },
    /// The data do not fill the shape.
    #[error(
        "the tensor {name:?} holds {actual} bytes where its shape needs {expected}. The file is damaged; export it again"
    )]
    WrongLength {
        /// The tensor.
        name: String,
        /// Bytes that shape and type ask for.
        expected: u64,
        /// Bytes found.
        actual: u64,
    },
    /// A type whose values are not read as f32.
    #[error(
        "the tensor {name:?} holds {dtype} values, which cannot be read as f32. Export the model in fp32"
    )]
    NotFloat {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// External data without a usable location, offset or length.
    #[error(
        "the external data entry {key} of tensor {name:?} is {value:?}, which is not usable. Export the model again"
    )]
    BadExternalEntry {
        /// The tensor.
        name: String,
        /// "location", "offset" or "length".
        key: &'static str,
        /// What the file says; empty if missing.
        value: String,
    },
    /// External data that point out of the model's folder.
    #[error(
        "the tensor {name:?} asks for {location:?}, outside the model's folder. Keep data files beside the model; do not open this file if you do not trust it"
    )]
    ExternalEscapes {
        /// The tensor.
        name: String,
        /// The path in the file.
        location: String,
    },
    /// External data behind the end of their file.
    #[error(
        "the tensor {name:?} needs bytes {offset}..{end} of {path}, which has {size}. The data file is cut short or belongs to another model"
    )]
    ExternalOutOfRange {
        /// The tensor.
        name: String,
        /// The data file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// One past the last byte.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// A data file of the output where there is one already, which the output does not replace.
    #[error(
        "{path} is there already, and perhaps another model needs it. Choose another folder, or remove the file"
    )]
    DataTaken {
        /// The file.
        path: PathBuf,
    },
    /// Two files of the output of one name.
    #[error("the model and a data file of it would both be {path}. Choose another output")]
    OnePlace {
        /// The path.
        path: PathBuf,
    },
    /// Output and input are one file.
    #[error(
        "{path} is an input of this command and will not be overwritten. Choose another output"
    )]
    WouldOverwriteInput {
        /// The path.
        path: PathBuf,
    },
    /// Two nodes say they are the same module.
    #[error(
        "{first:?} and {second:?} both claim to be {module}. Use the names the exporter gave them, or another --module"
    )]
    ClaimedTwice {
        /// The module.
        module: ModuleId,
        /// First node.
        first: String,
        /// Second node.
        second: String,
    },
    /// A node that needs what is made of it.
    #[error(
        "{path} leads round: the node {node:?} reads {value:?}, which is made of what it makes. No runtime can \
         run that; export it again"
    )]
    LeadsRound {
        /// The model.
        path: PathBuf,
        /// The node.
        node: String,
        /// The value.
        value: String,
    },
    /// A node before those it needs, or without them.
    #[error(
        "the nodes of {path} are not in the order in which they compute: {reader} reads {value:?}, which none \
         before it makes. Sort them topologically, as onnx-graphsurgeon does, or export the model again"
    )]
    Disorder {
        /// The model.
        path: PathBuf,
        /// "node …" or "the list of outputs".
        reader: String,
        /// The value.
        value: String,
    },
    /// A module that the user named, and why it cannot be adapted.
    #[error(
        "{name:?}, which --module names for {module}, cannot be adapted: {reason}. Or leave it out of --module"
    )]
    NamedInVain {
        /// The node.
        name: String,
        /// The module it should be.
        module: ModuleId,
        /// Why not, and what helps.
        reason: String,
    },
    /// Nothing to adapt.
    #[error(
        "{path} has no matrix that can be adapted ({skipped} linear operators were skipped, first {first}). Export the model in fp32 with optimum-onnx, whose nodes are named like /model/layers.0/self_attn/q_proj/MatMul"
    )]
    NothingToAdapt {
        /// The model.
        path: PathBuf,
        /// How many linear operators were seen and skipped.
        skipped: usize,
        /// The first of them and the reason, or "there was none".
        first: String,
    },
    /// The base digest covers all seven linear roles of every layer.
    #[error(
        "{module} cannot be read, so the model has no base digest. `tla inspect` says why it was skipped; use an fp32 export or a float checkpoint with all layers"
    )]
    NoDigest {
        /// The first module that is missing.
        module: ModuleId,
    },
    /// A matrix larger than the format can say.
    #[error(
        "{module} has the shape {rows}×{cols}, beyond what this version can hold. Use a smaller model"
    )]
    MatrixTooLarge {
        /// The module.
        module: ModuleId,
        /// Output size.
        rows: usize,
        /// Input size.
        cols: usize,
    },
    /// A target that is not from this model.
    #[error("the model has no initializer {name:?}. Find the targets again after changing a model")]
    NoInitializer {
        /// The name.
        name: String,
    },
}

impl ModelError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// What helps where the operating system refused, if not the `usual`.
pub(crate) fn way_out<'a>(source: &io::Error, usual: &'a str) -> &'a str {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match source.kind() {
        StorageFull | QuotaExceeded => "Make room, or choose an output on another disk",
        FileTooLarge => "Choose an output on a file system that takes larger files",
        _ => usual,
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

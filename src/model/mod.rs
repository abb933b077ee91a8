//! Containers of exported models, and what in them can be adapted.
//!
//! [`Model::load`] reads and checks an ONNX file or a safetensors checkpoint. As a [`Container`]
//! either says which matrix is which module and gives a module's canonical weight.
//! [`base_digest`] names the weights an adapter belongs to. [`stage_model`] writes a changed ONNX
//! model beside its place: what did not change as it was stored, and weights that change when
//! their turn comes.

mod constants;
mod container;
mod data;
mod digest;
mod dtypes;
mod error;
mod external;
mod fields;
mod layout;
mod linear;
pub mod node;
mod onnx;
pub mod proto;
mod safetensors;
mod staged;
mod stored;
mod summary;
mod targets;
mod wire;
mod write;

pub use container::{Container, Kind, Model};
pub use digest::{base_digest, module_digest};
pub use dtypes::{ElementType, check_tensor, f32_tensor, shape_of};
pub use error::ModelError;
pub(crate) use external::promised;
pub(crate) use layout::Surplus;
pub(crate) use onnx::MAX_FILE;
pub use onnx::OnnxModel;
pub use safetensors::{Checkpoint, CheckpointError, Shard, Tensor, TensorReader};
pub use staged::Staged;
pub use summary::{Summary, TargetLine, summarize};
pub use targets::{NodeSite, Skipped, Target, Targets, find_targets};
pub use wire::WireError;
pub use write::{Contents, Untouched, stage_model, write_model};

//! Containers of exported models, and what in them can be adapted.
//!
//! [`Model::load`] reads and checks an ONNX file or a safetensors checkpoint. As a [`Container`]
//! either says which matrix is which module and gives a module's canonical weight.
//! [`base_digest`] names the weights an adapter belongs to. [`stage_model`] writes a changed ONNX
//! model beside its place: what did not change as it was stored, and weights that change when
//! their turn comes.

mod branches;
mod constants;
mod container;
mod data;
mod data_names;
mod digest;
mod dtypes;
mod error;
pub(crate) mod external;
mod fields;
mod find;
mod folded;
mod home;
mod integers;
mod layout;
mod naming;
pub mod node;
mod onnx;
mod operators;
mod order;
mod packed;
pub mod proto;
mod quantised;
mod ranks;
mod reader;
mod requantise;
mod safetensors;
mod staged;
mod stored;
mod summary;
mod targets;
pub mod temporary;
mod wire;
mod write;

pub use container::{Container, Kind, Model};
pub use digest::{base_digest, module_digest};
pub(crate) use dtypes::widen;
pub use dtypes::{ElementType, check_tensor, f32_tensor, shape_of};
pub use error::ModelError;
pub(crate) use error::way_out;
pub(crate) use external::promised;
pub use find::{find_targets, find_targets_by};
#[cfg(feature = "cli")]
pub(crate) use home::GRAPHS;
pub(crate) use layout::Surplus;
pub use naming::{Naming, Rule, RuleError};
pub(crate) use onnx::MAX_FILE;
pub use onnx::OnnxModel;
pub use packed::Part;
pub use quantised::{Grid, Quantisation};
pub(crate) use reader::count_uses;
pub use requantise::scale_bytes;
pub use safetensors::{Checkpoint, CheckpointError, Shard, Tensor, TensorReader};
pub use staged::Staged;
#[cfg(feature = "cli")]
pub(crate) use staged::new_beside;
pub use summary::{Summary, TargetLine, summarize};
pub use targets::{NodeSite, Skipped, Target, Targets};
pub use wire::WireError;
pub use write::{Contents, Untouched, stage_model, write_model};

//! Containers of exported models, and what in them can be adapted.
//!
//! [`OnnxModel::load`] reads and checks a file, [`find_targets`] says which matrix is which
//! module, [`OnnxModel::weight`] gives a module's canonical weight, [`base_digest`] names the
//! weights an adapter belongs to, and [`write_model`] puts a changed model beside its place.

mod digest;
mod dtypes;
mod error;
mod external;
mod linear;
pub mod node;
mod onnx;
pub mod proto;
mod summary;
mod targets;
mod write;

pub use digest::{base_digest, module_digest};
pub use dtypes::{ElementType, check_tensor, f32_tensor, shape_of};
pub use error::ModelError;
pub use onnx::OnnxModel;
pub use summary::{Summary, TargetLine, summarize};
pub use targets::{Skipped, Target, Targets, find_targets};
pub use write::write_model;

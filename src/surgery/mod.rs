//! Every edit of a model goes through one patch that checks before it applies.
//!
//! [`Patch`] edits a graph or leaves it untouched. [`OnnxMerge`] writes adapters into the
//! weights, each when its turn comes, and says how much survived the rounding; [`verify_merged`] proves that a
//! model is exactly a base and an adapter. [`graft`] leaves the weights alone and puts the adapter
//! beside them, its values an input that can be overridden. [`CheckpointMerge`] and [`verify_checkpoint`] do the
//! same for safetensors, file by file and piece by piece, whatever the size of the model.

mod addend;
mod copies;
mod error;
mod fans;
mod graft;
mod graft_error;
mod grafted;
mod kernel;
mod lasttoken;
mod lowrank;
mod merge;
mod merge_checkpoint;
mod merging;
mod patch;
mod patch_check;
mod patch_error;
mod rebuild;
mod rounding;
mod survival;
mod values;
mod verify;
mod verify_checkpoint;
mod whole;
mod workers;

pub use addend::Addend;
pub use error::SurgeryError;
pub use graft::{Grafted, graft};
pub use graft_error::GraftError;
pub use grafted::{MIXING, VALUES, refuse_grafted};
pub use lasttoken::last_token_patch;
pub use lowrank::{LowRank, lowrank_patch, mixing_of};
pub use merge::{Merged, OnnxMerge, merge};
pub use merge_checkpoint::CheckpointMerge;
pub use patch::{Edit, Patch};
pub use patch_check::free_name;
pub use patch_error::PatchError;
pub use rebuild::rebuild_from;
pub use rounding::{to_bf16, to_f16};
pub use survival::{ModuleSurvival, Survival};
pub use verify::{Mismatch, verify_merged, verify_model};
pub use verify_checkpoint::verify_checkpoint;

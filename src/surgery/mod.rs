//! Every edit of a model goes through one patch that checks before it applies.
//!
//! [`Patch`] edits a graph or leaves it untouched. [`merge`] writes an adapter into the
//! weights and says how much of it survived the rounding; [`verify_merged`] proves that a
//! model is exactly a base and an adapter.

mod error;
mod lasttoken;
mod lowrank;
mod merge;
mod patch;
mod patch_check;
mod patch_error;
mod survival;
mod verify;

pub use error::SurgeryError;
pub use lasttoken::last_token_patch;
pub use lowrank::{GraftError, LowRank, MIXING, lowrank_patch, mixing_of};
pub use merge::{Merged, merge};
pub use patch::{Edit, Patch};
pub use patch_check::free_name;
pub use patch_error::PatchError;
pub use survival::{ModuleSurvival, Survival};
pub use verify::{Mismatch, verify_merged};

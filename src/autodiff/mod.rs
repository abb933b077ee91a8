//! From a forward graph to a gradient graph of standard ONNX operators.
//!
//! Reverse-mode differentiation on the graph the user exported (design, "Training"): only nodes
//! through which the loss depends on the chosen tensors get an adjoint, everything else is shared
//! with the forward pass. Shapes are measured, not inferred: the caller runs [`probe::graph`] at
//! two sizes and hands back the [`shapes::Shapes`] it saw, because exporters' own annotations are
//! absent or wrong.
//!
//! | file | one idea |
//! |---|---|
//! | `index` | who makes a tensor, who reads it, which are constants |
//! | `path` | the nodes between the loss and what it is differentiated by |
//! | `lowering` | fused operators rewritten as standard ones |
//! | `probe`, `shapes` | measuring the shape and type of every tensor on the path |
//! | `backward` | emitting nodes of the backward pass |
//! | `rules` | one operator, one rule, one table entry |
//! | `reverse` | the sweep |
//! | `shared_prompt` | a prompt computed once for all rows that go on from it |
//! | `prune` | leaving out what no output needs |
//! | `loss` | the policy-gradient loss appended to a language model |

mod backward;
mod constants;
mod error;
mod index;
pub mod loss;
pub mod lowering;
mod path;
pub mod probe;
mod prune;
mod reverse;
mod rules;
pub mod shapes;
pub mod shared_prompt;

pub use error::AutodiffError;
#[cfg(feature = "train")]
pub(crate) use index::Index;
pub use path::Path;
pub use prune::prune;
pub use reverse::{Gradient, differentiate};

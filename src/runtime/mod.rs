//! The only place that names ONNX Runtime.
//!
//! | file | one idea |
//! |---|---|
//! | `locate` | where an ONNX Runtime library may be, and where we looked |
//! | `environment` | the library of this process |
//! | `provider` | where a graph runs, and what can keep it from running there |
//! | `session` | one loaded graph and how it is run |
//! | `weights` | large weights, lent to the sessions that use them |
//! | `transposed` | products with a transposed weight, without the transposed copy |
//! | `placement` | on which provider the nodes of a session were placed |
//! | `tensor` | values in and out of a session |
//! | `causal` | a language model's inputs and outputs: tokens, mask, positions, cache |
//! | `cache` | keys and values of the tokens seen so far, copied or written where they lie |
//! | `rows` | rows of cached tensors, picked where they lie |
//! | `head_size` | the size of a cached head, where the inputs leave it open |
//! | `measure` | running a probe graph twice to measure shapes |

mod cache;
mod causal;
mod environment;
mod error;
mod head_size;
#[cfg(feature = "load")]
mod locate;
mod measure;
mod placement;
mod provider;
mod rows;
mod session;
mod tensor;
mod transposed;
mod weights;

pub use cache::Cache;
pub use causal::{CausalGraph, Interface, LOGITS, MASK, POSITIONS, Rows};
pub use environment::ready;
pub use error::RuntimeError;
#[cfg(feature = "load")]
pub use locate::{Candidate, candidates};
pub use measure::measure;
pub use placement::OF_SHAPES;
pub use provider::{Cuda, Provider};
pub use session::{Session, SessionOptions};
pub use tensor::Tensor;

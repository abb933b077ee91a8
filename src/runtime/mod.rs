//! The only place that names ONNX Runtime.
//!
//! | file | one idea |
//! |---|---|
//! | `locate` | where an ONNX Runtime library may be, and where we looked |
//! | `session` | one loaded graph and how it is run |
//! | `tensor` | values in and out of a session |
//! | `causal` | a language model's inputs and outputs: tokens, mask, positions, cache |
//! | `head_size` | the size of a cached head, where the inputs leave it open |
//! | `measure` | running a probe graph twice to measure shapes |

mod causal;
mod error;
mod head_size;
#[cfg(feature = "load")]
mod locate;
mod measure;
mod session;
mod tensor;

pub use causal::{Cache, CausalGraph, Interface, LOGITS, MASK, Rows};
pub use error::RuntimeError;
#[cfg(feature = "load")]
pub use locate::{Candidate, candidates};
pub use measure::measure;
pub use session::{Provider, Session, SessionOptions, ready};
pub use tensor::Tensor;

//! Adapters in the formats of others.
//!
//! [`lora`] makes of an adapter what PEFT reads, exactly but for one rounding. [`onnx_adapter`]
//! writes its values as ONNX Runtime's own adapters are. [`TinyLora`] brings an adapter that PEFT
//! trained onto our basis, if the two agree.

mod error;
mod lora;
mod onnx_adapter;
mod paths;
mod tinylora;

pub use error::ExchangeError;
pub use lora::{Lora, lora};
pub use onnx_adapter::onnx_adapter;
pub use tinylora::{Fit, Imported, TinyLora};

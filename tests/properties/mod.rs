//! What holds of any input whatever. The fuzz targets of `fuzz/` and the replay of their corpus
//! (`tests/fuzz_corpus.rs`) share this code.
//!
//! A property panics when it is broken. It returns what the input led to, so that the replay can
//! say which outcomes a corpus reaches.

pub mod adapter;
pub mod checkpoint;
pub mod container;
pub mod digest;
pub mod generated;
pub mod spec;
#[cfg(all(feature = "cli", feature = "train"))]
pub mod text;
pub mod wire;

/// `accepted`, or the name of the refusal.
pub type Outcome = String;

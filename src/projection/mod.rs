//! From a seed and a base to ΔW, the same bits on every machine (`spec/projection.md`).
//!
//! Every number is made by IEEE-754 `+ − × ÷ √` in f64, in an order the spec fixes, without fused
//! multiply-add. Threads, SIMD width, compiler and CPU therefore cannot matter.
//!
//! Without `std` the module holds what needs no heap: the entries of P and R, and the grouping.
#![forbid(unsafe_code)]

mod geometry;
mod grouping;
mod stream;

#[cfg(feature = "std")]
mod basis;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "std")]
mod factors;
#[cfg(feature = "std")]
mod gram;
#[cfg(feature = "std")]
mod jacobi;
#[cfg(feature = "std")]
mod lanczos;
#[cfg(feature = "std")]
mod rebuild;
#[cfg(feature = "std")]
mod selection;
#[cfg(feature = "std")]
mod sums;

pub use geometry::{Geometry, mixing_entry, mixing_into};
pub use grouping::group_of;
pub use stream::{entry, sqrt_of_rank};

#[cfg(feature = "std")]
pub use self::{
    basis::{Basis, basis},
    error::ProjectionError,
    factors::{Factors, delta, delta_row, factors, factors_digest, merged_f32},
    geometry::{mixing, projections},
    rebuild::rebuild,
    selection::{Selection, select},
};

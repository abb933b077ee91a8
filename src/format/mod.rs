//! The adapter file, version 1 (`spec/format.md`).
//!
//! A fixed little-endian layout with one encoding per adapter. [`Adapter::decode`] is the only
//! door in, [`encode`] the only door out; both apply the same checks in the same order, need no
//! heap and no `std`.
//!
//! ```
//! use tla::format::{Adapter, Header, encode};
//! let header = Header::default();
//! let mut file = [0; 154];
//! assert_eq!(encode(&header, &[0.5; 13], &mut file), Ok(154));
//! assert_eq!(Adapter::decode(&file).unwrap().values().sum::<f32>(), 6.5);
//! ```
#![forbid(unsafe_code)]

mod codec;
mod error;
mod header;
mod kinds;
mod roles;
mod scalar;
mod wire;

#[cfg(feature = "std")]
pub use codec::encode_to_vec;
pub use codec::{Adapter, encode};
pub use error::FormatError;
pub use header::{Header, MAX_RANK, MAX_VALUES};
pub use kinds::{Projection, Scalar, Split, Tying};
pub use roles::{ModuleId, Role, RoleSet};
pub use scalar::round_to_scalar;
pub use wire::{CHECKSUM_LEN, HEADER_LEN, MAGIC, VERSION};

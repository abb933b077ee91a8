//! The 96 bytes of the header through bincode, the only file that names it.
//!
//! The layout is the spec's, not the crate's: every field has a fixed size and is written little-endian
//! in the order of declaration, which a test holds against the table of offsets.

use bincode::{Decode, Encode};

use super::{FormatError, Header, Projection, RoleSet, Scalar, Split, Tying};

/// The first four bytes of every adapter; the first is not ASCII, so that text is told apart.
pub const MAGIC: [u8; 4] = [0x89, b'T', b'L', b'A'];
/// The version this crate reads and writes.
pub const VERSION: u8 = 1;
/// Bytes before the values.
pub const HEADER_LEN: usize = 96;
/// Bytes after the values.
pub const CHECKSUM_LEN: usize = 32;

#[derive(Encode, Decode)]
struct Wire {
    magic: [u8; 4],
    version: u8,
    scalar: u8,
    split: u8,
    tying: u8,
    rank: u8,
    projection: u8,
    width: u16,
    groups: u16,
    roles: u16,
    seed: u64,
    scale: f32,
    first_layer: u16,
    layers: u16,
    base_digest: [u8; 32],
    factors_digest: [u8; 32],
}

/// Header fields from the first [`HEADER_LEN`] bytes, checked in the order of the spec.
pub(super) fn read(bytes: &[u8]) -> Result<Header, FormatError> {
    let short = FormatError::TooShort { len: bytes.len() };
    let (wire, _): (Wire, usize) =
        bincode::decode_from_slice(bytes, bincode::config::legacy()).map_err(|_| short)?;
    if wire.magic != MAGIC {
        return Err(FormatError::BadMagic { found: wire.magic });
    }
    if wire.version != VERSION {
        return Err(FormatError::UnknownVersion { found: wire.version });
    }
    let header = Header {
        scalar: Scalar::from_code(wire.scalar)
            .ok_or(FormatError::UnknownScalar { found: wire.scalar })?,
        split: Split::from_code(wire.split)
            .ok_or(FormatError::UnknownSplit { found: wire.split })?,
        tying: Tying::from_code(wire.tying)
            .ok_or(FormatError::UnknownTying { found: wire.tying })?,
        projection: Projection::from_code(wire.projection)
            .ok_or(FormatError::UnknownProjection { found: wire.projection })?,
        roles: RoleSet::from_bits(wire.roles)?,
        rank: wire.rank,
        width: wire.width,
        groups: wire.groups,
        seed: wire.seed,
        scale: wire.scale,
        first_layer: wire.first_layer,
        layers: wire.layers,
        base_digest: wire.base_digest,
        factors_digest: wire.factors_digest,
    };
    header.check()?;
    Ok(header)
}

/// Writes the header to the first [`HEADER_LEN`] bytes.
pub(super) fn write(header: &Header, out: &mut [u8]) -> Result<(), FormatError> {
    let wire = Wire {
        magic: MAGIC,
        version: VERSION,
        scalar: header.scalar.code(),
        split: header.split.code(),
        tying: header.tying.code(),
        rank: header.rank,
        projection: header.projection.code(),
        width: header.width,
        groups: header.groups,
        roles: header.roles.bits(),
        seed: header.seed,
        scale: header.scale,
        first_layer: header.first_layer,
        layers: header.layers,
        base_digest: header.base_digest,
        factors_digest: header.factors_digest,
    };
    let small = FormatError::BufferTooSmall { needed: HEADER_LEN, len: out.len() };
    bincode::encode_into_slice(wire, out, bincode::config::legacy()).map(|_| ()).map_err(|_| small)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_lies_at_the_offset_of_the_spec() {
        let header = Header {
            scalar: Scalar::F16,
            split: Split::Peft,
            tying: Tying::Structured,
            rank: 3,
            projection: Projection::Unit,
            width: 9,
            groups: 0x0102,
            roles: RoleSet::LINEAR,
            seed: 0x0102_0304_0506_0708,
            scale: 1.5,
            first_layer: 0x0304,
            layers: 0x0506,
            base_digest: [0xaa; 32],
            factors_digest: [0xbb; 32],
        };
        let mut bytes = [0; HEADER_LEN];
        write(&header, &mut bytes).unwrap();
        let mut expected = [0; HEADER_LEN];
        expected[..16].copy_from_slice(&[
            0x89, 0x54, 0x4c, 0x41, 1, 1, 1, 1, 3, 1, 9, 0, 0x02, 0x01, 0x7f, 0,
        ]);
        expected[16..24].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        expected[24..32].copy_from_slice(&[0, 0, 0xc0, 0x3f, 0x04, 0x03, 0x06, 0x05]);
        expected[32..64].fill(0xaa);
        expected[64..].fill(0xbb);
        assert_eq!(bytes, expected);
        assert_eq!(read(&bytes), Ok(header));
    }
}

//! Whole files: bytes to a checked view, header and values to bytes.

use sha2::{Digest, Sha256};

use super::{CHECKSUM_LEN, FormatError, HEADER_LEN, Header, Scalar, scalar, wire};

/// A checked view of an adapter's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter<'a> {
    header: Header,
    bytes: &'a [u8],
}

impl<'a> Adapter<'a> {
    /// Checks every byte. What decodes encodes to the same bytes again.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        if bytes.len() < HEADER_LEN + CHECKSUM_LEN {
            return Err(FormatError::TooShort { len: bytes.len() });
        }
        let header = wire::read(bytes)?;
        let expected = header.encoded_len();
        if bytes.len() != expected {
            return Err(FormatError::WrongLength { expected, len: bytes.len() });
        }
        let adapter = Self { header, bytes };
        let (body, checksum) = bytes.split_at(expected - CHECKSUM_LEN);
        if Sha256::digest(body)[..] != *checksum {
            return Err(FormatError::WrongChecksum);
        }
        for (index, value) in adapter.values().enumerate() {
            check_value(index, value)?;
            if is_negative_zero(value) {
                return Err(FormatError::NegativeZero { index });
            }
        }
        Ok(adapter)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The values v, group after group, widened to f32.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        widened(self.header.scalar, self.stored())
    }

    /// The u values of one group, or `None` beyond the last group.
    pub fn group(&self, index: usize) -> Option<impl ExactSizeIterator<Item = f32> + use<'a>> {
        let Header { scalar, width, .. } = self.header;
        let group = self.stored().chunks_exact(scalar.size() * usize::from(width)).nth(index)?;
        Some(widened(scalar, group))
    }

    fn stored(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - CHECKSUM_LEN]
    }

    /// The SHA-256 at the end of the file, which names the adapter.
    pub fn checksum(&self) -> [u8; CHECKSUM_LEN] {
        let mut checksum = [0; CHECKSUM_LEN];
        checksum.copy_from_slice(&self.bytes[self.bytes.len() - CHECKSUM_LEN..]);
        checksum
    }

    /// The file itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Writes an adapter to the head of `out` and returns its length. Every value must be finite and
/// exactly representable in the storage type ([`super::round_to_scalar`]); −0 is written as +0.
pub fn encode(header: &Header, v: &[f32], out: &mut [u8]) -> Result<usize, FormatError> {
    header.check()?;
    let (expected, needed) = (header.parameters(), header.encoded_len());
    if v.len() != expected {
        return Err(FormatError::WrongValueCount { expected, len: v.len() });
    }
    let len = out.len();
    let out = out.get_mut(..needed).ok_or(FormatError::BufferTooSmall { needed, len })?;
    let scalar = header.scalar;
    let (body, checksum) = out.split_at_mut(needed - CHECKSUM_LEN);
    wire::write(header, body)?;
    for (index, (&value, bytes)) in
        v.iter().zip(body[HEADER_LEN..].chunks_exact_mut(scalar.size())).enumerate()
    {
        check_value(index, value)?;
        if super::round_to_scalar(scalar, value) != value {
            return Err(FormatError::ValueNotRepresentable { index, value, scalar });
        }
        scalar::write(scalar, if is_negative_zero(value) { 0.0 } else { value }, bytes);
    }
    checksum.copy_from_slice(&Sha256::digest(&*body));
    Ok(needed)
}

/// [`encode`] to a buffer of the right length.
#[cfg(feature = "std")]
pub fn encode_to_vec(header: &Header, v: &[f32]) -> Result<Vec<u8>, FormatError> {
    header.check()?;
    let mut out = vec![0; header.encoded_len()];
    encode(header, v, &mut out)?;
    Ok(out)
}

fn widened(scalar: Scalar, bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> {
    bytes.chunks_exact(scalar.size()).map(move |bytes| scalar::read(scalar, bytes))
}

fn check_value(index: usize, value: f32) -> Result<(), FormatError> {
    if value.is_finite() { Ok(()) } else { Err(FormatError::ValueNotFinite { index }) }
}

fn is_negative_zero(value: f32) -> bool {
    value == 0.0 && value.is_sign_negative()
}

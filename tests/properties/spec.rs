//! The table of refusals of `spec/format.md`, read off the offsets: what the codec must agree with.

use sha2::{Digest, Sha256};

/// Bytes before and after the values.
pub const FRAME: usize = 96 + 32;

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// Bytes per value and number of values that a header asks for.
pub fn values(header: &[u8]) -> (u64, u64) {
    let size = if header[5] == 2 { 4 } else { 2 };
    (size, number(header, 10, 2) * number(header, 12, 2))
}

/// The first of refusals 2 to 20 that holds for 96 bytes.
pub fn header(bytes: &[u8]) -> Option<&'static str> {
    let at = |at| number(bytes, at, 2);
    let (rank, width, groups, roles) = (u64::from(bytes[8]), at(10), at(12), at(14));
    let (first_layer, layers) = (at(28), at(30));
    let scale = f32::from_bits(number(bytes, 24, 4) as u32);
    let depth = if layers == 0 { 65535 } else { layers };
    let modules = depth * u64::from((roles & 0x7f).count_ones()) + (roles >> 7 & 1);
    let table = [
        ("bad-magic", bytes[..4] != [0x89, 0x54, 0x4c, 0x41]),
        ("unknown-version", bytes[4] != 1),
        ("unknown-scalar", bytes[5] > 2),
        ("unknown-split", bytes[6] > 1),
        ("unknown-tying", bytes[7] > 1),
        ("unknown-projection", bytes[9] > 1),
        ("unknown-roles", roles > 0xff),
        ("no-roles", roles == 0),
        ("rank-zero", rank == 0),
        ("rank-too-large", rank > 64),
        ("width-zero", width == 0),
        ("unit-width", bytes[9] == 1 && width != rank * rank),
        ("groups-zero", groups == 0),
        ("scale-not-finite", !scale.is_finite()),
        ("scale-not-positive", scale <= 0.0),
        ("first-layer-without-layers", layers == 0 && first_layer != 0),
        ("layers-overflow", first_layer + layers > 65535),
        ("too-many-groups", groups > modules),
        ("too-many-values", groups * width > 4_194_304),
    ];
    table.into_iter().find(|(_, holds)| *holds).map(|(name, _)| name)
}

/// The first refusal that holds for a file.
pub fn file(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() < FRAME {
        return Some("too-short");
    }
    if let Some(name) = header(bytes) {
        return Some(name);
    }
    let (size, count) = values(bytes);
    if bytes.len() as u64 != FRAME as u64 + size * count {
        return Some("wrong-length");
    }
    let (body, checksum) = bytes.split_at(bytes.len() - 32);
    if Sha256::digest(body)[..] != *checksum {
        return Some("wrong-checksum");
    }
    body[96..].chunks(size as usize).find_map(|value| {
        // Sign and exponent of bf16, f16 and f32.
        let bits = number(value, 0, value.len());
        let (sign, exponent) = match bytes[5] {
            0 => (1 << 15, 0x7f80),
            1 => (1 << 15, 0x7c00),
            _ => (1 << 31, 0x7f80_0000),
        };
        match bits & exponent == exponent {
            true => Some("value-not-finite"),
            false => (bits == sign).then_some("negative-zero"),
        }
    })
}

//! The random numbers: SHA-256 to centred binomials (`spec/projection.md`, stream).

use sha2::{Digest, Sha256};

use crate::format::ModuleId;

const PROJECTION_DOMAIN: &[u8; 16] = b"tla-projection-1";
#[cfg(feature = "std")]
const START_DOMAIN: &[u8; 16] = b"tla-start-vecs-1";
const WORDS_PER_BLOCK: u32 = 4;

/// The words of one block of the stream.
fn block(
    domain: &[u8; 16],
    seed: u64,
    module: ModuleId,
    i: u32,
    block: u32,
) -> [u64; WORDS_PER_BLOCK as usize] {
    let mut message = [0; 36];
    message[..16].copy_from_slice(domain);
    message[16..24].copy_from_slice(&seed.to_le_bytes());
    message[24..26].copy_from_slice(&module.layer.to_le_bytes());
    message[26..28].copy_from_slice(&u16::from(module.role.code()).to_le_bytes());
    message[28..32].copy_from_slice(&i.to_le_bytes());
    message[32..].copy_from_slice(&block.to_le_bytes());
    let digest = Sha256::digest(message);
    core::array::from_fn(|w| u64::from_le_bytes(core::array::from_fn(|byte| digest[8 * w + byte])))
}

/// A centred binomial of mean 0 and variance 1: 65 values, each exact in every float format.
fn centred(word: u64) -> f64 {
    (f64::from(word.count_ones()) - 32.0) / 4.0
}

/// Entry `index` (row-major) of the r×r matrix Pᵢ of a module: mean 0, variance 1/r.
pub fn entry(seed: u64, module: ModuleId, i: u16, rank: u8, index: u16) -> f64 {
    let index = u32::from(index);
    let words = block(PROJECTION_DOMAIN, seed, module, u32::from(i), index / WORDS_PER_BLOCK);
    centred(words[(index % WORDS_PER_BLOCK) as usize]) / sqrt_of_rank(rank)
}

/// All r² entries of Pᵢ in order, one hash per four of them.
pub(super) fn matrix(seed: u64, module: ModuleId, i: u16, rank: u8) -> impl Iterator<Item = f64> {
    let root = sqrt_of_rank(rank);
    let square = u32::from(rank) * u32::from(rank);
    (0..square.div_ceil(WORDS_PER_BLOCK))
        .flat_map(move |number| block(PROJECTION_DOMAIN, seed, module, u32::from(i), number))
        .take(square as usize)
        .map(move |word| centred(word) / root)
}

/// Start vector `i` of the basis of a module; knows nothing of the adapter's seed.
#[cfg(feature = "std")]
pub(super) fn start(module: ModuleId, i: u32, out: &mut [f64]) {
    for (number, chunk) in (0..).zip(out.chunks_mut(WORDS_PER_BLOCK as usize)) {
        for (value, word) in chunk.iter_mut().zip(block(START_DOMAIN, 0, module, i, number)) {
            *value = centred(word);
        }
    }
}

/// √r rounded to nearest, digit by digit, because `core` has no square root.
pub fn sqrt_of_rank(rank: u8) -> f64 {
    const FRACTION_BITS: u32 = 55;
    let (mut root, mut rest) = (0u64, 0u64);
    for digit in 0..4 + FRACTION_BITS {
        let pair = if digit < 4 { rank >> (6 - 2 * digit) & 3 } else { 0 };
        rest = rest << 2 | u64::from(pair);
        root <<= 1;
        if rest > 2 * root {
            rest -= 2 * root + 1;
            root += 1;
        }
    }
    // The last bit stands for all that were cut off, so that the conversion rounds once.
    let sticky = root | u64::from(rest != 0);
    sticky as f64 / (1u64 << FRACTION_BITS) as f64
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::format::Role;

    #[test]
    fn the_root_by_digits_is_the_correctly_rounded_one() {
        for rank in 0..=u8::MAX {
            assert_eq!(sqrt_of_rank(rank), f64::from(rank).sqrt(), "{rank}");
        }
    }

    #[test]
    fn single_entries_are_those_of_the_whole_matrix() {
        let module = ModuleId::new(3, Role::Down);
        let whole: Vec<f64> = matrix(7, module, 12, 3).collect();
        assert_eq!(whole.len(), 9);
        for (index, &value) in (0..).zip(&whole) {
            assert_eq!(entry(7, module, 12, 3, index), value);
        }
        assert_eq!(entry(7, module, 12, 3, 4) * sqrt_of_rank(3) * 4.0 % 1.0, 0.0);
    }
}

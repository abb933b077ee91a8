//! Values of v between f32 and their stored type, by integer arithmetic alone.

use super::Scalar;

/// The nearest value the type can hold, ties to even. What lies beyond the largest finite value
/// of the type becomes infinite; NaN stays NaN.
pub fn round_to_scalar(scalar: Scalar, value: f32) -> f32 {
    if value.is_nan() {
        return f32::NAN;
    }
    match scalar {
        Scalar::Bf16 => bf16_to_f32(bf16_from_f32(value)),
        Scalar::F16 => f16_to_f32(f16_from_f32(value)),
        Scalar::F32 => value,
    }
}

/// The value at the head of `bytes`, which hold at least [`Scalar::size`].
pub(super) fn read(scalar: Scalar, bytes: &[u8]) -> f32 {
    match scalar {
        Scalar::Bf16 => bf16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]])),
        Scalar::F16 => f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]])),
        Scalar::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

/// Writes a representable value to `bytes` of exactly [`Scalar::size`].
pub(super) fn write(scalar: Scalar, value: f32, bytes: &mut [u8]) {
    match scalar {
        Scalar::Bf16 => bytes.copy_from_slice(&bf16_from_f32(value).to_le_bytes()),
        Scalar::F16 => bytes.copy_from_slice(&f16_from_f32(value).to_le_bytes()),
        Scalar::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
    }
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn f16_to_f32(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => fraction as f32 * (1.0 / 16_777_216.0),
        31 if fraction != 0 => return f32::NAN,
        31 => f32::INFINITY,
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    sign * magnitude
}

fn f16_from_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let exponent = magnitude >> 23;
    // Below 2⁻¹⁴ a unit in the last place is 2⁻²⁴ whatever the exponent.
    let shift = if exponent >= 113 { 13 } else { 126 - exponent };
    if shift > 24 {
        return sign;
    }
    let (significand, rest) = if exponent >= 113 {
        (magnitude - (112 << 23), magnitude & 0x1fff)
    } else {
        let significand = magnitude & 0x7f_ffff | 0x80_0000;
        (significand, significand & ((1 << shift) - 1))
    };
    let half = 1 << (shift - 1);
    let floor = significand >> shift;
    let up = rest > half || rest == half && floor & 1 == 1;
    sign | (floor + u32::from(up)).min(0x7c00) as u16
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_like_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            let (ours, theirs) = (bf16_to_f32(bits), half::bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate_on_ties_and_everywhere_else() {
        // 65536 exponent-and-leading-bit patterns, each with tails around a tie of either type.
        for head in 0..=u16::MAX {
            for tail in [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001] {
                let value = f32::from_bits(u32::from(head) << 16 | tail);
                if value.is_nan() {
                    assert!(round_to_scalar(Scalar::F16, value).is_nan());
                    assert!(round_to_scalar(Scalar::Bf16, value).is_nan());
                    continue;
                }
                assert_eq!(f16_from_f32(value), half::f16::from_f32(value).to_bits(), "{value:e}");
                assert_eq!(
                    bf16_from_f32(value),
                    half::bf16::from_f32(value).to_bits(),
                    "{value:e}"
                );
            }
        }
    }
}

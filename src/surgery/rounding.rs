//! One rounding from f64 to the type a weight is stored in.
//!
//! To 16 bits it goes by way of f32, which two roundings to nearest would get wrong beside a tie.
//! The first therefore rounds to odd: the last bit keeps that something was cut off, and f32 has
//! more than the two bits below either type that this takes.

use half::{bf16, f16};

/// The nearest f16, ties to even; infinite beyond the largest.
pub fn to_f16(sum: f64) -> f16 {
    f16::from_f32(to_odd(sum))
}

/// The nearest bf16, ties to even; infinite beyond the largest.
pub fn to_bf16(sum: f64) -> bf16 {
    bf16::from_f32(to_odd(sum))
}

/// The f32 itself, or of the two f32 around `sum` the one with an odd significand.
///
/// Without a branch, so that several go at once.
#[inline(always)]
pub(super) fn to_odd(sum: f64) -> f32 {
    let nearest = sum as f32;
    let (wide, bits) = (f64::from(nearest), nearest.to_bits());
    let exact = (wide == sum) | sum.is_nan();
    let beyond = wide.abs() > sum.abs();
    // The next towards zero; of infinity that is the largest number.
    let odd = bits.wrapping_sub(u32::from(beyond)) | 1;
    f32::from_bits(if exact { bits } else { odd })
}

/// The bits of the bf16 nearest to a number that [`to_odd`] gave; of a NaN, any.
#[inline(always)]
pub(super) fn odd_to_bf16(odd: f32) -> u16 {
    let bits = odd.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a type whose values, none negative, in order, are `grid`.
    fn check(grid: &[f64], round: impl Fn(f64) -> f64) {
        for (index, pair) in grid.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            // Neighbours differ by a power of two, so the middle is exact in f64.
            let middle = low + (high - low) / 2.0;
            let even = if index % 2 == 0 { low } else { high };
            for sign in [1.0, -1.0] {
                let to = |x: f64| sign * round(sign * x);
                assert_eq!(to(low), low);
                assert_eq!(to(middle), even, "tie between {low:e} and {high:e}");
                assert_eq!(to(middle.next_up()), high, "just above {middle:e}");
                assert_eq!(to(middle.next_down()), low, "just below {middle:e}");
            }
        }
        let largest = grid[grid.len() - 1];
        let tie = largest + (largest - grid[grid.len() - 2]) / 2.0;
        assert_eq!(round(tie.next_down()), largest);
        for x in [tie, 1e39, f64::MAX, f64::INFINITY] {
            assert_eq!(round(x), f64::INFINITY, "{x:e}");
            assert_eq!(round(-x), f64::NEG_INFINITY, "{x:e}");
        }
        assert!(round(f64::NAN).is_nan());
        assert!(round(1e-300) == 0.0 && round(-1e-300).is_sign_negative());
    }

    #[test]
    fn every_f16_and_every_tie_rounds_to_even() {
        let grid: Vec<f64> = (0..0x7c00).map(|bits| f16::from_bits(bits).to_f64()).collect();
        check(&grid, |x| to_f16(x).to_f64());
    }

    #[test]
    fn every_bf16_and_every_tie_rounds_to_even() {
        let grid: Vec<f64> = (0..0x7f80).map(|bits| bf16::from_bits(bits).to_f64()).collect();
        check(&grid, |x| to_bf16(x).to_f64());
        let bits = |x: f64| bf16::from_bits(odd_to_bf16(to_odd(x))).to_f64();
        check(&grid, |x| if x.is_nan() { x } else { bits(x) });
    }

    #[test]
    fn two_roundings_would_be_wrong_beside_a_tie() {
        let above = 1.0 + 2f64.powi(-8) * (1.0 + 2f64.powi(-30));
        assert_eq!(bf16::from_f32(above as f32).to_f64(), 1.0);
        assert_eq!(to_bf16(above).to_f64(), 1.0078125);
    }
}

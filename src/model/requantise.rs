//! Putting values back on a grid of integers, and fitting a grid to values.

use super::{
    ElementType,
    quantised::{Grid, Quantisation, bits_of},
};
use ndarray::Array2;

impl Grid {
    /// Lets each integer stand for the value of this grid that is nearest to `values`, ties to
    /// even; beyond its ends the last one.
    pub fn round(&mut self, values: &Array2<f64>) {
        let [least, largest] = self.range;
        for ((row, column), &value) in values.indexed_iter() {
            let at = [row, column];
            let (scale, zero) = (f64::from(self.scale(at)), f64::from(self.zero(at)));
            let exact = if scale == 0.0 { zero } else { value / scale + zero };
            let nearest = exact.round_ties_even().clamp(f64::from(least), f64::from(largest));
            self.integers[[row, column]] = nearest as i16;
        }
    }

    /// Fits scale and zero of every run to `values`, as ONNX Runtime's own quantiser does, and
    /// rounds to them. Without zero points of its own a grid keeps what stands for zero. Scales are rounded to
    /// `element` first, in which they are stored. Runs of zeros, and those that stand for `values`
    /// already, keep what they have.
    pub fn fit(&mut self, values: &Array2<f64>, has_zeros: bool, element: ElementType) {
        let mut ends = vec![[0.0f64; 2]; self.runs()];
        let mut changed = vec![false; self.runs()];
        let stand_for = self.values();
        for ((row, column), &value) in values.indexed_iter() {
            let run = self.run([row, column]);
            let [low, high] = &mut ends[run];
            (*low, *high) = (low.min(value), high.max(value));
            changed[run] |= value != f64::from(stand_for[[row, column]]);
        }
        let [least, largest] = self.range.map(f64::from);
        for (run, [low, high]) in ends.into_iter().enumerate() {
            let extreme = if high > -low { high } else { low };
            if extreme == 0.0 || !changed[run] {
                continue;
            }
            let (scale, zero) = match has_zeros {
                true => {
                    let scale = stored((high - low) / (largest - least), element);
                    let zero = (least - low / f64::from(scale)).round_ties_even();
                    (scale, zero.clamp(least, largest) as f32)
                }
                false => {
                    let zero = self.zeros()[run];
                    let scale = match (least == 0.0, zero == 0.0) {
                        // The end with one more step is for the value with the larger size.
                        (true, false) => extreme / -f64::from(zero),
                        // No integer stands for less than zero.
                        (true, true) => high / largest,
                        (false, _) => extreme.abs() / largest,
                    };
                    (stored(scale, element), zero)
                }
            };
            if scale != 0.0 && scale.is_finite() {
                self.set(run, scale, zero);
            }
        }
        self.round(values);
    }
}

/// A scale as it is stored.
fn stored(scale: f64, element: ElementType) -> f32 {
    match element {
        ElementType::F16 => half::f16::from_f64(scale).to_f32(),
        ElementType::Bf16 => half::bf16::from_f64(scale).to_f32(),
        ElementType::F32 | ElementType::Other(_) => scale as f32,
    }
}

impl Quantisation {
    /// The stored bytes of a grid's integers; `old` are those it was read from, whose padding
    /// stays.
    pub fn integer_bytes(&self, grid: &Grid, element: ElementType, old: &[u8]) -> Vec<u8> {
        let mut bytes = old.to_vec();
        match self {
            Self::Blocks { bits, block, shape: [_, columns], .. } => {
                let runs = columns.div_ceil(*block);
                let run_bytes = (block * bits).div_ceil(8);
                for ((row, column), &integer) in grid.integers.indexed_iter() {
                    let first = (row * runs + column / block) * run_bytes;
                    put(&mut bytes[first..first + run_bytes], *bits, column % block, integer);
                }
            }
            Self::Linear { .. } => {
                let bits = bits_of(element).map_or(8, |(bits, _)| bits);
                for (index, &integer) in grid.integers.iter().enumerate() {
                    put(&mut bytes, bits, index, integer);
                }
            }
        }
        bytes
    }

    /// The stored bytes of a grid's zero points, if the matrix has some; `old` are those it was
    /// read from, and `element` their type.
    pub fn zero_bytes(&self, grid: &Grid, element: ElementType, old: &[u8]) -> Vec<u8> {
        let zeros = grid.zeros();
        if element.size().is_some() {
            return float_bytes(zeros, element);
        }
        let mut bytes = old.to_vec();
        match self {
            Self::Blocks { bits, block, shape: [_, columns], .. } => {
                let runs = columns.div_ceil(*block).max(1);
                let row_bytes = (runs * bits).div_ceil(8);
                for (index, &zero) in zeros.iter().enumerate() {
                    let row = &mut bytes[index / runs * row_bytes..][..row_bytes];
                    put(row, *bits, index % runs, zero as i16);
                }
            }
            Self::Linear { .. } => {
                let bits = bits_of(element).map_or(8, |(bits, _)| bits);
                for (index, &zero) in zeros.iter().enumerate() {
                    put(&mut bytes, bits, index, zero as i16);
                }
            }
        }
        bytes
    }
}

/// The stored bytes of a grid's scales.
pub fn scale_bytes(grid: &Grid, element: ElementType) -> Vec<u8> {
    float_bytes(grid.scales(), element)
}

fn float_bytes(values: &[f32], element: ElementType) -> Vec<u8> {
    let half = |x: &f32| half::f16::from_f32(*x).to_le_bytes();
    let brain = |x: &f32| half::bf16::from_f32(*x).to_le_bytes();
    match element {
        ElementType::F16 => values.iter().flat_map(half).collect(),
        ElementType::Bf16 => values.iter().flat_map(brain).collect(),
        ElementType::F32 | ElementType::Other(_) => {
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    }
}

fn put(bytes: &mut [u8], bits: usize, index: usize, integer: i16) {
    match bits {
        4 => {
            let shift = 4 * (index % 2);
            let byte = &mut bytes[index / 2];
            *byte = *byte & !(15 << shift) | (integer as u8 & 15) << shift;
        }
        _ => bytes[index] = integer as u8,
    }
}

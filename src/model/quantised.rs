//! Weights stored as integers, and the values they stand for.
//!
//! A value is (q − z)·s, the difference and the product each rounded to f32 once; of integers the
//! difference is exact. The kernels of ONNX Runtime may round otherwise.

use super::{ElementType, ModelError, OnnxModel, dtypes, proto::TensorProto};
use ndarray::Array2;

/// How the integers of a matrix become weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// The operand of `MatMulNBits`: `[out, blocks, bytes]`, unsigned, the first value in the low
    /// bits; each run of `block` values of a row has a scale.
    Blocks {
        /// 4 or 8.
        bits: usize,
        /// Values with one scale.
        block: usize,
        /// Sizes of the matrix, `[out, in]`.
        shape: [usize; 2],
        /// The initializer with `out · blocks` scales.
        scales: String,
        /// The one with the integers that stand for zero, rows filled to whole bytes, or with as
        /// many numbers as there are scales; half the range without one.
        zero_points: Option<String>,
    },
    /// The input of `DequantizeLinear`, in the shape of the weight.
    Linear {
        /// The initializer with one scale, one for each index of `axis`, or one for each block.
        scale: String,
        /// The one with the integers that stand for zero, of the shape of the scales.
        zero_point: Option<String>,
        /// The axis along which scales differ, of the stored matrix.
        axis: usize,
        /// Values with one scale along the axis; 0 where scales are not blocked.
        block: usize,
    },
}

/// The grid of a matrix: which values its integers can stand for.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The integers, sizes as stored.
    pub integers: Array2<i16>,
    /// Least and largest integer that may be used.
    pub range: [i16; 2],
    scales: Vec<f32>,
    /// As many as scales.
    zeros: Vec<f32>,
    sharing: Sharing,
}

/// Which values have a scale in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    All,
    Row,
    Column,
    /// Runs of so many values of a row, so many runs in a row.
    AlongRow {
        block: usize,
        runs: usize,
    },
    /// Runs of so many values of a column, so many columns.
    AlongColumn {
        block: usize,
        columns: usize,
    },
}

impl Sharing {
    fn place(self, [row, column]: [usize; 2]) -> usize {
        match self {
            Self::All => 0,
            Self::Row => row,
            Self::Column => column,
            Self::AlongRow { block, runs } => row * runs + column / block,
            Self::AlongColumn { block, columns } => row / block * columns + column,
        }
    }

    fn scales(self, [rows, columns]: [usize; 2]) -> usize {
        match self {
            Self::All => 1,
            Self::Row => rows,
            Self::Column => columns,
            Self::AlongRow { runs, .. } => rows * runs,
            Self::AlongColumn { block, columns } => rows.div_ceil(block) * columns,
        }
    }
}

impl Grid {
    /// The scale of the integer at (row, column).
    pub fn scale(&self, at: [usize; 2]) -> f32 {
        self.scales[self.sharing.place(at)]
    }

    /// All scales as they are stored.
    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// What stands for zero with each scale.
    pub(super) fn zeros(&self) -> &[f32] {
        &self.zeros
    }

    /// The number of runs of values that share a scale.
    pub(super) fn runs(&self) -> usize {
        self.scales.len()
    }

    /// The run of the value at (row, column).
    pub(super) fn run(&self, at: [usize; 2]) -> usize {
        self.sharing.place(at)
    }

    /// Gives a run another scale and zero.
    pub(super) fn set(&mut self, run: usize, scale: f32, zero: f32) {
        (self.scales[run], self.zeros[run]) = (scale, zero);
    }

    /// What stands for zero at (row, column).
    pub fn zero(&self, at: [usize; 2]) -> f32 {
        self.zeros[self.sharing.place(at)]
    }

    /// The values.
    pub fn values(&self) -> Array2<f32> {
        let value = |(row, column)| {
            let at = self.sharing.place([row, column]);
            (f32::from(self.integers[[row, column]]) - self.zeros[at]) * self.scales[at]
        };
        Array2::from_shape_fn(self.integers.dim(), value)
    }
}

impl Quantisation {
    /// A short name: "int4 in blocks of 32", "uint8".
    pub fn name(&self, element: ElementType) -> String {
        match self {
            Self::Blocks { bits, block, .. } => format!("int{bits} in blocks of {block}"),
            Self::Linear { block: 0, .. } => element.name(),
            Self::Linear { block, .. } => format!("{} in blocks of {block}", element.name()),
        }
    }

    /// The initializers with the scales and the zero points.
    pub fn beside(&self) -> (&str, Option<&str>) {
        match self {
            Self::Blocks { scales, zero_points, .. } => (scales, zero_points.as_deref()),
            Self::Linear { scale, zero_point, .. } => (scale, zero_point.as_deref()),
        }
    }

    /// Reads the integers of `tensor` and what belongs to them.
    pub fn grid(&self, model: &OnnxModel, tensor: &TensorProto) -> Result<Grid, ModelError> {
        match self {
            Self::Blocks { bits, block, shape, scales, zero_points } => {
                blocks(model, tensor, [*bits, *block], *shape, scales, zero_points.as_deref())
            }
            Self::Linear { scale, zero_point, axis, block } => {
                linear(model, tensor, scale, zero_point.as_deref(), *axis, *block)
            }
        }
    }
}

fn named<'a>(model: &'a OnnxModel, name: &str) -> Result<&'a TensorProto, ModelError> {
    model.initializer(name).ok_or_else(|| ModelError::NoInitializer { name: name.into() })
}

fn misfit(tensor: &TensorProto) -> ModelError {
    ModelError::BadShape { name: tensor.name().into(), dims: tensor.dims.clone() }
}

fn blocks(
    model: &OnnxModel,
    tensor: &TensorProto,
    [bits, block]: [usize; 2],
    [rows, columns]: [usize; 2],
    scales: &str,
    zero_points: Option<&str>,
) -> Result<Grid, ModelError> {
    let runs = columns.div_ceil(block);
    let bytes = model.tensor_bytes(tensor)?;
    let block_bytes = block.checked_mul(bits).ok_or_else(|| misfit(tensor))?.div_ceil(8);
    let whole = rows.checked_mul(runs).and_then(|all| all.checked_mul(block_bytes));
    if whole != Some(bytes.len()) {
        return Err(misfit(tensor));
    }
    let integers = Array2::from_shape_fn((rows, columns), |(row, column)| {
        let run = &bytes[(row * runs + column / block) * block_bytes..][..block_bytes];
        unsigned(run, bits, column % block)
    });
    let scales = numbers(model, named(model, scales)?, rows * runs)?;
    let zeros = match zero_points.map(|name| named(model, name)).transpose()? {
        None => vec![f32::from(1u8 << (bits - 1)); scales.len()],
        Some(zeros) if ElementType::of(zeros).size().is_some() => {
            numbers(model, zeros, rows * runs)?
        }
        Some(zeros) => {
            let bytes = model.tensor_bytes(zeros)?;
            let row_bytes = (runs * bits).div_ceil(8);
            if bytes.len() != rows * row_bytes {
                return Err(misfit(zeros));
            }
            let of_row = |row: &[u8]| (0..runs).map(|run| unsigned(row, bits, run)).collect();
            let rows = bytes.chunks_exact(row_bytes);
            rows.flat_map(|row| -> Vec<i16> { of_row(row) }).map(f32::from).collect()
        }
    };
    let sharing = Sharing::AlongRow { block, runs };
    Ok(Grid { integers, range: [0, (1 << bits) - 1], scales, zeros, sharing })
}

fn linear(
    model: &OnnxModel,
    tensor: &TensorProto,
    scale: &str,
    zero_point: Option<&str>,
    axis: usize,
    block: usize,
) -> Result<Grid, ModelError> {
    let &[rows, columns] = &dtypes::shape_of(tensor)?[..] else { return Err(misfit(tensor)) };
    let (integers, range) = signed_integers(model, tensor)?;
    let range = usable(&integers, range);
    let integers = Array2::from_shape_vec((rows, columns), integers).map_err(|_| misfit(tensor))?;
    let scale = named(model, scale)?;
    let dims = dtypes::shape_of(scale)?;
    let sharing = match (&dims[..], block, axis) {
        ([] | [1], 0, _) => Sharing::All,
        ([_], 0, 0) => Sharing::Row,
        ([_], 0, 1) => Sharing::Column,
        ([_, _], 1.., 0) => Sharing::AlongColumn { block, columns },
        ([_, runs], 1.., 1) if *runs == columns.div_ceil(block) => {
            Sharing::AlongRow { block, runs: *runs }
        }
        _ => return Err(misfit(scale)),
    };
    let scales = numbers(model, scale, sharing.scales([rows, columns]))?;
    let zeros = match zero_point.map(|name| named(model, name)).transpose()? {
        None => vec![0.0; scales.len()],
        Some(zeros) => {
            let (found, _) = signed_integers(model, zeros)?;
            if found.len() != scales.len() {
                return Err(misfit(zeros));
            }
            found.into_iter().map(f32::from).collect()
        }
    };
    Ok(Grid { integers, range, scales, zeros, sharing })
}

/// What stays within a range that was reduced for the runtime's sake stays within it: where a
/// processor adds two products of an unsigned and a signed byte in 16 bits, 2 · 255 · 64 is the last
/// that fits.
fn usable(integers: &[i16], range: [i16; 2]) -> [i16; 2] {
    const REDUCED: [i16; 2] = [-64, 64];
    let within = |integer: &i16| (REDUCED[0]..=REDUCED[1]).contains(integer);
    match range {
        [-128, 127] if integers.iter().all(within) => REDUCED,
        whole => whole,
    }
}

/// The numbers of a float tensor, which must be so many.
fn numbers(
    model: &OnnxModel,
    tensor: &TensorProto,
    expected: usize,
) -> Result<Vec<f32>, ModelError> {
    let found: Vec<f32> = model.tensor_f32(tensor)?.iter().copied().collect();
    if found.len() == expected { Ok(found) } else { Err(misfit(tensor)) }
}

fn unsigned(bytes: &[u8], bits: usize, index: usize) -> i16 {
    match bits {
        4 => i16::from(bytes[index / 2] >> (4 * (index % 2)) & 15),
        _ => i16::from(bytes[index]),
    }
}

/// The integers of a tensor of 4 or 8 bits, and the least and largest of their type.
fn signed_integers(
    model: &OnnxModel,
    tensor: &TensorProto,
) -> Result<(Vec<i16>, [i16; 2]), ModelError> {
    let (bits, signed) = bits_of(ElementType::of(tensor)).ok_or_else(|| ModelError::NotFloat {
        name: tensor.name().into(),
        dtype: ElementType::of(tensor).name(),
    })?;
    let bytes = model.tensor_bytes(tensor)?;
    let count = dtypes::shape_of(tensor)?.iter().product::<usize>();
    let sign = |value: i16| match signed && value >> (bits - 1) == 1 {
        true => value - (1 << bits),
        false => value,
    };
    let values = (0..count).map(|index| sign(unsigned(&bytes, bits, index)));
    let least = if signed { -(1 << (bits - 1)) } else { 0 };
    Ok((values.collect(), [least, least + (1 << bits) - 1]))
}

/// Bits and sign of an integer type that weights are stored in.
pub(crate) fn bits_of(element: ElementType) -> Option<(usize, bool)> {
    use super::proto::tensor_proto::DataType as D;
    let ElementType::Other(number) = element else { return None };
    match D::try_from(number).ok()? {
        D::Int4 => Some((4, true)),
        D::Uint4 => Some((4, false)),
        D::Int8 => Some((8, true)),
        D::Uint8 => Some((8, false)),
        _ => None,
    }
}

//! Element types and shapes of ONNX tensors; values to f32 and back.

use super::{
    ModelError, external,
    proto::{TensorProto, tensor_proto::DataType},
    quantised,
};
use prost::bytes::Bytes;

/// The element type of a tensor, as far as this crate needs to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE binary32, the type of weights that can be adapted.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Anything else, by its number in the ONNX schema.
    Other(i32),
}

impl ElementType {
    /// The type of `tensor`.
    pub fn of(tensor: &TensorProto) -> Self {
        Self::from_number(tensor.data_type())
    }

    /// The type of this number in the ONNX schema.
    pub fn from_number(number: i32) -> Self {
        match number {
            t if t == DataType::Float as i32 => Self::F32,
            t if t == DataType::Float16 as i32 => Self::F16,
            t if t == DataType::Bfloat16 as i32 => Self::Bf16,
            t => Self::Other(t),
        }
    }

    /// Bytes of one value, of the types whose values are read.
    pub fn size(self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }

    /// The number in the ONNX schema.
    pub fn number(self) -> i32 {
        match self {
            Self::F32 => DataType::Float as i32,
            Self::F16 => DataType::Float16 as i32,
            Self::Bf16 => DataType::Bfloat16 as i32,
            Self::Other(t) => t,
        }
    }

    /// The ONNX name in lower case: "float", "float16", "int4", … or "type 99".
    pub fn name(self) -> String {
        match DataType::try_from(self.number()) {
            Ok(known) => known.as_str_name().to_ascii_lowercase(),
            Err(_) => format!("type {}", self.number()),
        }
    }
}

/// Bits of one element in `raw_data`; `None` for strings and types this crate does not know.
fn element_bits(data_type: i32) -> Option<u64> {
    use DataType as D;
    Some(match DataType::try_from(data_type).ok()? {
        D::Uint4 | D::Int4 | D::Float4e2m1 => 4,
        D::Uint8 | D::Int8 | D::Bool => 8,
        D::Uint16 | D::Int16 | D::Float16 | D::Bfloat16 => 16,
        D::Float | D::Int32 | D::Uint32 => 32,
        D::Int64 | D::Uint64 | D::Double | D::Complex64 => 64,
        D::Complex128 => 128,
        _ => return None,
    })
}

/// The sizes of `tensor`, none negative, their product in range.
pub fn shape_of(tensor: &TensorProto) -> Result<Vec<usize>, ModelError> {
    checked_shape(&tensor.dims).ok_or_else(|| ModelError::BadShape {
        name: tensor.name().into(),
        dims: tensor.dims.clone(),
    })
}

fn checked_shape(dims: &[i64]) -> Option<Vec<usize>> {
    let shape = dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
    // A zero among the sizes must not hide an overflow among the others.
    let product = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |p, &d| p.checked_mul(d))?;
    (product <= isize::MAX as usize / 16).then_some(shape)
}

/// Bytes that shape and type of `tensor` ask for; `None` for types of no fixed size.
pub(crate) fn expected_bytes(tensor: &TensorProto) -> Result<Option<u64>, ModelError> {
    let elements = shape_of(tensor)?.iter().product::<usize>() as u128;
    // The bits may be more than 64 bits count; the bytes are not.
    let bytes = |bits| (elements * u128::from(bits)).div_ceil(8) as u64;
    Ok(element_bits(tensor.data_type()).map(bytes))
}

/// The inline bytes of `tensor`, checked against its shape: `raw_data`, or `float_data` and the
/// 16-bit floats and small integers in `int32_data` rewritten in its layout. Other typed fields are
/// not read.
pub(crate) fn inline_bytes(tensor: &TensorProto) -> Result<Bytes, ModelError> {
    let bytes = match (&tensor.raw_data, ElementType::of(tensor)) {
        (Some(raw), _) => raw.clone(),
        (None, ElementType::F32) => {
            tensor.float_data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        (None, ElementType::F16 | ElementType::Bf16) => {
            tensor.int32_data.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect()
        }
        // Of integers of four bits an element of the field holds two, packed as in `raw_data`.
        (None, other) if quantised::bits_of(other).is_some() => {
            tensor.int32_data.iter().map(|&x| x as u8).collect()
        }
        (None, other) => {
            return Err(ModelError::NotFloat { name: tensor.name().into(), dtype: other.name() });
        }
    };
    check_length(tensor, bytes.len() as u64)?;
    Ok(bytes)
}

/// Refuses inline data that do not fill the shape. Typed fields of other types are left to the
/// runtime: nothing here reads them. External data are held against the shape where they are read
/// or written.
pub fn check_tensor(tensor: &TensorProto) -> Result<(), ModelError> {
    shape_of(tensor)?;
    if external::is_external(tensor) {
        return Ok(());
    }
    let found = match (&tensor.raw_data, ElementType::of(tensor)) {
        (Some(raw), _) => raw.len() as u64,
        (None, ElementType::F32) => tensor.float_data.len() as u64 * 4,
        (None, ElementType::F16 | ElementType::Bf16) => tensor.int32_data.len() as u64 * 2,
        (None, ElementType::Other(_)) => return Ok(()),
    };
    check_length(tensor, found)
}

pub(crate) fn check_length(tensor: &TensorProto, actual: u64) -> Result<(), ModelError> {
    match expected_bytes(tensor)? {
        Some(expected) if expected != actual => {
            Err(ModelError::WrongLength { name: tensor.name().into(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Little-endian `bytes` of the float type `element`, widened to f32 (exact for all three).
pub(crate) fn widen(
    name: &str,
    element: ElementType,
    bytes: &[u8],
) -> Result<Vec<f32>, ModelError> {
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    Ok(match element {
        ElementType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        ElementType::F16 => pairs().map(|b| half::f16::from_bits(b).to_f32()).collect(),
        ElementType::Bf16 => pairs().map(|b| half::bf16::from_bits(b).to_f32()).collect(),
        ElementType::Other(_) => {
            return Err(ModelError::NotFloat { name: name.into(), dtype: element.name() });
        }
    })
}

/// A named fp32 tensor of the given sizes from little-endian `raw` bytes.
pub fn f32_tensor(name: &str, shape: &[usize], raw: Bytes) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: shape.iter().map(|&d| d as i64).collect(),
        data_type: Some(DataType::Float as i32),
        raw_data: Some(raw),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[i64], data_type: DataType, raw: &[u8]) -> TensorProto {
        TensorProto {
            name: Some("t".into()),
            dims: dims.into(),
            data_type: Some(data_type as i32),
            raw_data: Some(Bytes::copy_from_slice(raw)),
            ..Default::default()
        }
    }

    #[test]
    fn shapes_that_no_memory_holds_are_refused() {
        for dims in
            [&[-1i64][..], &[i64::MAX, 2], &[i64::MAX], &[0, i64::MAX, i64::MAX], &[1 << 32; 3]]
        {
            assert!(shape_of(&tensor(dims, DataType::Float, &[])).is_err(), "{dims:?}");
        }
        assert_eq!(shape_of(&tensor(&[], DataType::Float, &[0; 4])).unwrap(), Vec::<usize>::new());
        let most = tensor(&[(1 << 59) - 1], DataType::Complex128, &[]);
        assert_eq!(expected_bytes(&most).unwrap(), Some((1 << 63) - 16));
    }

    #[test]
    fn data_that_do_not_fill_the_shape_are_refused() {
        assert!(check_tensor(&tensor(&[2], DataType::Float, &[0; 8])).is_ok());
        assert!(check_tensor(&tensor(&[3], DataType::Float, &[0; 8])).is_err());
        assert!(check_tensor(&tensor(&[3], DataType::Int4, &[0; 2])).is_ok());
        assert!(check_tensor(&tensor(&[3], DataType::Uint8, &[0; 2])).is_err());
        let typed = TensorProto { raw_data: None, ..tensor(&[2], DataType::Float, &[]) };
        assert!(check_tensor(&typed).is_err());
        assert!(check_tensor(&TensorProto { float_data: vec![1.0, 2.0], ..typed }).is_ok());
    }

    #[test]
    fn half_types_widen_exactly_and_integers_are_not_floats() {
        assert_eq!(widen("t", ElementType::F16, &[0x00, 0x3c]).unwrap(), [1.0]);
        assert_eq!(widen("t", ElementType::Bf16, &[0x80, 0x3f]).unwrap(), [1.0]);
        assert!(widen("t", ElementType::of(&tensor(&[1], DataType::Int8, &[0])), &[0]).is_err());
    }
}

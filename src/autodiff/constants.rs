//! Constants the passes add to a graph.

use half::{bf16, f16};
use prost::bytes::Bytes;

use crate::model::proto::{TensorProto, tensor_proto::DataType};

/// A zero-dimensional tensor of a floating-point type.
pub(super) fn number(name: &str, value: f32, kind: DataType) -> TensorProto {
    let bytes = match kind {
        DataType::Float16 => f16::from_f32(value).to_le_bytes().to_vec(),
        DataType::Bfloat16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        DataType::Double => f64::from(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(kind as i32),
        raw_data: Some(Bytes::from(bytes)),
        ..TensorProto::default()
    }
}

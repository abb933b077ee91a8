//! Building and reading nodes, tensors and typed values of an ONNX graph.

use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

/// A node of the default operator set with no attributes.
pub fn node(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        ..NodeProto::default()
    }
}

/// A node of the default operator set with one output, of the node's own name.
pub fn node_with(
    op_type: &str,
    name: &str,
    inputs: &[&str],
    attributes: &[(&str, Attribute)],
) -> NodeProto {
    let made = node(op_type, name, inputs, &[name]);
    attributes.iter().fold(made, |made, (key, value)| with_attribute(made, key, value.clone()))
}

/// An attribute's value, for the kinds the toolkit writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// One number.
    Float(f32),
    /// One string.
    Text(String),
}

/// Adds an attribute to a node under construction.
pub fn with_attribute(mut node: NodeProto, name: &str, value: Attribute) -> NodeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(i) => {
            attribute.i = Some(i);
            AttributeType::Int
        }
        Attribute::Ints(ints) => {
            attribute.ints = ints;
            AttributeType::Ints
        }
        Attribute::Float(f) => {
            attribute.f = Some(f);
            AttributeType::Float
        }
        Attribute::Text(s) => {
            attribute.s = Some(s.into_bytes());
            AttributeType::String
        }
    };
    attribute.r#type = Some(kind as i32);
    node.attribute.push(attribute);
    node
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// The integer attribute `name`, if the node has it.
pub fn int_attribute(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).and_then(|a| a.i)
}

/// The number attribute `name`, if the node has it.
pub fn float_attribute(node: &NodeProto, name: &str) -> Option<f32> {
    attribute(node, name).and_then(|a| a.f)
}

/// The integer-list attribute `name`, if the node has it.
pub fn ints_attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|a| a.ints.as_slice())
}

/// The tensor attribute `name`, if the node has it.
pub fn tensor_attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a TensorProto> {
    attribute(node, name).and_then(|a| a.t.as_ref())
}

/// An int64 tensor of the given shape.
pub fn tensor_i64(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    tensor(name, dims, DataType::Int64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A float32 tensor of the given shape.
pub fn tensor_f32(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    tensor(name, dims, DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn tensor(name: &str, dims: &[i64], kind: DataType, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(kind as i32),
        raw_data: Some(Bytes::from(bytes)),
        ..TensorProto::default()
    }
}

/// The integers of a small int64 or int32 constant, whichever field holds them.
pub fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    match DataType::try_from(tensor.data_type()).ok()? {
        DataType::Int64 if raw.is_empty() => Some(tensor.int64_data.clone()),
        DataType::Int64 => Some(little_endian(raw, i64::from_le_bytes)),
        DataType::Int32 if raw.is_empty() => {
            Some(tensor.int32_data.iter().map(|v| i64::from(*v)).collect())
        }
        DataType::Int32 => Some(little_endian(raw, |b| i64::from(i32::from_le_bytes(b)))),
        _ => None,
    }
}

/// The numbers of a small float32 constant, whichever field holds them.
pub fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    match DataType::try_from(tensor.data_type()).ok()? {
        DataType::Float if raw.is_empty() => Some(tensor.float_data.clone()),
        DataType::Float => Some(little_endian(raw, f32::from_le_bytes)),
        _ => None,
    }
}

fn little_endian<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// One dimension of a graph input or output: a size or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A size that never changes.
    Fixed(i64),
    /// A size known when the graph runs.
    Named(String),
}

/// A graph input or output of tensor type.
pub fn tensor_value(name: &str, kind: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: Some(match d {
                Dim::Fixed(n) => dimension::Value::DimValue(*n),
                Dim::Named(s) => dimension::Value::DimParam(s.clone()),
            }),
            ..Dimension::default()
        })
        .collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(kind as i32),
                shape: Some(TensorShapeProto { dim }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// An output whose type the runtime infers.
pub fn untyped_value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }
}

/// Element type and dimensions of a graph input or output, if it is a tensor with a shape.
pub fn tensor_type(value: &ValueInfoProto) -> Option<(i32, Vec<Dim>)> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()? else {
        return None;
    };
    let dims = tensor.shape.as_ref()?.dim.iter().map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => Dim::Fixed(*n),
        Some(dimension::Value::DimParam(s)) => Dim::Named(s.clone()),
        None => Dim::Named(String::new()),
    });
    Some((tensor.elem_type(), dims.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_read_back_what_was_written() {
        let t = tensor_i64("t", &[3], &[1, -2, i64::MAX]);
        assert_eq!(integers(&t), Some(vec![1, -2, i64::MAX]));
        assert_eq!(floats(&t), None);
        assert_eq!(floats(&tensor_f32("f", &[2], &[0.5, -3.0])), Some(vec![0.5, -3.0]));
    }

    #[test]
    fn attributes_are_found_by_name_and_kind() {
        let n = with_attribute(node("Softmax", "s", &["x"], &["y"]), "axis", Attribute::Int(-1));
        assert_eq!(int_attribute(&n, "axis"), Some(-1));
        assert_eq!(int_attribute(&n, "other"), None);
    }

    #[test]
    fn tensor_types_keep_fixed_and_named_dimensions() {
        let dims = [Dim::Named("batch".into()), Dim::Fixed(4)];
        let value = tensor_value("x", DataType::Float, &dims);
        assert_eq!(tensor_type(&value), Some((DataType::Float as i32, dims.to_vec())));
        assert_eq!(tensor_type(&untyped_value("y")), None);
    }
}

//! How many dimensions values have, as far as shapes and operators say: whether tokens lie in
//! `[batch, sequence, features]` or one below the other.

use super::{
    node::{int_attribute, ints_attribute, tensor_attribute},
    operators::is_standard,
    proto::{GraphProto, NodeProto, ValueInfoProto, type_proto::Value},
    reader::Reader,
};
use std::collections::HashMap;

/// The number of dimensions of every value of a graph of which it is known.
pub(super) struct Ranks<'a>(HashMap<&'a str, usize>);

impl<'a> Ranks<'a> {
    /// One walk in the order of the nodes.
    pub fn new(graph: &'a GraphProto, reader: &Reader<'a>) -> Self {
        let given = graph.input.iter().chain(&graph.value_info);
        let given = given.filter_map(|value| Some((value.name(), stated(value)?)));
        let stored = graph.initializer.iter().map(|t| (t.name(), t.dims.len()));
        let mut ranks = Self(given.chain(stored).collect());
        for node in &graph.node {
            // Gemm takes matrices alone.
            if is_standard(node, "Gemm") {
                ranks.0.extend(node.input.first().map(|name| (name.as_str(), 2)));
            }
            let Some(rank) = ranks.made(node, reader) else { continue };
            let several = matches!(node.op_type(), "Split" | "DynamicQuantizeLinear");
            let outputs = node.output.iter().take(if several { usize::MAX } else { 1 });
            ranks.0.extend(outputs.map(|name| (name.as_str(), rank)));
        }
        ranks
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, value: &str) -> Option<usize> {
        self.0.get(value).copied()
    }

    fn of(&self, node: &NodeProto, slot: usize) -> Option<usize> {
        self.rank(node.input.get(slot)?)
    }

    /// The dimensions of a node's first output.
    fn made(&self, node: &NodeProto, reader: &Reader<'a>) -> Option<usize> {
        let axes = || match node.input.get(1) {
            Some(axes) => reader.integers(axes).map(|axes| axes.len()),
            None => ints_attribute(node, "axes").map(<[i64]>::len),
        };
        match node.op_type() {
            "Constant" => constant(node),
            "Gemm" | "Flatten" => Some(2),
            "Shape" | "Range" => Some(1),
            "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" | "FusedMatMul" => {
                Some(self.of(node, 0)?.max(self.of(node, 1).unwrap_or(2)))
            }
            op if WIDEST.contains(&op) => {
                let all = (0..node.input.len()).map(|slot| self.of(node, slot));
                all.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
            "Gather" | "GatherBlockQuantized" => {
                (self.of(node, 0)? + self.of(node, 1)?).checked_sub(1)
            }
            "Reshape" => self.sizes(node.input.get(1)?, reader),
            "ConstantOfShape" => self.sizes(node.input.first()?, reader),
            "Expand" => Some(self.of(node, 0)?.max(self.sizes(node.input.get(1)?, reader)?)),
            "Concat" => (0..node.input.len()).find_map(|slot| self.of(node, slot)),
            "Unsqueeze" => Some(self.of(node, 0)? + axes()?),
            "Squeeze" => self.of(node, 0)?.checked_sub(axes()?),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => {
                self.of(node, 0).filter(|_| int_attribute(node, "keepdims") != Some(0))
            }
            // [batch, sequence, features], whatever they are given.
            "GroupQueryAttention" | "MultiHeadAttention" => Some(3),
            op if KEEPS.contains(&op) => self.of(node, 0),
            _ => None,
        }
    }

    /// How many sizes a shape has.
    fn sizes(&self, shape: &str, reader: &Reader<'a>) -> Option<usize> {
        if let Some(sizes) = reader.integers(shape) {
            return Some(sizes.len());
        }
        let made = reader.producer(shape)?;
        let part = |name: &String| match reader.integers(name) {
            Some(sizes) => Some(sizes.len()),
            None => reader.producer(name).filter(|n| is_standard(n, "Unsqueeze")).map(|_| 1),
        };
        match made.op_type() {
            "Shape" if made.attribute.is_empty() => self.of(made, 0),
            "Concat" => made.input.iter().map(part).sum(),
            _ => None,
        }
    }
}

/// Operators whose output has as many dimensions as that of their inputs which has most.
const WIDEST: [&str; 19] = [
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
];

/// Operators whose first output has as many dimensions as their first input.
const KEEPS: [&str; 60] = [
    "Abs",
    "Attention",
    "BiasAdd",
    "BiasGelu",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMulBnb4",
    "MatMulNBits",
    "Mish",
    "MoE",
    "Neg",
    "Not",
    "Pad",
    "QMoE",
    "QuantizeLinear",
    "QuickGelu",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "RotaryEmbedding",
    "Round",
    "ScatterND",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Split",
    "Sqrt",
    "Swish",
    "Tanh",
    "Tile",
    "Transpose",
    "Trilu",
];

/// The dimensions of the value of a Constant.
fn constant(node: &NodeProto) -> Option<usize> {
    let single = ["value_float", "value_int"].iter().any(|key| has_attribute(node, key));
    let list = ["value_floats", "value_ints"].iter().any(|key| has_attribute(node, key));
    match tensor_attribute(node, "value") {
        Some(tensor) => Some(tensor.dims.len()),
        None if single => Some(0),
        None => list.then_some(1),
    }
}

fn has_attribute(node: &NodeProto, key: &str) -> bool {
    node.attribute.iter().any(|attribute| attribute.name() == key)
}

fn stated(value: &ValueInfoProto) -> Option<usize> {
    match value.r#type.as_ref()?.value.as_ref()? {
        Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len()),
        _ => None,
    }
}

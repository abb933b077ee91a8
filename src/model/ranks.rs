//! How many dimensions values have, as far as shapes and operators say: whether tokens lie in
//! `[batch, sequence, features]` or one below the other.

use super::{
    node::{int_attribute, ints_attribute},
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

    /// Whether a value is known to be a matrix.
    pub fn is_matrix(&self, value: &str) -> bool {
        self.0.get(value) == Some(&2)
    }

    fn of(&self, node: &NodeProto, slot: usize) -> Option<usize> {
        self.0.get(node.input.get(slot)?.as_str()).copied()
    }

    /// The dimensions of a node's first output.
    fn made(&self, node: &NodeProto, reader: &Reader<'a>) -> Option<usize> {
        let count = |slot: usize, key| match node.input.get(slot) {
            Some(axes) => reader.integers(axes).map(|axes| axes.len()),
            None => ints_attribute(node, key).map(<[i64]>::len),
        };
        match node.op_type() {
            "Gemm" => Some(2),
            "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" => {
                Some(self.of(node, 0)?.max(self.of(node, 1).unwrap_or(2)))
            }
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Where" => {
                let all = (0..node.input.len()).map(|slot| self.of(node, slot));
                all.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
            "Gather" => {
                let index = node.input.get(1)?;
                let constant = || {
                    let made = reader.producer(index).filter(|n| is_standard(n, "Constant"))?;
                    Some(super::node::tensor_attribute(made, "value")?.dims.len())
                };
                let index = self.0.get(index.as_str()).copied().or_else(constant)?;
                (self.of(node, 0)? + index).checked_sub(1)
            }
            "Reshape" => self.sizes(node.input.get(1)?, reader),
            "Unsqueeze" => Some(self.of(node, 0)? + count(1, "axes")?),
            "Squeeze" => self.of(node, 0)?.checked_sub(count(1, "axes")?),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => {
                self.of(node, 0).filter(|_| int_attribute(node, "keepdims") != Some(0))
            }
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

/// Operators whose first output has as many dimensions as their first input.
const KEEPS: [&str; 36] = [
    "BiasGelu",
    "Cast",
    "Clip",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Gelu",
    "GroupQueryAttention",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "MatMulNBits",
    "MultiHeadAttention",
    "Neg",
    "QuantizeLinear",
    "QuickGelu",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "ScatterND",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Swish",
    "Tanh",
    "Transpose",
];

fn stated(value: &ValueInfoProto) -> Option<usize> {
    match value.r#type.as_ref()?.value.as_ref()? {
        Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len()),
        _ => None,
    }
}

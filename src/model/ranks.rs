//! How many dimensions values have, as far as the inputs of the graph and its operators say: whether
//! tokens lie in `[batch, sequence, features]` or one below the other. What exporters note of the
//! values between is not believed: some of it is wrong, and no runtime goes by it.

use super::{
    node::{int_attribute, ints_attribute, tensor_attribute},
    operators::is_standard,
    proto::{GraphProto, NodeProto, ValueInfoProto, type_proto::Value},
    reader::Reader,
};
use std::collections::{HashMap, HashSet};

/// The number of dimensions of every value of a graph of which it is known.
pub(super) struct Ranks<'a> {
    ranks: HashMap<&'a str, usize>,
    /// How many numbers the values have that are shapes or parts of one.
    lengths: HashMap<&'a str, usize>,
    /// Values that nodes gave a first dimension of 1, whatever the rows of the batch.
    single: HashSet<&'a str>,
}

impl<'a> Ranks<'a> {
    /// One walk in the order of the nodes.
    pub fn new(graph: &'a GraphProto, reader: &Reader<'a>) -> Self {
        let given = graph.input.iter().filter_map(|value| Some((value.name(), stated(value)?)));
        let stored = graph.initializer.iter().map(|t| (t.name(), t.dims.len()));
        let ranks = given.chain(stored).collect();
        let mut ranks = Self { ranks, lengths: HashMap::new(), single: HashSet::new() };
        for node in &graph.node {
            // Gemm takes matrices alone.
            if is_standard(node, "Gemm") {
                ranks.ranks.extend(node.input.first().map(|name| (name.as_str(), 2)));
            }
            if let (Some(output), Some(length)) = (node.output.first(), ranks.length(node, reader))
            {
                ranks.lengths.insert(output, length);
            }
            let Some(rank) = ranks.made(node, reader) else { continue };
            if node.op_type() == "DynamicQuantizeLinear" {
                // One scale and one zero point for all.
                ranks.ranks.extend(node.output.iter().skip(1).map(|name| (name.as_str(), 0)));
            }
            if ranks.makes_one(node, reader, rank) {
                ranks.single.extend(node.output.first().map(String::as_str));
            }
            let is_alike = |place: usize| match node.op_type() {
                "Split" => true,
                // The last is the sum that is normalised; between them lie mean and deviation.
                "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
                    matches!(place, 0 | 3)
                }
                _ => place == 0,
            };
            let outputs = node.output.iter().enumerate().filter(|(place, _)| is_alike(*place));
            ranks.ranks.extend(outputs.map(|(_, name)| (name.as_str(), rank)));
        }
        ranks
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, value: &str) -> Option<usize> {
        self.ranks.get(value).copied()
    }

    /// Whether the first dimension of a value is 1 because a node made it so: its tokens lie one
    /// below the other, and the rows of the batch are in none of its dimensions.
    pub fn leads_with_one(&self, value: &str) -> bool {
        self.single.contains(value)
    }

    /// Whether a node's first output, of so many dimensions, leads with one of size 1.
    fn makes_one(&self, node: &NodeProto, reader: &Reader<'a>, rank: usize) -> bool {
        let leads =
            |slot: usize| node.input.get(slot).is_some_and(|name| self.leads_with_one(name));
        let constant = || reader.integers(node.input.get(1)?);
        match node.op_type() {
            "Reshape" => constant().is_some_and(|sizes| sizes.first() == Some(&1)),
            "Unsqueeze" => match constant() {
                Some(axes) => axes.contains(&0),
                None => ints_attribute(node, "axes").is_some_and(|axes| axes.contains(&0)),
            },
            "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" | "FusedMatMul" => {
                leads(0) && self.of(node, 1).is_some_and(|right| right <= 2)
            }
            op if WIDEST.contains(&op) => {
                let widest = |slot: &usize| self.of(node, *slot) == Some(rank);
                (0..node.input.len()).filter(widest).all(leads)
            }
            "Pad" | "Tile" | "Transpose" | "Split" => false,
            op if KEEPS.contains(&op) => leads(0),
            _ => false,
        }
    }

    fn of(&self, node: &NodeProto, slot: usize) -> Option<usize> {
        self.rank(node.input.get(slot)?)
    }

    /// The dimensions of a node's first output.
    fn made(&self, node: &NodeProto, reader: &Reader<'a>) -> Option<usize> {
        // What a function of the model makes, whatever its name, its own nodes say.
        if !matches!(node.domain(), "" | "ai.onnx" | "com.microsoft") {
            return None;
        }
        let axes = || match node.input.get(1) {
            Some(axes) => reader.integers(axes).map(|axes| axes.len()),
            None => ints_attribute(node, "axes").map(<[i64]>::len),
        };
        match node.op_type() {
            "Constant" => constant(node),
            "Gemm" | "Flatten" => Some(2),
            "Shape" | "Range" => Some(1),
            "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" | "FusedMatMul" => {
                product(self.of(node, 0)?, self.of(node, 1)?)
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
            // Without axes it takes away those of size 1.
            "Squeeze" => match axes() {
                Some(axes) => self.of(node, 0)?.checked_sub(axes),
                None => {
                    let single =
                        self.of(node, 0)? == 1 && self.sizes(node.input.first()?, reader)? == 1;
                    (single && node.input.len() == 1).then_some(0)
                }
            },
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
        let constant = reader.integers(shape).map(|sizes| sizes.len());
        constant.or_else(|| self.lengths.get(shape).copied())
    }

    /// How many sizes a node's first output has, if that is a shape or a part of one.
    fn length(&self, node: &NodeProto, reader: &Reader<'a>) -> Option<usize> {
        let first = || self.sizes(node.input.first()?, reader);
        match node.op_type() {
            _ if !matches!(node.domain(), "" | "ai.onnx") => None,
            "Shape" => {
                let all = self.of(node, 0)? as i64;
                let place = |key, default| {
                    let place = int_attribute(node, key).unwrap_or(default);
                    if place < 0 { place.saturating_add(all) } else { place }.clamp(0, all)
                };
                usize::try_from(place("end", all) - place("start", 0)).ok()
            }
            "Concat" => node.input.iter().map(|part| self.sizes(part, reader)).sum(),
            "Cast" | "Identity" => first(),
            // Of a single number.
            "Unsqueeze" => Some(1),
            "Reshape" => match reader.integers(node.input.get(1)?)?[..] {
                [-1] => match self.of(node, 0)? {
                    0 => Some(1),
                    1 => first(),
                    _ => None,
                },
                [length] => usize::try_from(length).ok().filter(|&length| length > 0),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The dimensions of a product: a vector lends it the one that is summed over, and no other.
fn product(left: usize, right: usize) -> Option<usize> {
    match (left, right) {
        (0, _) | (_, 0) => None,
        (1, other) | (other, 1) => Some(other - 1),
        (left, right) => Some(left.max(right)),
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

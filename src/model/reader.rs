//! Reading a graph by names: who makes a value, who reads it, and where a weight comes from.

use super::{
    dtypes::{self, ElementType},
    integers,
    node::{self, int_attribute, ints_attribute, tensor_attribute},
    operators::{is_microsoft, is_standard},
    proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
    quantised::{Quantisation, bits_of},
};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Where an operand comes from, Identity, Transpose and exact casts followed.
pub(super) enum Source<'a> {
    Stored(StoredWeight<'a>),
    /// An initializer seen only through operators that are not followed.
    Computed {
        op: &'a str,
    },
    Activation,
}

/// A stored matrix as an operand.
pub(super) struct StoredWeight<'a> {
    pub tensor: &'a TensorProto,
    /// Whether Transposes on the way turn it.
    pub transposed: bool,
    /// Whether nothing else reads it.
    pub alone: bool,
    pub quantisation: Option<Quantisation>,
    /// The type in which it is multiplied.
    pub computed_in: ElementType,
}

pub(super) struct Reader<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    readers: HashMap<&'a str, Vec<&'a NodeProto>>,
    uses: HashMap<&'a str, usize>,
    embeddings: HashSet<&'a str>,
}

impl<'a> Reader<'a> {
    pub fn new(graph: &'a GraphProto) -> Self {
        let mut uses = HashMap::new();
        count_uses(graph, &mut uses);
        let producers =
            graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
        let mut readers = HashMap::<&str, Vec<&NodeProto>>::new();
        for node in &graph.node {
            node.input.iter().for_each(|name| readers.entry(name).or_default().push(node));
        }
        let tensors = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let gathers = graph.node.iter().filter(|n| is_standard(n, "Gather"));
        let tables = gathers.filter_map(|n| n.input.first().map(String::as_str));
        let embeddings = HashSet::new();
        let mut reader = Self { tensors, producers, readers, uses, embeddings };
        reader.embeddings = tables
            .filter_map(|name| match reader.source(name) {
                Source::Stored(stored) => Some(stored.tensor.name()),
                _ => None,
            })
            .collect();
        reader
    }

    /// The nodes of the main graph that read a value, in its order.
    pub fn readers(&self, value: &str) -> &[&'a NodeProto] {
        self.readers.get(value).map(Vec::as_slice).unwrap_or_default()
    }

    /// The node of the main graph that makes a value.
    pub fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        self.producers.get(value).copied()
    }

    /// Whether a Gather looks up rows of this initializer.
    pub fn is_embedding(&self, initializer: &str) -> bool {
        self.embeddings.contains(initializer)
    }

    /// The initializer of this name.
    pub fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.tensors.get(name).copied()
    }

    /// The integers of a constant.
    pub fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let constant = || {
            let node = self.producers.get(name).filter(|node| is_standard(node, "Constant"))?;
            tensor_attribute(node, "value")
        };
        node::integers(self.tensor(name).or_else(constant)?)
    }

    /// Where the weight of a linear node comes from, and in which of its inputs it is.
    pub fn weight(&self, node: &'a NodeProto) -> Option<(usize, Source<'a>)> {
        if is_microsoft(node, "MatMulNBits") {
            return Some((1, self.blocks(node).map_or(Source::Activation, Source::Stored)));
        }
        if is_standard(node, "MatMulInteger") || is_microsoft(node, "DynamicQuantizeMatMul") {
            let stored = integers::weight(self, node);
            return Some((1, stored.map_or(Source::Activation, Source::Stored)));
        }
        let sources = node.input.iter().map(|name| self.source(name));
        sources.enumerate().find(|(_, source)| !matches!(source, Source::Activation))
    }

    /// How often a value is read, in branches too.
    pub fn uses(&self, name: &str) -> usize {
        self.uses.get(name).copied().unwrap_or(0)
    }

    pub fn alone(&self, name: &str) -> bool {
        self.uses.get(name).is_none_or(|&n| n == 1)
    }

    pub fn source(&self, operand: &'a str) -> Source<'a> {
        let (mut name, mut transposed, mut alone) = (operand, false, true);
        let mut widened = None;
        let mut visited = BTreeSet::new();
        loop {
            alone &= self.alone(name);
            if let Some(tensor) = self.tensor(name) {
                let computed_in = widened.unwrap_or_else(|| ElementType::of(tensor));
                let quantisation = None;
                let stored = StoredWeight { tensor, transposed, alone, quantisation, computed_in };
                return Source::Stored(stored);
            }
            let Some(&node) = self.producers.get(name) else { return Source::Activation };
            // A cycle is not a model, but it must not hang us either.
            if !visited.insert(name) {
                return Source::Activation;
            }
            let Some(from) = node.input.first() else {
                return match node.op_type() {
                    "Constant" => Source::Computed { op: "Constant" },
                    _ => Source::Activation,
                };
            };
            if is_standard(node, "Transpose") && swaps(node) {
                transposed = !transposed;
            } else if let Some(to) = self.widening(node) {
                widened = widened.or(Some(to));
            } else if is_standard(node, "DequantizeLinear")
                && let Some(stored) = self.dequantised(node)
            {
                let alone = alone && stored.alone;
                return Source::Stored(StoredWeight { transposed, alone, ..stored });
            } else if !is_standard(node, "Identity") {
                let known = |i: &String| i.is_empty() || self.tensors.contains_key(i.as_str());
                let computed = node.op_type() != "Gather"
                    && self.tensors.contains_key(from.as_str())
                    && node.input.iter().all(known);
                return match computed {
                    true => Source::Computed { op: node.op_type() },
                    false => Source::Activation,
                };
            }
            name = from;
        }
    }

    /// The type a Cast of a stored tensor widens it to, which changes no value.
    fn widening(&self, node: &NodeProto) -> Option<ElementType> {
        let to = ElementType::from_number(int_attribute(node, "to")? as i32);
        let from = ElementType::of(self.tensor(node.input.first()?)?);
        let exact = from == to
            || (matches!(from, ElementType::F16 | ElementType::Bf16) && to == ElementType::F32);
        (is_standard(node, "Cast") && exact).then_some(to)
    }

    fn blocks(&self, node: &'a NodeProto) -> Option<StoredWeight<'a>> {
        let number = |name| usize::try_from(int_attribute(node, name)?).ok();
        let bits = number("bits").unwrap_or(4);
        let (columns, rows, block) = (number("K")?, number("N")?, number("block_size")?);
        let given = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
        let tensor = self.tensor(given(1)?)?;
        let scales = self.tensor(given(2)?)?;
        let known = matches!(bits, 4 | 8) && block >= 16 && block.is_power_of_two();
        // A fourth constant permutes the columns.
        if !known || given(4).is_some() || tensor.data_type() != DataType::Uint8 as i32 {
            return None;
        }
        let zero_points = match given(3) {
            Some(name) => Some(self.tensor(name)?.name().to_owned()),
            None => None,
        };
        Some(StoredWeight {
            tensor,
            transposed: true,
            alone: self.alone(tensor.name()),
            computed_in: ElementType::of(scales),
            quantisation: Some(Quantisation::Blocks {
                bits,
                block,
                shape: [rows, columns],
                scales: scales.name().into(),
                zero_points,
            }),
        })
    }

    fn dequantised(&self, node: &'a NodeProto) -> Option<StoredWeight<'a>> {
        let given = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
        let (tensor, scale) = (self.tensor(given(0)?)?, self.tensor(given(1)?)?);
        bits_of(ElementType::of(tensor))?;
        let zero_point = match given(2) {
            Some(name) => Some(self.tensor(name)?.name().to_owned()),
            None => None,
        };
        let axis = match int_attribute(node, "axis").unwrap_or(1) {
            0 | -2 => 0,
            1 | -1 => 1,
            _ => return None,
        };
        let block = usize::try_from(int_attribute(node, "block_size").unwrap_or(0)).ok()?;
        let scale_name = scale.name().to_owned();
        Some(StoredWeight {
            tensor,
            transposed: false,
            alone: self.alone(tensor.name()),
            computed_in: ElementType::of(scale),
            quantisation: Some(Quantisation::Linear { scale: scale_name, zero_point, axis, block }),
        })
    }
}

impl StoredWeight<'_> {
    /// Rows and columns as stored.
    pub fn shape(&self) -> Option<[usize; 2]> {
        if let Some(Quantisation::Blocks { shape, .. }) = &self.quantisation {
            return Some(*shape);
        }
        match dtypes::shape_of(self.tensor).ok()?[..] {
            [first, second] => Some([first, second]),
            _ => None,
        }
    }
}

/// Whether a two-dimensional Transpose swaps its sizes.
pub(super) fn swaps(node: &NodeProto) -> bool {
    ints_attribute(node, "perm").is_none_or(|perm| perm == [1, 0])
}

/// How often each name is read: by nodes, by nodes of nested graphs, and as an output.
pub(super) fn count_uses<'a>(graph: &'a GraphProto, uses: &mut HashMap<&'a str, usize>) {
    for output in &graph.output {
        *uses.entry(output.name()).or_default() += 1;
    }
    for node in &graph.node {
        for input in &node.input {
            *uses.entry(input).or_default() += 1;
        }
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|g| count_uses(g, uses));
        }
    }
}
